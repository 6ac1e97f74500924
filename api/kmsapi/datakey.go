package kmsapi

import "github.com/keyrack/keyrack/api"

// GenerateDataKeyRequest asks for a new key to encrypt data with, in clear and
// encrypted under a key of the appliance (AWS KMS API Reference, GenerateDataKey).
// Its length is KeySpec's or NumberOfBytes, one of which must be there.
type GenerateDataKeyRequest struct {
	KeyId             api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncryptionContext api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	NumberOfBytes     int64                 `n:"3" rule:"range=1:1024" audit:"show"`
	KeySpec           DataKeySpec           `n:"4" audit:"show"`
	GrantTokens       []string              `n:"5" rule:"items=0:10,each=1:8192"`
	Recipient         RecipientInfo         `n:"6"`
	DryRun            bool                  `n:"7" audit:"show"`
}

// Check holds the rule that spans members: one length.
func (r *GenerateDataKeyRequest) Check() error { return oneLength(r.NumberOfBytes, r.KeySpec) }

// GenerateDataKeyResponse is the answer to GenerateDataKeyRequest. CiphertextBlob
// is what Encrypt answers for Plaintext, 105 bytes longer; KeyId is the key's ARN,
// KeyMaterialId which material of it was used, 64 hex digits.
type GenerateDataKeyResponse struct {
	CiphertextBlob api.Blob   `n:"1"`
	Plaintext      api.Secret `n:"2"`
	KeyId          string     `n:"3"`
	KeyMaterialId  string     `n:"4"`
}

// GenerateDataKeyWithoutPlaintextRequest asks for a new data key that is not
// needed yet: Decrypt hands it out later (AWS KMS API Reference,
// GenerateDataKeyWithoutPlaintext).
type GenerateDataKeyWithoutPlaintextRequest struct {
	KeyId             api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncryptionContext api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	KeySpec           DataKeySpec           `n:"3" audit:"show"`
	NumberOfBytes     int64                 `n:"4" rule:"range=1:1024" audit:"show"`
	GrantTokens       []string              `n:"5" rule:"items=0:10,each=1:8192"`
	DryRun            bool                  `n:"6" audit:"show"`
}

// Check holds the rule that spans members: one length.
func (r *GenerateDataKeyWithoutPlaintextRequest) Check() error {
	return oneLength(r.NumberOfBytes, r.KeySpec)
}

// GenerateDataKeyWithoutPlaintextResponse is GenerateDataKeyResponse without the
// data key in clear.
type GenerateDataKeyWithoutPlaintextResponse struct {
	CiphertextBlob api.Blob `n:"1"`
	KeyId          string   `n:"2"`
	KeyMaterialId  string   `n:"3"`
}

// oneLength refuses two lengths of a data key, and none, in AWS's words as clients and
// emulators of it quote them: no page of AWS has them.
func oneLength(n int64, spec DataKeySpec) error {
	if (n != 0) != (spec != 0) {
		return nil
	}
	return api.Errorf(api.KindValidation, "Please specify either number of bytes or key spec.")
}

// GenerateRandomRequest asks for random bytes, which no key has to do with (AWS
// KMS API Reference, GenerateRandom). Members after the first are refused.
type GenerateRandomRequest struct {
	NumberOfBytes    int64         `n:"1" rule:"range=1:1024" audit:"show"`
	CustomKeyStoreId string        `n:"2" rule:"len=1:64" audit:"show"`
	Recipient        RecipientInfo `n:"3"`
}

// Check refuses a request without a length in AWS's words, as recorded from it by
// others, which are not those for a member that is always required.
func (r *GenerateRandomRequest) Check() error {
	if r.NumberOfBytes == 0 {
		return api.Errorf(api.KindValidation, "NumberOfBytes is required.")
	}
	return nil
}

// GenerateRandomResponse is the answer to GenerateRandomRequest.
type GenerateRandomResponse struct {
	Plaintext api.Secret `n:"1"`
}
