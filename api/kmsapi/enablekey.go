package kmsapi

import "github.com/keyrack/keyrack/api"

// EnableKeyRequest asks that a key be usable again (AWS KMS API Reference, EnableKey).
type EnableKeyRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// EnableKeyResponse is the answer to EnableKeyRequest. It has no members.
type EnableKeyResponse struct{}

// DisableKeyRequest asks that a key serve nobody until it is enabled again (AWS
// KMS API Reference, DisableKey).
type DisableKeyRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// DisableKeyResponse is the answer to DisableKeyRequest. It has no members.
type DisableKeyResponse struct{}
