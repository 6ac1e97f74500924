package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// UpdateKeyDescription describes a key of the caller's account by another text, or
// by none. (AWS KMS API Reference, UpdateKeyDescription.)
//
// Errors: NotFound, also for an alias, AccessDenied, KMSInvalidState (the key is
// to be deleted).
func (s *Service) UpdateKeyDescription(c *access.Call, in *kmsapi.UpdateKeyDescriptionRequest, _ *kmsapi.UpdateKeyDescriptionResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			err := keptStates.refuse(k.arn, r.State)
			r.Description = in.Description
			return err
		})
	})
}
