package kmsapi

import "github.com/keyrack/keyrack/api"

// SignRequest asks for a signature of 1 to 4096 bytes, or of a digest, which is as
// long as the algorithm's hash (AWS KMS API Reference, Sign).
type SignRequest struct {
	KeyId            api.KeyRef       `n:"1" rule:"required,len=1:2048" audit:"show"`
	Message          api.Secret       `n:"2" rule:"required,len=1:4096"`
	MessageType      MessageType      `n:"3" audit:"show" cond:"kms:MessageType" default:"RAW"`
	GrantTokens      []string         `n:"4" rule:"items=0:10,each=1:8192"`
	SigningAlgorithm SigningAlgorithm `n:"5" rule:"required" audit:"show" cond:"kms:SigningAlgorithm"`
	DryRun           bool             `n:"6" audit:"show"`
}

// SignResponse is the answer to SignRequest. Signature is as long as the modulus for
// RSA, DER of r and s for ECDSA, and 64 bytes for Ed25519. KeyId is the key's ARN.
type SignResponse struct {
	KeyId            string           `n:"1"`
	Signature        api.Blob         `n:"2"`
	SigningAlgorithm SigningAlgorithm `n:"3"`
}

// VerifyRequest asks whether Signature is one of the message (AWS KMS API
// Reference, Verify).
type VerifyRequest struct {
	KeyId            api.KeyRef       `n:"1" rule:"required,len=1:2048" audit:"show"`
	Message          api.Secret       `n:"2" rule:"required,len=1:4096"`
	MessageType      MessageType      `n:"3" audit:"show" cond:"kms:MessageType" default:"RAW"`
	Signature        api.Blob         `n:"4" rule:"required,len=1:6144"`
	SigningAlgorithm SigningAlgorithm `n:"5" rule:"required" audit:"show" cond:"kms:SigningAlgorithm"`
	GrantTokens      []string         `n:"6" rule:"items=0:10,each=1:8192"`
	DryRun           bool             `n:"7" audit:"show"`
}

// VerifyResponse is the answer to VerifyRequest. SignatureValid is true: a signature
// that is not valid is KMSInvalidSignatureException.
type VerifyResponse struct {
	KeyId            string           `n:"1"`
	SignatureValid   bool             `n:"2"`
	SigningAlgorithm SigningAlgorithm `n:"3"`
}

// GetPublicKeyRequest asks for the public half of an asymmetric key (AWS KMS API
// Reference, GetPublicKey).
type GetPublicKeyRequest struct {
	KeyId       api.KeyRef `n:"1" rule:"required,len=1:2048" audit:"show"`
	GrantTokens []string   `n:"2" rule:"items=0:10,each=1:8192"`
}

// GetPublicKeyResponse is the answer to GetPublicKeyRequest. PublicKey is a DER
// SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7); KeyId is the key's ARN. Of the
// lists of algorithms there is the one of the key's usage.
type GetPublicKeyResponse struct {
	KeyId                   string                   `n:"1"`
	PublicKey               api.Blob                 `n:"2"`
	CustomerMasterKeySpec   KeySpec                  `n:"3"`
	KeySpec                 KeySpec                  `n:"4"`
	KeyUsage                KeyUsage                 `n:"5"`
	EncryptionAlgorithms    []EncryptionAlgorithm    `n:"6"`
	SigningAlgorithms       []SigningAlgorithm       `n:"7"`
	KeyAgreementAlgorithms  []KeyAgreementAlgorithm  `n:"8"`
	EncapsulationAlgorithms []EncapsulationAlgorithm `n:"9"`
}
