package kmsapi

import "github.com/keyrack/keyrack/api"

// MultiRegionConfiguration says where the keys with one id are (AWS KMS API Reference,
// MultiRegionConfiguration).
type MultiRegionConfiguration struct {
	MultiRegionKeyType MultiRegionKeyType `n:"1"`
	PrimaryKey         MultiRegionKey     `n:"2"`
	ReplicaKeys        []MultiRegionKey   `n:"3" rule:"always"` // none here
}

// MultiRegionKey is one of the keys with one id.
type MultiRegionKey struct {
	Arn    string `n:"1"`
	Region string `n:"2"`
}

// ReplicateKeyRequest asks for a multi-Region key in another region (AWS KMS API
// Reference, ReplicateKey).
type ReplicateKeyRequest struct {
	KeyId                          api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	ReplicaRegion                  string     `n:"2" rule:"required,len=1:32,like=region" audit:"show" cond:"kms:ReplicaRegion"`
	Policy                         string     `n:"3" rule:"len=1:131072,like=policy"`
	BypassPolicyLockoutSafetyCheck bool       `n:"4" audit:"show" cond:"kms:BypassPolicyLockoutSafetyCheck"`
	Description                    string     `n:"5" rule:"len=0:8192" audit:"show"`
	Tags                           []Tag      `n:"6" rule:"items=0:100" audit:"show"`
}

// ReplicateKeyResponse is the answer to ReplicateKeyRequest.
type ReplicateKeyResponse struct {
	ReplicaKeyMetadata KeyMetadata `n:"1" audit:"show"`
	ReplicaPolicy      string      `n:"2"`
	ReplicaTags        []Tag       `n:"3"`
}

// UpdatePrimaryRegionRequest asks that the replica in another region become the primary
// key (AWS KMS API Reference, UpdatePrimaryRegion).
type UpdatePrimaryRegionRequest struct {
	KeyId         api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	PrimaryRegion string     `n:"2" rule:"required,len=1:32,like=region" audit:"show" cond:"kms:PrimaryRegion"`
}

// UpdatePrimaryRegionResponse is the answer to UpdatePrimaryRegionRequest. It has no members.
type UpdatePrimaryRegionResponse struct{}
