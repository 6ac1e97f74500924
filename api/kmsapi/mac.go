package kmsapi

import "github.com/keyrack/keyrack/api"

// GenerateMacRequest asks for the message authentication code of 1 to 4096 bytes
// under a key of HMAC (AWS KMS API Reference, GenerateMac).
type GenerateMacRequest struct {
	Message      api.Secret   `n:"1" rule:"required,len=1:4096"`
	KeyId        api.KeyRef   `n:"2" rule:"required,len=1:2048" audit:"show"`
	MacAlgorithm MacAlgorithm `n:"3" rule:"required" audit:"show" cond:"kms:MacAlgorithm"`
	GrantTokens  []string     `n:"4" rule:"items=0:10,each=1:8192"`
	DryRun       bool         `n:"5" audit:"show"`
}

// GenerateMacResponse is the answer to GenerateMacRequest. Mac is as long as the hash:
// 28, 32, 48 or 64 bytes. KeyId is the key's ARN in whatever form it was asked for.
type GenerateMacResponse struct {
	Mac          api.Blob     `n:"1"`
	MacAlgorithm MacAlgorithm `n:"2"`
	KeyId        string       `n:"3"`
}

// VerifyMacRequest asks whether Mac is what GenerateMac answers for the message
// (AWS KMS API Reference, VerifyMac).
type VerifyMacRequest struct {
	Message      api.Secret   `n:"1" rule:"required,len=1:4096"`
	KeyId        api.KeyRef   `n:"2" rule:"required,len=1:2048" audit:"show"`
	MacAlgorithm MacAlgorithm `n:"3" rule:"required" audit:"show" cond:"kms:MacAlgorithm"`
	Mac          api.Blob     `n:"4" rule:"required,len=1:6144"`
	GrantTokens  []string     `n:"5" rule:"items=0:10,each=1:8192"`
	DryRun       bool         `n:"6" audit:"show"`
}

// VerifyMacResponse is the answer to VerifyMacRequest. MacValid is true: a code that
// is not valid is KMSInvalidMacException.
type VerifyMacResponse struct {
	KeyId        string       `n:"1"`
	MacValid     bool         `n:"2"`
	MacAlgorithm MacAlgorithm `n:"3"`
}
