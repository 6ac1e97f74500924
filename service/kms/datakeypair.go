package kms

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/securemem"
)

// pairSpecs is the table of data key pairs: the spec of which each is. There is none of SM2.
var pairSpecs = [...]kmsapi.KeySpec{
	kmsapi.PairRSA2048:             kmsapi.KeySpecRSA2048,
	kmsapi.PairRSA3072:             kmsapi.KeySpecRSA3072,
	kmsapi.PairRSA4096:             kmsapi.KeySpecRSA4096,
	kmsapi.PairECCNISTP256:         kmsapi.KeySpecECCNISTP256,
	kmsapi.PairECCNISTP384:         kmsapi.KeySpecECCNISTP384,
	kmsapi.PairECCNISTP521:         kmsapi.KeySpecECCNISTP521,
	kmsapi.PairECCSECGP256K1:       kmsapi.KeySpecECCSECGP256K1,
	kmsapi.PairECCNISTEdwards25519: kmsapi.KeySpecECCNISTEdwards25519,
	kmsapi.PairMLKEM512:            kmsapi.KeySpecMLKEM512,
	kmsapi.PairMLKEM768:            kmsapi.KeySpecMLKEM768,
	kmsapi.PairMLKEM1024:           kmsapi.KeySpecMLKEM1024,
}

// GenerateDataKeyPair returns a new asymmetric key pair: the public half as DER
// SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7), the private one as DER PKCS #8 (RFC
// 5208; of ML-KEM in its seed form, RFC 9935), in clear and as Encrypt would answer it.
// (AWS KMS API Reference, GenerateDataKeyPair.)
//
// Errors in the order in which they are found: ValidationException, InvalidGrantToken,
// UnsupportedOperation (Recipient), AccessDenied and NotFound, Disabled and
// KMSInvalidState, InvalidKeyUsage, UnsupportedOperation (a pair of SM2), DryRunOperation.
func (s *Service) GenerateDataKeyPair(c *access.Call, in *kmsapi.GenerateDataKeyPairRequest, out *kmsapi.GenerateDataKeyPairResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	k, p, err := s.dataKeyPair(c, &in.KeyId, in.KeyPairSpec, in.EncryptionContext, in.DryRun)
	if err != nil {
		return err
	}
	out.PublicKey, out.PrivateKeyPlaintext, out.PrivateKeyCiphertextBlob = p.public, p.private, p.blob
	out.KeyId, out.KeyPairSpec, out.KeyMaterialId = k.ARN(), in.KeyPairSpec, k.current.idText
	return nil
}

// GenerateDataKeyPairWithoutPlaintext is GenerateDataKeyPair for a caller who will need
// the private half only later: it leaves the appliance encrypted. (AWS KMS API Reference,
// GenerateDataKeyPairWithoutPlaintext.) Errors are those of GenerateDataKeyPair.
func (s *Service) GenerateDataKeyPairWithoutPlaintext(c *access.Call, in *kmsapi.GenerateDataKeyPairWithoutPlaintextRequest, out *kmsapi.GenerateDataKeyPairWithoutPlaintextResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, p, err := s.dataKeyPair(c, &in.KeyId, in.KeyPairSpec, in.EncryptionContext, in.DryRun)
	if err != nil {
		return err
	}
	clear(p.private)
	out.PublicKey, out.PrivateKeyCiphertextBlob = p.public, p.blob
	out.KeyId, out.KeyPairSpec, out.KeyMaterialId = k.ARN(), in.KeyPairSpec, k.current.idText
	return nil
}

// dataPair is a data key pair, in the call's own memory but for the public half.
type dataPair struct {
	public  []byte // DER SubjectPublicKeyInfo
	private []byte // DER PKCS #8
	blob    []byte // what Encrypt answers for private
}

// dataKeyPair returns the key that ref names, admitted and usable, and a new pair whose
// private half is encrypted under it. A dry run ends before one is made.
func (s *Service) dataKeyPair(c *access.Call, ref *api.KeyRef, kind kmsapi.DataKeyPairSpec, context api.EncryptionContext, dryRun bool) (*key, *dataPair, error) {
	k, err := s.wrapping(c, ref, false)
	if err != nil {
		return nil, nil, err
	}
	spec := pairSpecs[kind]
	switch {
	case spec == 0:
		return nil, nil, api.Errorf(api.KindUnsupportedOperation, "KeyPairSpec %s is not supported by this appliance", kind)
	case dryRun:
		return nil, nil, errDryRun
	}
	if err := c.Need(specs[spec].waits); err != nil {
		return nil, nil, err
	}
	p, err := s.newDataPair(c, spec)
	if err != nil {
		return nil, nil, err
	}
	p.blob, err = s.seal(c, k, p.private, context)
	return k, p, err
}

// errBentPair is the cause when a new pair is not what was drawn.
var errBentPair = errors.New("a new key pair does not read back as it was drawn")

// newDataPair draws a pair. What leaves is read back first, by the parser for keys from
// elsewhere, and must be the secret that was drawn; that secret is tried with the public
// half that leaves (FIPS 140-3 IG 10.3.A).
func (s *Service) newDataPair(c *access.Call, spec kmsapi.KeySpec) (*dataPair, error) {
	secret, err := s.drawSecret(spec)
	if err != nil {
		return nil, err
	}
	defer secret.Free()
	p := &dataPair{private: c.Bytes(api.MaxPlaintext)[:0]}
	var as any
	securemem.Do(func() {
		if as, err = specs[spec].expand(secret.Bytes()); err == nil {
			p.private, err = appendPKCS8(p.private, spec, as, secret.Bytes())
		}
	})
	if err != nil {
		return nil, api.Internal(fmt.Errorf("data key pair of %s: %w", spec, err))
	}
	p.public = as.(asymmetric).publicKey()
	if err := readsBack(p, spec, secret.Bytes()); err != nil {
		return nil, api.Internal(fmt.Errorf("data key pair of %s: %w", spec, err))
	}
	if err := as.(asymmetric).prove(specs[spec].offers.asPair()); err != nil {
		return nil, api.Internal(fmt.Errorf("data key pair of %s: %w", spec, err))
	}
	return p, nil
}

// asPair returns what the secret of a spec is tried at that was expanded for no key's usage.
func (o offers) asPair() algorithms {
	if can := o[kmsapi.UsageSignVerify]; !can.none() {
		return can
	}
	return o[kmsapi.UsageEncapsulateDecapsulate]
}

// appendPKCS8 appends the DER of a private key, at most 2,376 bytes, to dst, which has room
// for it. Call it in securemem.Do.
func appendPKCS8(dst []byte, spec kmsapi.KeySpec, as any, secret []byte) ([]byte, error) {
	by, ok := as.(*signer)
	if !ok {
		return pq.AppendPKCS8(dst, pqSet(spec), secret)
	}
	if k, ok := by.private.(*secp256k1.PrivateKey); ok {
		return k.AppendPKCS8(dst), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(by.private)
	dst = append(dst, der...)
	securemem.Wipe(der)
	return dst, err
}

// readsBack checks that the private half of a pair is one of spec with this secret.
func readsBack(p *dataPair, spec kmsapi.KeySpec, secret []byte) error {
	got, err := pkcs8.Parse(p.private)
	if err != nil {
		return fmt.Errorf("%w: %w", errBentPair, err)
	}
	defer securemem.Wipe(got.Secret)
	if got.Spec != spec.String() || subtle.ConstantTimeCompare(got.Secret, secret) != 1 {
		return errBentPair
	}
	return nil
}
