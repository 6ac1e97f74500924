package kmsapi

import "github.com/keyrack/keyrack/api"

// EncapsulateRequest asks for a new shared secret and its ciphertext under the public
// half of a key (AWS KMS API Reference, Encapsulate; FIPS 203).
type EncapsulateRequest struct {
	KeyId                  api.KeyRef             `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncapsulationAlgorithm EncapsulationAlgorithm `n:"2" rule:"required" audit:"show"`
	GrantTokens            []string               `n:"3" rule:"items=0:10,each=1:8192"`
	DryRun                 bool                   `n:"4" audit:"show"`
}

// EncapsulateResponse is the answer to EncapsulateRequest. SharedSecret is 32 bytes,
// SharedSecretCiphertextBlob 768, 1088 or 1568 for ML_KEM_512, 768 and 1024. KeyId is
// the key's ARN.
type EncapsulateResponse struct {
	KeyId                      string                 `n:"1"`
	EncapsulationAlgorithm     EncapsulationAlgorithm `n:"2"`
	SharedSecret               api.Secret             `n:"3"`
	SharedSecretCiphertextBlob api.Blob               `n:"4"`
}

// DecapsulateRequest asks for the shared secret of a ciphertext (AWS KMS API
// Reference, Decapsulate; FIPS 203).
type DecapsulateRequest struct {
	KeyId                      api.KeyRef             `n:"1" rule:"required,len=1:2048" audit:"show"`
	EncapsulationAlgorithm     EncapsulationAlgorithm `n:"2" rule:"required" audit:"show"`
	SharedSecretCiphertextBlob api.Blob               `n:"3" rule:"required,len=1:6144"`
	GrantTokens                []string               `n:"4" rule:"items=0:10,each=1:8192"`
	DryRun                     bool                   `n:"5" audit:"show"`
}

// DecapsulateResponse is the answer to DecapsulateRequest. SharedSecret is 32 bytes; for
// a ciphertext that nobody encapsulated it is a secret that nobody else has (implicit
// rejection). KeyId is the key's ARN.
type DecapsulateResponse struct {
	KeyId                  string                 `n:"1"`
	EncapsulationAlgorithm EncapsulationAlgorithm `n:"2"`
	SharedSecret           api.Secret             `n:"3"`
}
