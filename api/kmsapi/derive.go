package kmsapi

import "github.com/keyrack/keyrack/api"

// DeriveSharedSecretRequest asks for the secret that a key agrees on with the owner of
// PublicKey, a DER SubjectPublicKeyInfo on the same curve (AWS KMS API Reference,
// DeriveSharedSecret).
type DeriveSharedSecretRequest struct {
	KeyId                 api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	KeyAgreementAlgorithm KeyAgreementAlgorithm `n:"2" rule:"required" audit:"show" cond:"kms:KeyAgreementAlgorithm"`
	PublicKey             api.Blob              `n:"3" rule:"required,len=1:8192"`
	GrantTokens           []string              `n:"4" rule:"items=0:10,each=1:8192"`
	DryRun                bool                  `n:"5" audit:"show"`
	Recipient             RecipientInfo         `n:"6"`
}

// DeriveSharedSecretResponse is the answer to DeriveSharedSecretRequest. SharedSecret
// is the x coordinate, big-endian, as long as the curve's field: 32, 48 or 66 bytes.
// KeyId is the key's ARN. The record alone has PeerKeyDigest, SHA-256 of the request's PublicKey.
type DeriveSharedSecretResponse struct {
	KeyId                 string                `n:"1"`
	SharedSecret          api.Secret            `n:"2"`
	KeyAgreementAlgorithm KeyAgreementAlgorithm `n:"3"`
	KeyOrigin             KeyOrigin             `n:"4"`
	PeerKeyDigest         api.Blob              `n:"5" audit:"only"`
}
