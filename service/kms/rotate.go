package kms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// RotateKeyOnDemand gives a symmetric encryption key another current material, from the
// next request of every connection on: a new one or, where the owner imports it, the one
// that waits for this. What was encrypted before can still be decrypted, and the schedule
// of automatic rotations stays as it is. It is answered only after the material was read
// back from the store, gave its id and derived one message key twice. (AWS KMS API
// Reference, RotateKeyOnDemand.)
//
// Errors in the order in which they are found: NotFound, also for an alias, AccessDenied,
// UnsupportedOperation (it is no symmetric encryption key), Disabled and KMSInvalidState,
// Conflict (an automatic rotation is due within 20 minutes), LimitExceeded (the key was
// rotated on demand 25 times), KMSInvalidState (no imported material waits).
func (s *Service) RotateKeyOnDemand(c *access.Call, in *kmsapi.RotateKeyOnDemandRequest, out *kmsapi.RotateKeyOnDemandResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := k.rotates(); err != nil {
		return err
	}
	if err := enabledStates.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	out.KeyId = k.arn
	at := api.TimeOf(s.reckoned(c))
	return s.rotate(c.Context(), k, s.drawSecret, func(secret []byte) (done rotated, err error) {
		err = c.Update(s.store, func(tx keystore.Tx) error {
			return s.changeKey(tx, k, func(r *keyRow) (err error) {
				if err := k.rotatesOnDemand(tx, r, at); err != nil {
					return err
				}
				done, err = rotateIn(tx, k, r, secret, at, kmsapi.RotationOnDemand)
				out.KeyMaterialId, out.PreviousMaterialId = hex.EncodeToString(done.is), hex.EncodeToString(done.was)
				return err
			})
		})
		return done, err
	}, func(back func(keystore.Tx, *keyRow) error) error {
		return c.Update(s.store, func(tx keystore.Tx) error {
			return s.changeKey(tx, k, func(r *keyRow) error {
				err := back(tx, r)
				out.KeyMaterialId, out.PreviousMaterialId = hex.EncodeToString(r.Current), ""
				return err
			})
		})
	})
}

// rotates refuses, in AWS's words, a key that only ever has one material.
func (k *key) rotates() error {
	if k.row.Spec == kmsapi.KeySpecSymmetricDefault {
		return nil
	}
	return api.Errorf(api.KindUnsupportedOperation, "%s key spec is %s which is not valid for this operation.", k.arn, k.row.Spec)
}

// rotationNear is how long before an automatic rotation a key is not rotated on demand.
const rotationNear = api.Time(20 * time.Minute / time.Microsecond)

// rotatesOnDemand decides by the row that the key has inside the transaction.
func (k *key) rotatesOnDemand(tx keystore.Tx, r *keyRow, at api.Time) error {
	if err := enabledStates.refuse(k.arn, r.State); err != nil {
		return err
	}
	if r.RotateNext != 0 && r.RotateNext <= at+rotationNear {
		return api.Errorf(api.KindConflict, "%s is rotated automatically at %s: less than 20 minutes before, and until it is done, it is not rotated on demand", k.arn, r.RotateNext.Time().Format(time.RFC3339))
	}
	m, err := materialsOf(tx, k.id, r)
	if err != nil {
		return err
	}
	times := 0
	for i := range m {
		if m[i].Rotation == kmsapi.RotationOnDemand {
			times++
		}
	}
	if times >= api.MaxOnDemandRotations {
		return api.Errorf(api.KindLimitExceeded, "%s was rotated on demand %d times, and no key may be more often: let the appliance rotate it by itself (EnableKeyRotation)", k.arn, times)
	}
	return nil
}

// rotated is which material a rotation made current, and which one was before it.
type rotated struct{ is, was []byte } // KeyMaterialIds; none where nothing was to be done

// drawTries is how often a rotation draws material: a second time once in 2^23 keys of 512 materials.
const drawTries = 4

// rotate makes another material of k the current one: write does so in one transaction,
// with a secret that draw has made, or with none where the owner of k imports them. The
// material is then read back and proved. If the store has not what was written, nobody
// has encrypted under it, and undo is to run what goes back to the one before in a transaction.
func (s *Service) rotate(ctx context.Context, k *key, draw func(kmsapi.KeySpec) (*securemem.Buffer, error),
	write func(secret []byte) (rotated, error), undo func(func(keystore.Tx, *keyRow) error) error) error {
	var done rotated
	err := errShortTaken
	for try := 0; errors.Is(err, errShortTaken) && try < drawTries; try++ {
		if k.row.Origin != kmsapi.OriginAWSKMS {
			done, err = write(nil)
			continue
		}
		secret, drawn := draw(k.row.Spec)
		if drawn != nil {
			return drawn
		}
		done, err = write(secret.Bytes())
		secret.Free() // its place is there for the copy that is read back
	}
	if err != nil || done.is == nil {
		return err
	}
	err = s.proveMaterial(ctx, k, done.is)
	if errors.Is(err, errMaterialChanged) || errors.Is(err, keystore.ErrDamaged) {
		err = errors.Join(err, undo(func(tx keystore.Tx, r *keyRow) error { return done.back(tx, k, r) }))
	}
	return err
}

// rotateIn makes the material with a new secret, or the pending one, current in the
// transaction that changes the row r of k.
func rotateIn(tx keystore.Tx, k *key, r *keyRow, secret []byte, at api.Time, by kmsapi.RotationType) (rotated, error) {
	was := r.Current
	if secret != nil {
		id := materialID(k.id, secret)
		err := addMaterial(tx, k.id, r, materialEntry{ID: id[:], State: kmsapi.MaterialCurrent, Since: at, Rotated: at, Rotation: by}, secret)
		return rotated{id[:], was}, err
	}
	m, err := materialsOf(tx, k.id, r)
	if err != nil {
		return rotated{}, err
	}
	m = m.superseded(kmsapi.MaterialCurrent)
	e := m.in(kmsapi.MaterialPendingRotation)
	if e == nil || !e.here() || e.ValidTo != 0 && e.ValidTo <= at {
		return rotated{}, api.Errorf(api.KindInvalidState, "%s has no key material that waits for a rotation: import one with the ImportType NEW_KEY_MATERIAL first", k.arn)
	}
	if err := storedMaterial(tx, k, e.ID); err != nil {
		return rotated{}, err
	}
	e.State, e.Rotated, e.Rotation = kmsapi.MaterialCurrent, at, by
	return rotated{e.ID, was}, putMaterials(tx, k.id, r, m)
}

// storedMaterial checks that the row of a secret is one that gives its id.
func storedMaterial(tx keystore.Tx, k *key, id []byte) error {
	b, err := tx.Get(materialName(k.id, id))
	if errors.Is(err, keystore.ErrNotFound) {
		return fmt.Errorf("material %x: %w: there is none", id, keystore.ErrDamaged)
	}
	if err != nil {
		return err
	}
	if err := checkMaterialRow(b, k.row.Spec); err != nil {
		return err
	}
	if materialID(k.id, b[1:]) != [32]byte(id) {
		return fmt.Errorf("material %x: %w", id, errMaterialChanged)
	}
	return nil
}

// back makes the material current again that was so before, if no other is by now.
// The one that was not proved is kept: it harms nobody.
func (d rotated) back(tx keystore.Tx, k *key, r *keyRow) error {
	m, err := materialsOf(tx, k.id, r)
	if err != nil {
		return err
	}
	m = slices.Clone(m)
	is, was := m.of(d.is), m.of(d.was)
	if is == nil || was == nil || is.State != kmsapi.MaterialCurrent {
		return nil
	}
	is.State, was.State = kmsapi.MaterialNonCurrent, kmsapi.MaterialCurrent
	return putMaterials(tx, k.id, r, m)
}

// proveMaterial reads a material back from the store, where it must give its id, and
// derives a message key from it, twice.
func (s *Service) proveMaterial(ctx context.Context, k *key, id []byte) error {
	m, err := s.loadMaterial(ctx, k, id)
	if err == nil {
		_, err = m.draw(k.id, time.Time{})
	}
	return err
}
