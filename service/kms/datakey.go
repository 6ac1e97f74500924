package kms

import (
	"crypto/rand"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// GenerateDataKey returns a new random key of 1 to 1024 bytes, in clear and as
// Encrypt would answer it. (AWS KMS API Reference, GenerateDataKey.)
//
// Errors in the order in which they are found: ValidationException (two lengths
// or none), InvalidGrantToken, UnsupportedOperation (Recipient), AccessDenied and
// NotFound, Disabled and KMSInvalidState, InvalidKeyUsage, DryRunOperation.
func (s *Service) GenerateDataKey(c *access.Call, in *kmsapi.GenerateDataKeyRequest, out *kmsapi.GenerateDataKeyResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	k, err := s.wrapping(c, &in.KeyId, in.DryRun)
	if err != nil {
		return err
	}
	plaintext, blob, err := s.dataKey(c, k, dataKeyLen(in.KeySpec, in.NumberOfBytes), in.EncryptionContext)
	if err != nil {
		return err
	}
	out.Plaintext, out.CiphertextBlob = plaintext, blob
	out.KeyId, out.KeyMaterialId = k.ARN(), k.current.idText
	return nil
}

// GenerateDataKeyWithoutPlaintext is GenerateDataKey for a caller who will need
// the data key only later: it leaves the appliance encrypted. (AWS KMS API
// Reference, GenerateDataKeyWithoutPlaintext.) Errors are those of GenerateDataKey.
func (s *Service) GenerateDataKeyWithoutPlaintext(c *access.Call, in *kmsapi.GenerateDataKeyWithoutPlaintextRequest, out *kmsapi.GenerateDataKeyWithoutPlaintextResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.wrapping(c, &in.KeyId, in.DryRun)
	if err != nil {
		return err
	}
	plaintext, blob, err := s.dataKey(c, k, dataKeyLen(in.KeySpec, in.NumberOfBytes), in.EncryptionContext)
	clear(plaintext)
	out.CiphertextBlob, out.KeyId, out.KeyMaterialId = blob, k.ARN(), k.current.idText
	return err
}

// wrapping returns the key to encrypt a new data key under, admitted and usable;
// a dry run ends here.
func (s *Service) wrapping(c *access.Call, ref *api.KeyRef, dryRun bool) (*key, error) {
	k, err := s.admitted(c, c.Op(), ref)
	if err != nil {
		return nil, err
	}
	if err := k.usable(c.Op(), kmsapi.SymmetricDefault); err != nil {
		return nil, err
	}
	if dryRun {
		return nil, errDryRun
	}
	return k, nil
}

// dataKeyLen returns the length that a request asks for in bytes: one of the two
// is absent.
func dataKeyLen(spec kmsapi.DataKeySpec, n int64) int {
	switch spec {
	case kmsapi.AES256:
		return 32
	case kmsapi.AES128:
		return 16
	}
	return int(n)
}

// dataKey draws n random bytes into the call's own memory, which is wiped with
// it, and encrypts them.
func (s *Service) dataKey(c *access.Call, k *key, n int, encryptionContext []byte) (plaintext, blob []byte, err error) {
	plaintext = c.Bytes(n)
	rand.Read(plaintext)
	blob, err = s.seal(c, k, plaintext, encryptionContext)
	return plaintext, blob, err
}

// GenerateRandom returns 1 to 1024 random bytes. The door is asked for "*", as
// AWS does. (AWS KMS API Reference, GenerateRandom.)
//
// Errors: ValidationException (no length), AccessDenied, UnsupportedOperation
// (CustomKeyStoreId, Recipient).
func (s *Service) GenerateRandom(c *access.Call, in *kmsapi.GenerateRandomRequest, out *kmsapi.GenerateRandomResponse) error {
	if err := c.Admit(access.Any(c)); err != nil {
		return err
	}
	if in.CustomKeyStoreId != "" {
		return api.Errorf(api.KindUnsupportedOperation, "CustomKeyStoreId is not supported by this appliance: leave it out to get its own random bytes")
	}
	if err := noRecipient(&in.Recipient); err != nil {
		return err
	}
	out.Plaintext = c.Bytes(int(in.NumberOfBytes))
	rand.Read(out.Plaintext)
	return nil
}
