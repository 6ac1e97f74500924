package kmsapi

import "github.com/keyrack/keyrack/api"

// CreateAliasRequest asks for a name for a key of the caller's account (AWS KMS
// API Reference, CreateAlias).
type CreateAliasRequest struct {
	AliasName   string     `n:"1" rule:"required,len=1:256,alias" audit:"show"`
	TargetKeyId api.KeyRef `n:"2" rule:"required,len=1:2048,target" audit:"show"`
}

// CreateAliasResponse is the answer to CreateAliasRequest. It has no members.
type CreateAliasResponse struct{}

// UpdateAliasRequest asks that an alias name another key of the same kind and
// usage (AWS KMS API Reference, UpdateAlias).
type UpdateAliasRequest struct {
	AliasName   string     `n:"1" rule:"required,len=1:256,alias" audit:"show"`
	TargetKeyId api.KeyRef `n:"2" rule:"required,len=1:2048,target" audit:"show"`
}

// UpdateAliasResponse is the answer to UpdateAliasRequest. It has no members.
type UpdateAliasResponse struct{}

// DeleteAliasRequest asks that an alias name nothing any more; its key stays (AWS
// KMS API Reference, DeleteAlias).
type DeleteAliasRequest struct {
	AliasName string `n:"1" rule:"required,len=1:256,alias" audit:"show"`
}

// DeleteAliasResponse is the answer to DeleteAliasRequest. It has no members.
type DeleteAliasResponse struct{}
