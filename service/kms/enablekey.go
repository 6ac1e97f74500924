package kms

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// EnableKey makes a key usable again, from the next request of every connection
// on. A key that is enabled stays so; one whose automatic rotation was due meanwhile is
// rotated at once. (AWS KMS API Reference, EnableKey.)
//
// Errors: NotFound, also for an alias, AccessDenied, KMSInvalidState (it is neither
// enabled nor disabled).
func (s *Service) EnableKey(c *access.Call, in *kmsapi.EnableKeyRequest, _ *kmsapi.EnableKeyResponse) error {
	return s.switchKey(c, &in.KeyId, kmsapi.StateEnabled)
}

// DisableKey ends all use of a key, from the next request of every connection
// on: when this is answered, every snapshot of the key that was usable is gone. A
// key that is disabled stays so. Errors are those of EnableKey. (AWS KMS API
// Reference, DisableKey.)
func (s *Service) DisableKey(c *access.Call, in *kmsapi.DisableKeyRequest, _ *kmsapi.DisableKeyResponse) error {
	return s.switchKey(c, &in.KeyId, kmsapi.StateDisabled)
}

// switchKey decides by the state that the row has inside the transaction.
func (s *Service) switchKey(c *access.Call, ref *api.KeyRef, to kmsapi.KeyState) error {
	k, err := s.ownAdmitted(c, ref)
	if err != nil {
		return err
	}
	if err := switchedStates.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := switchedStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			r.State = to
			if to == kmsapi.StateEnabled {
				return r.resumeRotation(tx, k.id)
			}
			return r.pauseRotation(tx, k.id)
		})
	})
}
