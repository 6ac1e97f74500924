package kms

import (
	"strings"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// primary returns the configuration of a multi-Region key, of which every one is the
// primary key: there is no other region that a replica could be in.
func primary(arn string) kmsapi.MultiRegionConfiguration {
	return kmsapi.MultiRegionConfiguration{
		MultiRegionKeyType: kmsapi.MultiRegionPrimary,
		PrimaryKey:         kmsapi.MultiRegionKey{Arn: arn, Region: strings.Split(arn, ":")[3]},
	}
}

// ReplicateKey is decided like any other operation and then refused: this appliance is
// the only region that it knows. (AWS KMS API Reference, ReplicateKey.)
//
// Errors in the order in which they are found: ValidationException, NotFound, also for
// an alias, and AccessDenied, Disabled and KMSInvalidState, UnsupportedOperation.
func (s *Service) ReplicateKey(c *access.Call, in *kmsapi.ReplicateKeyRequest, _ *kmsapi.ReplicateKeyResponse) error {
	return s.refuseRegion(c, &in.KeyId, enabledStates)
}

// UpdatePrimaryRegion is decided like any other operation and then refused, as
// ReplicateKey is. (AWS KMS API Reference, UpdatePrimaryRegion.)
func (s *Service) UpdatePrimaryRegion(c *access.Call, in *kmsapi.UpdatePrimaryRegionRequest, _ *kmsapi.UpdatePrimaryRegionResponse) error {
	return s.refuseRegion(c, &in.KeyId, usableStates)
}

func (s *Service) refuseRegion(c *access.Call, ref *api.KeyRef, allowed states) error {
	k, err := s.ownAdmitted(c, ref)
	if err != nil {
		return err
	}
	if err := allowed.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if !k.multi {
		return api.Errorf(api.KindUnsupportedOperation, "%s is not a multi-Region key.", k.arn)
	}
	return api.Errorf(api.KindUnsupportedOperation, "%s is not supported: this appliance is one region, %s, and no other has its keys", c.Op().Name, s.realm.Region)
}
