package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/kmsapi"
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
// the source before the destination, Disabled and KMSInvalidState, InvalidKeyUsage;
// last InvalidCiphertext and DryRunOperation.
func (s *Service) ReEncrypt(c *access.Call, in *kmsapi.ReEncryptRequest, out *kmsapi.ReEncryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	from, to, err := s.admittedPair(c, in)
	if err != nil {
		return err
	}
	if err := from.usable(in.SourceEncryptionAlgorithm); err != nil {
		return err
	}
	if err := to.usable(in.DestinationEncryptionAlgorithm); err != nil {
		return err
	}
	if len(in.DryRunModifiers) > 0 {
		return errDryRun
	}
	plaintext, m, err := s.open(c, from, in.CiphertextBlob, in.SourceEncryptionContext)
	if err != nil {
		return err
	}
	defer clear(plaintext)
	if in.DryRun {
		return errDryRun
	}
	out.CiphertextBlob, err = s.seal(c, to, plaintext, in.DestinationEncryptionContext)
	out.SourceKeyId, out.SourceEncryptionAlgorithm, out.SourceKeyMaterialId = from.ARN(), in.SourceEncryptionAlgorithm, m.idText
	out.KeyId, out.DestinationEncryptionAlgorithm, out.DestinationKeyMaterialId = to.ARN(), in.DestinationEncryptionAlgorithm, to.current.idText
	return err
}

// admittedPair returns the key that decrypts and the key that encrypts, once the
// door has consented to both. Nothing is said of either key's state before.
func (s *Service) admittedPair(c *access.Call, in *kmsapi.ReEncryptRequest) (from, to *key, err error) {
	from, err = s.keyOf(c, kmsapi.ReEncryptFrom, &in.SourceKeyId, in.CiphertextBlob, len(in.DryRunModifiers) > 0)
	if err != nil {
		return nil, nil, err
	}
	to, err = s.admitted(c, kmsapi.ReEncryptTo, &in.DestinationKeyId)
	return from, to, err
}
