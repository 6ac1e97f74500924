package kms

import (
	"crypto/subtle"
	"errors"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Encapsulate returns a fresh shared secret of 32 bytes and the ciphertext that holds
// it. None leaves that the private key does not find in its ciphertext. (AWS KMS API
// Reference, Encapsulate.)
//
// Errors in the order in which they are found: ValidationException,
// InvalidGrantToken, AccessDenied and NotFound, Disabled and KMSInvalidState,
// InvalidKeyUsage (the key's usage, then the algorithm), DryRunOperation.
func (s *Service) Encapsulate(c *access.Call, in *kmsapi.EncapsulateRequest, out *kmsapi.EncapsulateResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.encapsulating(c, &in.KeyId, in.EncapsulationAlgorithm)
	if err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	as, err := s.expand(c, k)
	if err != nil {
		return err
	}
	secret, ciphertext, err := as.(*kem).encapsulate()
	if err != nil {
		return s.damagedMaterial(k, err)
	}
	out.SharedSecret, out.SharedSecretCiphertextBlob = moved(c, secret), ciphertext
	out.KeyId, out.EncapsulationAlgorithm = k.ARN(), in.EncapsulationAlgorithm
	return nil
}

// Decapsulate returns the shared secret of 32 bytes that Encapsulate, or anybody with the
// public key, put into a ciphertext. Another ciphertext of the right length gives a
// secret that nobody else has, always the same one (implicit rejection, FIPS 203).
// (AWS KMS API Reference, Decapsulate.) Errors are those of Encapsulate, with
// InvalidCiphertext (the length alone) before DryRunOperation.
func (s *Service) Decapsulate(c *access.Call, in *kmsapi.DecapsulateRequest, out *kmsapi.DecapsulateResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.encapsulating(c, &in.KeyId, in.EncapsulationAlgorithm)
	if err != nil {
		return err
	}
	if have, want := len(in.SharedSecretCiphertextBlob), pqSet(k.row.Spec).OutputSize(); have != want {
		return api.Errorf(api.KindInvalidCiphertext, "the ciphertext has %d bytes; under a key of %s it has %d", have, k.row.Spec, want)
	}
	if in.DryRun {
		return errDryRun
	}
	as, err := s.expand(c, k)
	if err != nil {
		return err
	}
	secret, err := as.(*kem).decapsulate(in.SharedSecretCiphertextBlob)
	if err != nil {
		return s.damagedMaterial(k, err)
	}
	out.SharedSecret = moved(c, secret)
	out.KeyId, out.EncapsulationAlgorithm = k.ARN(), in.EncapsulationAlgorithm
	return nil
}

// encapsulating returns the key that ref names, admitted and able to encapsulate now.
func (s *Service) encapsulating(c *access.Call, ref *api.KeyRef, a kmsapi.EncapsulationAlgorithm) (*key, error) {
	k, err := s.admitted(c, c.Op(), ref)
	if err != nil {
		return nil, err
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return nil, err
	}
	if err := k.serves(c.Op(), kmsapi.UsageEncapsulateDecapsulate); err != nil {
		return nil, err
	}
	return k, offered(k, k.offers().kem, a)
}

// moved moves a secret into the call's own memory, which is wiped with it.
func moved(c *access.Call, secret []byte) []byte {
	b := c.Bytes(len(secret))
	copy(b, secret)
	clear(secret)
	return b
}

// pqSet returns the parameter set of a spec of ML-DSA or ML-KEM: they stand in the same
// order.
func pqSet(s kmsapi.KeySpec) pq.Set { return pq.MLDSA44 + pq.Set(s-kmsapi.KeySpecMLDSA44) }

// kem is what the secret of a key of ML-KEM is expanded to. A damaged private key
// decapsulates to a wrong secret without an error, so there are two that must agree.
type kem struct {
	private [2]*pq.DecapsulationKey
	public  *pq.EncapsulationKey // in memory of its own
	spki    []byte
}

func (k *kem) publicKey() []byte { return k.spki }

// mlkemKey expands a seed of ML-KEM (FIPS 203, algorithm 16).
func mlkemKey(set pq.Set) func([]byte) (any, error) {
	return func(secret []byte) (any, error) {
		k := new(kem)
		for i := range k.private {
			var err error
			if k.private[i], err = pq.NewDecapsulationKey(set, secret); err != nil {
				return nil, err
			}
		}
		var err error
		if k.public, err = k.private[0].Public(); err != nil {
			return nil, err
		}
		k.spki = pq.MarshalPKIX(set, k.public.Bytes())
		return k, nil
	}
}

// errFalseSecret is the cause when a key of ML-KEM does not find its own secret, or
// finds two in one ciphertext.
var errFalseSecret = errors.New("a shared secret is not the one of its ciphertext")

// encapsulate returns a fresh shared secret and its ciphertext, which the private key
// opens.
func (k *kem) encapsulate() (secret, ciphertext []byte, err error) {
	securemem.Do(func() { secret, ciphertext = k.public.Encapsulate() })
	again, err := k.decapsulate(ciphertext)
	if err != nil {
		return nil, nil, err
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(secret, again) != 1 {
		return nil, nil, errFalseSecret
	}
	return secret, ciphertext, nil
}

// prove encapsulates something.
func (k *kem) prove(algorithms) error {
	_, _, err := k.encapsulate()
	return err
}

// decapsulate returns the shared secret of a ciphertext of the right length, on which
// both private keys agree.
func (k *kem) decapsulate(ciphertext []byte) (secret []byte, err error) {
	var again []byte
	securemem.Do(func() {
		if secret, err = k.private[0].Decapsulate(ciphertext); err == nil {
			again, err = k.private[1].Decapsulate(ciphertext)
		}
	})
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if subtle.ConstantTimeCompare(secret, again) != 1 {
		return nil, errFalseSecret
	}
	return secret, nil
}
