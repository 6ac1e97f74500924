package kmsapi

import "github.com/keyrack/keyrack/api"

// ListAliasesRequest asks for the aliases of the caller's account, or of one key
// in it, a page at a time (AWS KMS API Reference, ListAliases).
type ListAliasesRequest struct {
	KeyId  api.KeyRef `n:"1" rule:"len=1:2048,key" audit:"show"`
	Limit  int64      `n:"2" rule:"range=1:100"`            // absent = 50
	Marker string     `n:"3" rule:"len=1:1024,like=marker"` // NextMarker of the page before
}

// ListAliasesResponse is a page, shorter names first and then in the order of
// their bytes. NextMarker is there only if it is Truncated.
type ListAliasesResponse struct {
	Aliases    []AliasListEntry `n:"1"`
	NextMarker string           `n:"2"`
	Truncated  bool             `n:"3" rule:"always"`
}

// AliasListEntry is an alias in a list. TargetKeyId is the bare id.
type AliasListEntry struct {
	AliasName       string   `n:"1"`
	AliasArn        string   `n:"2"`
	TargetKeyId     string   `n:"3"`
	CreationDate    api.Time `n:"4"`
	LastUpdatedDate api.Time `n:"5"`
}
