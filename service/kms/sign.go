package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// Sign signs a message of 1 to 4096 bytes, or a digest of a longer one. No signature
// leaves that does not verify. (AWS KMS API Reference, Sign.)
//
// Errors in the order in which they are found: ValidationException,
// InvalidGrantToken, AccessDenied and NotFound, Disabled and KMSInvalidState,
// InvalidKeyUsage (the key's usage, then the algorithm), ValidationException (the
// message's type, then a digest's length), DryRunOperation.
func (s *Service) Sign(c *access.Call, in *kmsapi.SignRequest, out *kmsapi.SignResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, a, err := s.signing(c, &in.KeyId, in.SigningAlgorithm, in.MessageType, in.Message)
	if err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	by, err := s.signer(c, k)
	if err != nil {
		return err
	}
	out.Signature, err = a.sign(by, a.input(c.Bytes(a.hash.Size())[:0], in.MessageType, in.Message))
	if err != nil {
		return s.damagedMaterial(k, err)
	}
	out.KeyId, out.SigningAlgorithm = k.ARN(), in.SigningAlgorithm
	return nil
}

// Verify says that a signature is one of the message; any other one is
// KMSInvalidSignature. (AWS KMS API Reference, Verify.) Errors are those of Sign, with
// KMSInvalidSignature before DryRunOperation.
func (s *Service) Verify(c *access.Call, in *kmsapi.VerifyRequest, out *kmsapi.VerifyResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, a, err := s.signing(c, &in.KeyId, in.SigningAlgorithm, in.MessageType, in.Message)
	if err != nil {
		return err
	}
	by, err := s.signer(c, k)
	if err != nil {
		return err
	}
	if !a.valid(by.public, a.input(c.Bytes(a.hash.Size())[:0], in.MessageType, in.Message), in.Signature) {
		return errInvalidSignature
	}
	if in.DryRun {
		return errDryRun
	}
	out.KeyId, out.SigningAlgorithm, out.SignatureValid = k.ARN(), in.SigningAlgorithm, true
	return nil
}

var errInvalidSignature = &api.Error{Kind: api.KindInvalidSignature, Message: "the signature is not one of the message under this key and algorithm"}

// GetPublicKey returns the public half of an asymmetric key, with which anybody can
// verify, encrypt or agree outside. (AWS KMS API Reference, GetPublicKey.)
//
// Errors in the order in which they are found: InvalidGrantToken, AccessDenied and
// NotFound, Disabled and KMSInvalidState, UnsupportedOperation (it is no asymmetric key).
func (s *Service) GetPublicKey(c *access.Call, in *kmsapi.GetPublicKeyRequest, out *kmsapi.GetPublicKeyResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.admitted(c, c.Op(), &in.KeyId)
	if err != nil {
		return err
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if !k.asymmetric() {
		return api.Errorf(api.KindUnsupportedOperation, "%s has KeySpec %s: only an asymmetric key has a public key", k.arn, k.row.Spec)
	}
	as, err := s.expand(c, k)
	if err != nil {
		return err
	}
	can := k.offers()
	*out = kmsapi.GetPublicKeyResponse{
		KeyId: k.ARN(), PublicKey: as.(asymmetric).publicKey(), CustomerMasterKeySpec: k.row.Spec, KeySpec: k.row.Spec, KeyUsage: k.row.Usage,
		EncryptionAlgorithms: can.encryption, SigningAlgorithms: can.signing, KeyAgreementAlgorithms: can.agreement, EncapsulationAlgorithms: can.kem,
	}
	return nil
}

// signing returns the key that ref names, admitted and able to sign and verify such
// a message now, and the scheme to do it with.
func (s *Service) signing(c *access.Call, ref *api.KeyRef, name kmsapi.SigningAlgorithm, t kmsapi.MessageType, message []byte) (*key, *scheme, error) {
	k, err := s.admitted(c, c.Op(), ref)
	if err != nil {
		return nil, nil, err
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return nil, nil, err
	}
	if err := k.serves(c.Op(), kmsapi.UsageSignVerify); err != nil {
		return nil, nil, err
	}
	if err := offered(k, k.offers().signing, name); err != nil {
		return nil, nil, err
	}
	a := schemeOf(name, t)
	return k, a, a.accepts(k.row.Spec, name, t, message)
}

// signer returns the expanded key of one that signs.
func (s *Service) signer(c *access.Call, k *key) (*signer, error) {
	as, err := s.expand(c, k)
	if err != nil {
		return nil, err
	}
	return as.(*signer), nil
}

// prove uses a key that was read back, where it is asymmetric: material that gives its
// own id may have been no key before it was stored (FIPS 140-3 IG 10.3.A).
func (s *Service) prove(c *access.Call, k *key) error {
	if !k.asymmetric() {
		return nil
	}
	as, err := s.expand(c, k)
	if err != nil {
		return err
	}
	if err := as.(asymmetric).prove(k.offers()); err != nil {
		return s.damagedMaterial(k, err)
	}
	return nil
}
