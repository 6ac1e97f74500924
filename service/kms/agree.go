package kms

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
)

// DeriveSharedSecret computes the secret that a key shares with the owner of another one
// on the same curve: the x coordinate of the ECDH primitive (SP 800-56A Rev. 3, section
// 5.7.1.2; the cofactor is 1), big-endian, 32, 48 or 66 bytes. It is no key yet: who uses
// it derives one from it. (AWS KMS API Reference, DeriveSharedSecret.)
//
// Errors in the order in which they are found: ValidationException, InvalidGrantToken,
// UnsupportedOperation (Recipient), AccessDenied and NotFound, Disabled and
// KMSInvalidState, InvalidKeyUsage (the key's usage, then the algorithm),
// ValidationException (the other's public key), DryRunOperation.
func (s *Service) DeriveSharedSecret(c *access.Call, in *kmsapi.DeriveSharedSecretRequest, out *kmsapi.DeriveSharedSecretResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	k, err := s.agreeing(c, &in.KeyId, in.KeyAgreementAlgorithm)
	if err != nil {
		return err
	}
	as, err := s.expand(c, k)
	if err != nil {
		return err
	}
	own := as.(*agreement)
	peer, err := parsePeer(own.first.Curve(), in.PublicKey)
	if err != nil {
		return api.Errorf(api.KindValidation, "PublicKey is no public key that %s can agree with: %v.", k.arn, err)
	}
	if in.DryRun {
		return errDryRun
	}
	out.SharedSecret, err = own.derive(c.Bytes(specs[k.row.Spec].secret)[:0], peer)
	if err != nil {
		return s.damagedMaterial(k, err)
	}
	digest := sha256.Sum256(in.PublicKey)
	out.PeerKeyDigest = append(c.Bytes(len(digest))[:0], digest[:]...)
	out.KeyId, out.KeyAgreementAlgorithm, out.KeyOrigin = k.ARN(), in.KeyAgreementAlgorithm, k.row.Origin
	return nil
}

// agreeing returns the key that ref names, admitted and able to agree with a now.
func (s *Service) agreeing(c *access.Call, ref *api.KeyRef, a kmsapi.KeyAgreementAlgorithm) (*key, error) {
	k, err := s.admitted(c, c.Op(), ref)
	if err != nil {
		return nil, err
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return nil, err
	}
	if err := k.serves(c.Op(), kmsapi.UsageKeyAgreement); err != nil {
		return nil, err
	}
	return k, offered(k, k.offers().agreement, a)
}

// agreement is what the secret of a key that agrees is expanded to: the private key twice
// in memory.
type agreement struct {
	first, second *ecdh.PrivateKey
	public        *ecdsa.PublicKey
	spki          []byte
}

// newAgreement turns a key that signs into one that agrees.
func newAgreement(s *signer) (any, error) {
	k := s.private.(*ecdsa.PrivateKey)
	first, err := k.ECDH()
	if err != nil {
		return nil, err
	}
	second, err := k.ECDH()
	return &agreement{first, second, s.public.(*ecdsa.PublicKey), s.spki}, err
}

func (p *agreement) publicKey() []byte { return p.spki }

// parsePeer reads a DER SubjectPublicKeyInfo (RFC 5480) of a curve. Its point is on that
// curve and not at infinity (SP 800-56A Rev. 3, section 5.6.2.3.3; the cofactor is 1, so
// that nothing more is to check). Each key has one encoding, with the curve's name and
// an uncompressed point; others are refused.
func parsePeer(curve ecdh.Curve, spki []byte) (*ecdh.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, errors.New("it is not the DER of a SubjectPublicKeyInfo with a named curve and a point on it, uncompressed")
	}
	k, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("it is not on a curve of NIST")
	}
	peer, err := k.ECDH()
	if err != nil || peer.Curve() != curve {
		return nil, errors.New("it is on another curve")
	}
	if again, err := x509.MarshalPKIXPublicKey(k); err != nil || !bytes.Equal(again, spki) {
		return nil, errors.New("its encoding is not the one that DER has for it")
	}
	return peer, nil
}

// derive appends the shared secret to dst, which has room for it. It is computed twice,
// from two copies of the private key: a bit that flips in one must not make a secret that
// the other side does not have, or one that betrays the key.
func (p *agreement) derive(dst []byte, peer *ecdh.PublicKey) (secret []byte, err error) {
	securemem.Do(func() {
		var first, second []byte
		if first, err = p.first.ECDH(peer); err != nil {
			return
		}
		if second, err = p.second.ECDH(peer); err != nil {
			return
		}
		if subtle.ConstantTimeCompare(first, second) == 1 {
			secret = append(dst, first...)
		}
		clear(first)
		clear(second)
	})
	if err == nil && secret == nil {
		err = errFalsePair
	}
	return secret, err
}

// prove agrees with a new key from both sides.
func (p *agreement) prove(algorithms) error {
	other, err := p.first.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	ours, err := p.derive(nil, other.PublicKey())
	if err != nil {
		return err
	}
	public, err := p.public.ECDH()
	if err != nil {
		return err
	}
	var theirs []byte
	securemem.Do(func() { theirs, err = other.ECDH(public) })
	if err != nil || subtle.ConstantTimeCompare(ours, theirs) != 1 {
		return errFalsePair
	}
	return nil
}
