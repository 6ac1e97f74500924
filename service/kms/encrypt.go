package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// Encrypt encrypts 1 to 4096 bytes under a key and binds them to the encryption
// context. The blob is ciphertext format 1 of protocol/PROTOCOL.md, 105 bytes
// longer than the plaintext. (AWS KMS API Reference, Encrypt; protocol/PROTOCOL.md, "Ciphertext".)
func (s *Service) Encrypt(c *access.Call, in *kmsapi.EncryptRequest, out *kmsapi.EncryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.admitted(c, c.Op(), &in.KeyId)
	if err != nil {
		return err
	}
	if err := k.usable(in.EncryptionAlgorithm); err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.CiphertextBlob, err = s.seal(c, k, in.Plaintext, in.EncryptionContext)
	out.KeyId, out.EncryptionAlgorithm = k.ARN(), in.EncryptionAlgorithm
	return err
}

// Decrypt returns the plaintext of what Encrypt answered. Whatever is wrong
// with a ciphertext or its context is one InvalidCiphertextException; a key that
// the caller may not use answers like one that does not exist. (AWS KMS API
// Reference, Decrypt.)
func (s *Service) Decrypt(c *access.Call, in *kmsapi.DecryptRequest, out *kmsapi.DecryptResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	k, err := s.keyOf(c, c.Op(), &in.KeyId, in.CiphertextBlob, len(in.DryRunModifiers) > 0)
	if err != nil {
		return err
	}
	if err := k.usable(in.EncryptionAlgorithm); err != nil {
		return err
	}
	if len(in.DryRunModifiers) > 0 {
		return errDryRun
	}
	plaintext, m, err := s.open(c, k, in.CiphertextBlob, in.EncryptionContext)
	if err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.Plaintext, out.KeyMaterialId = plaintext, m.idText
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
