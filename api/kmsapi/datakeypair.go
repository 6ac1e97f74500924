package kmsapi

import "github.com/keyrack/keyrack/api"

// GenerateDataKeyPairRequest asks for a new asymmetric key pair, its private half in
// clear and encrypted under a symmetric key of the appliance (AWS KMS API Reference,
// GenerateDataKeyPair).
type GenerateDataKeyPairRequest struct {
	KeyId             api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncryptionContext api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	KeyPairSpec       DataKeyPairSpec       `n:"3" rule:"required" audit:"show" cond:"kms:DataKeyPairSpec"`
	GrantTokens       []string              `n:"4" rule:"items=0:10,each=1:8192"`
	Recipient         RecipientInfo         `n:"5"`
	DryRun            bool                  `n:"6" audit:"show"`
}

// GenerateDataKeyPairResponse is the answer to GenerateDataKeyPairRequest. PublicKey is
// a DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7), PrivateKeyPlaintext a DER
// PKCS #8 PrivateKeyInfo (RFC 5208), and PrivateKeyCiphertextBlob what Encrypt answers
// for it. KeyId is the ARN of the key that encrypted, KeyMaterialId which material of it
// was used, 64 hex digits.
type GenerateDataKeyPairResponse struct {
	PrivateKeyCiphertextBlob api.Blob        `n:"1"`
	PrivateKeyPlaintext      api.Secret      `n:"2"`
	PublicKey                api.Blob        `n:"3"`
	KeyId                    string          `n:"4"`
	KeyPairSpec              DataKeyPairSpec `n:"5"`
	KeyMaterialId            string          `n:"6"`
}

// GenerateDataKeyPairWithoutPlaintextRequest asks for a key pair whose private half is
// not needed yet (AWS KMS API Reference, GenerateDataKeyPairWithoutPlaintext).
type GenerateDataKeyPairWithoutPlaintextRequest struct {
	KeyId             api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncryptionContext api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	KeyPairSpec       DataKeyPairSpec       `n:"3" rule:"required" audit:"show" cond:"kms:DataKeyPairSpec"`
	GrantTokens       []string              `n:"4" rule:"items=0:10,each=1:8192"`
	DryRun            bool                  `n:"5" audit:"show"`
}

// GenerateDataKeyPairWithoutPlaintextResponse is GenerateDataKeyPairResponse without the
// private half in clear.
type GenerateDataKeyPairWithoutPlaintextResponse struct {
	PrivateKeyCiphertextBlob api.Blob        `n:"1"`
	PublicKey                api.Blob        `n:"2"`
	KeyId                    string          `n:"3"`
	KeyPairSpec              DataKeyPairSpec `n:"4"`
	KeyMaterialId            string          `n:"5"`
}
