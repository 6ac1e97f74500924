package kmsapi

// ListKeysRequest asks for the keys of the caller's account, in every state, a
// page at a time (AWS KMS API Reference, ListKeys).
type ListKeysRequest struct {
	Limit  int64  `n:"1" rule:"range=1:1000"`           // absent = 100
	Marker string `n:"2" rule:"len=1:1024,like=marker"` // NextMarker of the page before
}

// ListKeysResponse is a page in the order of key ids. NextMarker is there only if
// it is Truncated.
type ListKeysResponse struct {
	Keys       []KeyListEntry `n:"1"`
	NextMarker string         `n:"2"`
	Truncated  bool           `n:"3" rule:"always"`
}

// KeyListEntry is a key in a list.
type KeyListEntry struct {
	KeyId  string `n:"1"`
	KeyArn string `n:"2"`
}
