package kmsapi

import "github.com/keyrack/keyrack/api"

// DescribeKeyRequest asks for what is known of a key (AWS KMS API Reference,
// DescribeKey).
type DescribeKeyRequest struct {
	KeyId       api.KeyRef `n:"1" rule:"required,len=1:2048" audit:"show"`
	GrantTokens []string   `n:"2" rule:"items=0:10,each=1:8192"`
}

// DescribeKeyResponse is the answer to DescribeKeyRequest.
type DescribeKeyResponse struct {
	KeyMetadata KeyMetadata `n:"1"`
}
