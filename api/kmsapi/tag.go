package kmsapi

import "github.com/keyrack/keyrack/api"

// Tag is a label on a key. It is not secret: audit records show it.
type Tag struct {
	TagKey   string `n:"1" rule:"required,len=1:128" audit:"show"`
	TagValue string `n:"2" rule:"required,len=0:256" audit:"show"`
}

// TagResourceRequest asks that a key have tags: those with a TagKey that it has
// already get another value (AWS KMS API Reference, TagResource). The list is
// bounded so that nobody fills memory; more than 50 tags are TagException.
type TagResourceRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	Tags  []Tag      `n:"2" rule:"required,items=1:100" audit:"show"`
}

// TagResourceResponse is the answer to TagResourceRequest. It has no members.
type TagResourceResponse struct{}

// UntagResourceRequest asks that a key have no tags with these TagKeys (AWS KMS
// API Reference, UntagResource).
type UntagResourceRequest struct {
	KeyId   api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	TagKeys []string   `n:"2" rule:"required,items=1:100,each=1:128" audit:"show"`
}

// UntagResourceResponse is the answer to UntagResourceRequest. It has no members.
type UntagResourceResponse struct{}

// ListResourceTagsRequest asks for the tags of a key, a page at a time (AWS KMS
// API Reference, ListResourceTags).
type ListResourceTagsRequest struct {
	KeyId  api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	Limit  int64      `n:"2" rule:"range=1:50"`             // absent = 50
	Marker string     `n:"3" rule:"len=1:1024,like=marker"` // NextMarker of the page before
}

// ListResourceTagsResponse is a page in the order of the bytes of TagKeys.
// NextMarker is there only if it is Truncated.
type ListResourceTagsResponse struct {
	Tags       []Tag  `n:"1"`
	NextMarker string `n:"2"`
	Truncated  bool   `n:"3" rule:"always"`
}
