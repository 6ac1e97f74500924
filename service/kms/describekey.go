package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// DescribeKey returns what is known of a key, whatever its state. (AWS KMS API
// Reference, DescribeKey.) Errors: InvalidGrantToken, NotFound, AccessDenied.
func (s *Service) DescribeKey(c *access.Call, in *kmsapi.DescribeKeyRequest, out *kmsapi.DescribeKeyResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.admitted(c, c.Op(), &in.KeyId)
	if err != nil {
		return err
	}
	out.KeyMetadata = k.metadata()
	return nil
}
