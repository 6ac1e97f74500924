package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// Encrypt encrypts 1 to 4096 bytes under a symmetric key and binds them to the
// encryption context; the blob is ciphertext format 1 of protocol/PROTOCOL.md, 105 bytes
// longer than the plaintext. Under an RSA key it takes what fits into the padding, and no
// context; the blob is as long as the modulus and names no key. (AWS KMS API Reference,
// Encrypt; protocol/PROTOCOL.md, "Ciphertext"; RFC 8017, section 7.1.1.)
//
// Errors in the order in which they are found: ValidationException,
// InvalidGrantToken, AccessDenied and NotFound, Disabled and KMSInvalidState,
// InvalidKeyUsage (the key's usage, then the algorithm), ValidationException (a context,
// then a plaintext that an RSA key does not take), DryRunOperation.
func (s *Service) Encrypt(c *access.Call, in *kmsapi.EncryptRequest, out *kmsapi.EncryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.admitted(c, c.Op(), &in.KeyId)
	if err != nil {
		return err
	}
	if err := k.usable(c.Op(), in.EncryptionAlgorithm); err != nil {
		return err
	}
	if err := k.fits(in.EncryptionAlgorithm, len(in.Plaintext), in.EncryptionContext); err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.CiphertextBlob, err = s.encrypt(c, k, in.EncryptionAlgorithm, in.Plaintext, in.EncryptionContext)
	out.KeyId, out.EncryptionAlgorithm = k.ARN(), in.EncryptionAlgorithm
	return err
}

// Decrypt returns the plaintext of what Encrypt answered, or, with an RSA key, of what
// anybody encrypted with its public half. Whatever is wrong
// with a ciphertext or its context is one InvalidCiphertextException; a key that
// the caller may not use answers like one that does not exist. A ciphertext of an RSA key
// is a number that says nothing of its key: KeyId and EncryptionAlgorithm must. (AWS KMS
// API Reference, Decrypt.)
//
// Errors in the order in which they are found: ValidationException, InvalidGrantToken,
// UnsupportedOperation (Recipient), InvalidCiphertext (its form, of a symmetric key),
// AccessDenied and NotFound, IncorrectKey, Disabled and KMSInvalidState, InvalidKeyUsage
// (the key's usage, then the algorithm), ValidationException (a context that an RSA key
// does not take), InvalidCiphertext, DryRunOperation.
func (s *Service) Decrypt(c *access.Call, in *kmsapi.DecryptRequest, out *kmsapi.DecryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	k, err := s.keyOf(c, c.Op(), &in.KeyId, in.EncryptionAlgorithm, in.CiphertextBlob, len(in.DryRunModifiers) > 0)
	if err != nil {
		return err
	}
	if err := k.usable(c.Op(), in.EncryptionAlgorithm); err != nil {
		return err
	}
	if err := k.fits(in.EncryptionAlgorithm, 0, in.EncryptionContext); err != nil {
		return err
	}
	if len(in.DryRunModifiers) > 0 {
		return errDryRun
	}
	plaintext, material, err := s.decrypt(c, k, in.EncryptionAlgorithm, in.CiphertextBlob, in.EncryptionContext)
	if err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.Plaintext, out.KeyMaterialId = plaintext, material
	out.KeyId, out.EncryptionAlgorithm = k.ARN(), in.EncryptionAlgorithm
	return nil
}

// errDryRun says that a dry run would have succeeded.
var errDryRun = &api.Error{Kind: api.KindDryRun, Message: "The request would have succeeded, but the DryRun option is set."}

// noGrantTokens refuses grant tokens: there are no grants that they could prove.
func noGrantTokens(tokens []string) error {
	if len(tokens) == 0 {
		return nil
	}
	return api.Errorf(api.KindInvalidGrantToken, "no grant of this appliance has such a token: send none")
}

// noRecipient refuses to encrypt an answer for an attested recipient.
func noRecipient(r *kmsapi.RecipientInfo) error {
	if r.AttestationDocument == nil && r.KeyEncryptionAlgorithm == "" {
		return nil
	}
	return api.Errorf(api.KindUnsupportedOperation, "Recipient is not supported: leave it out to receive the plaintext over this connection")
}
