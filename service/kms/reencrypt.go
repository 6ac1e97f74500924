package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
)

// ReEncrypt decrypts a ciphertext and encrypts its plaintext under another key or
// context, or under the newer material of the same key; the plaintext never leaves
// the call's memory. The door is asked for kms:ReEncryptFrom on the key that
// decrypts and for kms:ReEncryptTo on the one that encrypts. (AWS KMS API
// Reference, ReEncrypt.)
//
// Errors in the order in which they are found: ValidationException,
// InvalidGrantToken; of the source InvalidCiphertext (its form), AccessDenied and
// NotFound, IncorrectKey; of the destination AccessDenied and NotFound; then, of
// the source before the destination, Disabled and KMSInvalidState, InvalidKeyUsage; then
// ValidationException (a context that an RSA key does not take), InvalidCiphertext,
// ValidationException (a plaintext that is too long for the destination) and
// DryRunOperation.
func (s *Service) ReEncrypt(c *access.Call, in *kmsapi.ReEncryptRequest, out *kmsapi.ReEncryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	from, to, err := s.admittedPair(c, in)
	if err != nil {
		return err
	}
	if err := reEncryptable(c, from, to, in); err != nil {
		return err
	}
	if len(in.DryRunModifiers) > 0 {
		return errDryRun
	}
	if from.asymmetric() || to.asymmetric() {
		if err := c.Need(work.Compute); err != nil { // before anything is decrypted
			return err
		}
	}
	plaintext, material, err := s.decrypt(c, from, in.SourceEncryptionAlgorithm, in.CiphertextBlob, in.SourceEncryptionContext)
	if err != nil {
		return err
	}
	defer clear(plaintext)
	if err := to.fits(in.DestinationEncryptionAlgorithm, len(plaintext), in.DestinationEncryptionContext); err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.CiphertextBlob, err = s.encrypt(c, to, in.DestinationEncryptionAlgorithm, plaintext, in.DestinationEncryptionContext)
	out.SourceKeyId, out.SourceEncryptionAlgorithm, out.SourceKeyMaterialId = from.ARN(), in.SourceEncryptionAlgorithm, material
	out.KeyId, out.DestinationEncryptionAlgorithm = to.ARN(), in.DestinationEncryptionAlgorithm
	if !to.asymmetric() {
		out.DestinationKeyMaterialId = to.current.idText
	}
	return err
}

// reEncryptable refuses what can be known of two keys before anything is decrypted.
func reEncryptable(c *access.Call, from, to *key, in *kmsapi.ReEncryptRequest) error {
	if err := from.usable(c.Op(), in.SourceEncryptionAlgorithm); err != nil {
		return err
	}
	if err := to.usable(c.Op(), in.DestinationEncryptionAlgorithm); err != nil {
		return err
	}
	if err := from.fits(in.SourceEncryptionAlgorithm, 0, in.SourceEncryptionContext); err != nil {
		return err
	}
	return to.fits(in.DestinationEncryptionAlgorithm, 0, in.DestinationEncryptionContext)
}

// admittedPair returns the key that decrypts and the key that encrypts, once the
// door has consented to both. Nothing is said of either key's state before.
func (s *Service) admittedPair(c *access.Call, in *kmsapi.ReEncryptRequest) (from, to *key, err error) {
	from, err = s.keyOf(c, kmsapi.ReEncryptFrom, &in.SourceKeyId, in.SourceEncryptionAlgorithm, in.CiphertextBlob, len(in.DryRunModifiers) > 0)
	if err != nil {
		return nil, nil, err
	}
	to, err = s.admitted(c, kmsapi.ReEncryptTo, &in.DestinationKeyId)
	return from, to, err
}
