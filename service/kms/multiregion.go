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
// Errors in the order in which they are found: ValidationException, InvalidArn, NotFound,
// also for an alias, and AccessDenied, Disabled and KMSInvalidState, UnsupportedOperation
// for a key of one region, AlreadyExists for the region that the key is in,
// UnsupportedOperation for any other.
func (s *Service) ReplicateKey(c *access.Call, in *kmsapi.ReplicateKeyRequest, _ *kmsapi.ReplicateKeyResponse) error {
	k, err := s.multiRegion(c, &in.KeyId, enabledStates)
	switch {
	case err != nil:
		return err
	case in.ReplicaRegion == s.realm.Region:
		return api.Errorf(api.KindAlreadyExists, "Unable to replicate key %s to region %s, as the key already exists there", k.arn, in.ReplicaRegion)
	}
	return s.oneRegion(c)
}

// UpdatePrimaryRegion is decided like any other operation and then refused, as
// ReplicateKey is, but where the key is primary it is UnsupportedOperation, too.
// (AWS KMS API Reference, UpdatePrimaryRegion.)
func (s *Service) UpdatePrimaryRegion(c *access.Call, in *kmsapi.UpdatePrimaryRegionRequest, _ *kmsapi.UpdatePrimaryRegionResponse) error {
	k, err := s.multiRegion(c, &in.KeyId, usableStates)
	switch {
	case err != nil:
		return err
	case in.PrimaryRegion == s.realm.Region:
		return api.Errorf(api.KindUnsupportedOperation, "%s is the primary key already.", k.arn)
	}
	return s.oneRegion(c)
}

// multiRegion returns the key that ref names, admitted, if it is in one of the states and
// a multi-Region key.
func (s *Service) multiRegion(c *access.Call, ref *api.KeyRef, allowed states) (*key, error) {
	k, err := s.ownAdmitted(c, ref)
	if err != nil {
		return nil, err
	}
	if err := allowed.refuse(k.arn, k.row.State); err != nil {
		return nil, err
	}
	if !k.multi {
		return nil, api.Errorf(api.KindUnsupportedOperation, "%s is not a multi-Region key.", k.arn)
	}
	return k, nil
}

// oneRegion answers that there is no other one.
func (s *Service) oneRegion(c *access.Call) error {
	return api.Errorf(api.KindUnsupportedOperation, "%s is not supported: this appliance is one region, %s, and no other has its keys", c.Op().Name, s.realm.Region)
}
