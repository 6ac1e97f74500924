package kms

import (
	"crypto/hmac"
	"fmt"
	"hash"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
)

// GenerateMac returns the HMAC (FIPS 198-1) of 1 to 4096 bytes, not truncated.
// (AWS KMS API Reference, GenerateMac.)
//
// Errors in the order in which they are found: ValidationException,
// InvalidGrantToken, AccessDenied and NotFound, Disabled and KMSInvalidState,
// InvalidKeyUsage (the key's usage, then the algorithm), DryRunOperation.
func (s *Service) GenerateMac(c *access.Call, in *kmsapi.GenerateMacRequest, out *kmsapi.GenerateMacResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.macKey(c, &in.KeyId, in.MacAlgorithm)
	if err != nil {
		return err
	}
	if in.DryRun {
		return errDryRun
	}
	out.Mac, err = s.mac(c, k, in.Message)
	out.KeyId, out.MacAlgorithm = k.ARN(), in.MacAlgorithm
	return err
}

// VerifyMac says that a code is the one that GenerateMac answers; any other one is
// KMSInvalidMac, however long it is, and the comparison's time does not depend on
// where they differ. (AWS KMS API Reference, VerifyMac.) Errors are those of
// GenerateMac, with KMSInvalidMac before DryRunOperation.
func (s *Service) VerifyMac(c *access.Call, in *kmsapi.VerifyMacRequest, out *kmsapi.VerifyMacResponse) error {
	if err := noGrantTokens(in.GrantTokens); err != nil {
		return err
	}
	k, err := s.macKey(c, &in.KeyId, in.MacAlgorithm)
	if err != nil {
		return err
	}
	want, err := s.mac(c, k, in.Message)
	if err != nil {
		return err
	}
	defer clear(want) // who sent another one must not have it
	if !hmac.Equal(want, in.Mac) {
		return errInvalidMac
	}
	if in.DryRun {
		return errDryRun
	}
	out.KeyId, out.MacAlgorithm, out.MacValid = k.ARN(), in.MacAlgorithm, true
	return nil
}

var errInvalidMac = &api.Error{Kind: api.KindInvalidMac, Message: "the MAC is not that of the message under this key"}

// macKey returns the key that ref names, admitted and able to make codes with a now.
func (s *Service) macKey(c *access.Call, ref *api.KeyRef, a kmsapi.MacAlgorithm) (*key, error) {
	k, err := s.admitted(c, c.Op(), ref)
	if err != nil {
		return nil, err
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return nil, err
	}
	if err := k.serves(c.Op(), kmsapi.UsageGenerateVerifyMac); err != nil {
		return nil, err
	}
	return k, offered(k, k.offers().mac, a)
}

// mac returns the code of a message in the call's own memory.
func (s *Service) mac(c *access.Call, k *key, message []byte) ([]byte, error) {
	as, err := s.expansions.use(k.current, k, c.Now())
	if err != nil {
		return nil, s.damagedMaterial(k, err)
	}
	template := as.(hash.Cloner)
	code := c.Bytes(template.Size())[:0]
	securemem.Do(func() { // a copy is as good as the key
		var h hash.Cloner
		if h, err = template.Clone(); err == nil {
			h.Write(message)
			code = h.Sum(code)
		}
	})
	if err != nil {
		return nil, api.Internal(fmt.Errorf("copy an HMAC: %w", err))
	}
	return code, nil
}
