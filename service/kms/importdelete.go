package kms

import (
	"context"
	"encoding/hex"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// removalStates are those in which imported material may be deleted (AWS KMS developer
// guide, "Key states of AWS KMS keys").
var removalStates = setOf(kmsapi.StateEnabled, kmsapi.StateDisabled, kmsapi.StatePendingImport, kmsapi.StatePendingDeletion)

// DeleteImportedKeyMaterial destroys imported material, the current one if the caller does
// not say: the key waits for the same material from then on, and cannot be used. Material
// that waits for its rotation is forgotten, and the key goes on. Deleting what is
// not there does nothing. (AWS KMS API Reference, DeleteImportedKeyMaterial.)
//
// Errors in the order in which they are found: ValidationException, AccessDenied and
// NotFound, UnsupportedOperation (the key makes its own material, or KeyMaterialId is given for
// one that is no symmetric encryption key), KMSInvalidState, NotFound (the key never had such material).
func (s *Service) DeleteImportedKeyMaterial(c *access.Call, in *kmsapi.DeleteImportedKeyMaterialRequest, out *kmsapi.DeleteImportedKeyMaterialResponse) error {
	k, err := s.importing(c, &in.KeyId, removalStates)
	if err != nil {
		return err
	}
	symmetric := k.row.Spec == kmsapi.KeySpecSymmetricDefault
	if in.KeyMaterialId != "" && !symmetric {
		return api.Errorf(api.KindUnsupportedOperation, "KeyMaterialId is valid for symmetric encryption keys only: %s has one key material", k.arn)
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	wanted, _ := hex.DecodeString(in.KeyMaterialId) // the member's rule is hex
	out.KeyId = k.arn
	now := api.TimeOf(s.reckoned(c))
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := removalStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			m, err := materialsOf(tx, k.id, r)
			if err != nil {
				return err
			}
			id := wanted
			if len(id) == 0 {
				id = r.Current
			}
			switch {
			case len(id) == 0: // nothing was imported yet
				return nil
			case m.of(id) == nil:
				return api.Errorf(api.KindNotFound, "%s has no key material %x", k.arn, id)
			}
			if symmetric {
				out.KeyMaterialId = hex.EncodeToString(id)
			}
			return removeMaterial(tx, k.id, r, id, now)
		})
	})
}

// expiryDue is the piece of work of the material that expires first.
func (r *keyRow) expiryDue(id api.KeyID) dueItem { return dueItem{r.Expiry, dueExpiry, id} }

// reschedule moves the piece of work of the material that expires first; 0 is none.
func (r *keyRow) reschedule(tx keystore.Tx, id api.KeyID, first api.Time) error {
	if r.Expiry == first {
		return nil
	}
	if r.Expiry != 0 {
		if err := dropDue(tx, r.expiryDue(id)); err != nil {
			return err
		}
	}
	if r.Expiry = first; first == 0 {
		return nil
	}
	return putDue(tx, r.expiryDue(id))
}

// expireDue deletes a material whose time is over, one in a transaction, as
// DeleteImportedKeyMaterial does: the next one is a piece of work of its own.
func (s *Service) expireDue(ctx context.Context, w *dueWork) error {
	return w.change(ctx, func(tx keystore.Tx, row *keyRow) (*access.Event, error) {
		if row.Expiry != w.at {
			return nil, nil // it was imported again, or deleted
		}
		row.Expiry = 0 // this piece is taken
		m, err := materialsOf(tx, w.key, row)
		if err != nil {
			return nil, err
		}
		over := m.first(func(e *materialEntry) bool { return e.here() && e.ValidTo != 0 && e.ValidTo <= w.now })
		if over == nil {
			return nil, row.reschedule(tx, w.key, m.expiry())
		}
		account, err := api.ParseAccountID(row.Account)
		if err != nil {
			return nil, err
		}
		event := &access.Event{Op: kmsapi.DeleteExpiredKeyMaterial.Op, Account: account, Resource: s.realm.KeyARN(account, w.key, w.key.Multi()), Details: &kmsapi.DeleteExpiredKeyMaterialEvent{
			KeyId: w.key.String(), KeyMaterialId: hex.EncodeToString(over.ID), ValidTo: over.ValidTo,
		}}
		return event, removeMaterial(tx, w.key, row, over.ID, w.now)
	})
}

// importing checks the row of an import token. It comes behind all keys.
func (c *checker) importing(n keystore.Name, parts []string, value []byte) {
	if _, err := parseImportRow(value); err != nil {
		c.reportf("%s: %v", n, err)
	}
	if k := c.keys[api.KeyID([]byte(parts[0]))]; k == nil || k.origin != kmsapi.OriginExternal {
		c.reportf("%s: there is no such key whose material is imported", n)
	}
}

// expiring checks when the first material of a key expires, which is due work.
func (c *checker) expiring(n keystore.Name, k *checkedKey, m materials) {
	if first := m.expiry(); first != k.expiry {
		c.reportf("%s: the first of the materials expires at %d, and for the key at %d", n, first, k.expiry)
	}
}
