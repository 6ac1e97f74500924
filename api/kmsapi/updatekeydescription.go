package kmsapi

import "github.com/keyrack/keyrack/api"

// UpdateKeyDescriptionRequest asks that a key be described by another text, or
// by none if it is empty (AWS KMS API Reference, UpdateKeyDescription).
type UpdateKeyDescriptionRequest struct {
	KeyId       api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	Description string     `n:"2" rule:"required,len=0:8192" audit:"show"`
}

// UpdateKeyDescriptionResponse is the answer to UpdateKeyDescriptionRequest. It
// has no members.
type UpdateKeyDescriptionResponse struct{}
