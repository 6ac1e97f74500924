package kms

import (
	"bytes"
	"context"
	"encoding/hex"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// EnableKeyRotation makes the appliance rotate a symmetric encryption key by itself every
// 90 to 2560 days from now on, 365 if the caller does not say. For a key that is rotated
// already another period begins now, and the same one changes nothing. (AWS KMS API
// Reference, EnableKeyRotation.)
//
// Errors in the order in which they are found: NotFound, also for an alias, AccessDenied,
// UnsupportedOperation (it is no symmetric encryption key, or its material is imported),
// Disabled and KMSInvalidState.
func (s *Service) EnableKeyRotation(c *access.Call, in *kmsapi.EnableKeyRotationRequest, _ *kmsapi.EnableKeyRotationResponse) error {
	days := in.RotationPeriodInDays
	if days == 0 {
		days = api.RotationPeriod
	}
	return s.schedule(c, &in.KeyId, uint16(days), func() { in.RotationPeriodInDays = days })
}

// DisableKeyRotation ends the rotations that the appliance makes by itself; the key can
// still be rotated on demand. (AWS KMS API Reference, DisableKeyRotation.) Errors are those
// of EnableKeyRotation.
func (s *Service) DisableKeyRotation(c *access.Call, in *kmsapi.DisableKeyRotationRequest, _ *kmsapi.DisableKeyRotationResponse) error {
	return s.schedule(c, &in.KeyId, 0, func() {})
}

// schedule lets a key be rotated every so many days, or not: 0. Once it is decided on what was asked for, told makes
// the request say, for its record, what is done.
func (s *Service) schedule(c *access.Call, ref *api.KeyRef, days uint16, told func()) error {
	k, err := s.ownAdmitted(c, ref)
	if err != nil {
		return err
	}
	if err := k.rotates(); err != nil {
		return err
	}
	if k.row.Origin != kmsapi.OriginAWSKMS {
		return api.Errorf(api.KindUnsupportedOperation, "%s origin is %s which is not valid for this operation.", k.arn, k.row.Origin)
	}
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	told()
	now := api.TimeOf(s.reckoned(c))
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := usableStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			return r.rotateEvery(tx, k.id, days, now)
		})
	})
}

// GetKeyRotationStatus says whether and when the appliance will rotate a symmetric
// encryption key by itself: never one that is to be deleted, until that is cancelled. A
// rotation on demand is over when it is answered, so none is ever under way. (AWS KMS
// API Reference, GetKeyRotationStatus.)
//
// Errors in the order in which they are found: NotFound, also for an alias, AccessDenied,
// UnsupportedOperation (it is no symmetric encryption key).
func (s *Service) GetKeyRotationStatus(c *access.Call, in *kmsapi.GetKeyRotationStatusRequest, out *kmsapi.GetKeyRotationStatusResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := k.rotates(); err != nil {
		return err
	}
	out.KeyId = k.arn
	if k.row.RotateDays != 0 && keptStates&(1<<k.row.State) != 0 {
		out.KeyRotationEnabled, out.RotationPeriodInDays, out.NextRotationDate = true, int64(k.row.RotateDays), k.row.RotateNext
	}
	return nil
}

// afterDays returns the time so many days later.
func afterDays(t api.Time, days uint16) api.Time {
	return t + api.Time(time.Duration(days)*24*time.Hour/time.Microsecond)
}

// rotateEvery changes the period of the automatic rotations in a key's row, 0 for none, and
// what is due with it. A date that no such period can have given was made by a clock that
// was ahead: it is set anew too.
func (r *keyRow) rotateEvery(tx keystore.Tx, id api.KeyID, days uint16, now api.Time) error {
	if r.RotateDays == days && r.RotateNext <= afterDays(now, days) {
		return nil
	}
	if err := r.pauseRotation(tx, id); err != nil {
		return err
	}
	r.RotateDays, r.RotateNext = days, 0
	if days > 0 {
		r.RotateNext = afterDays(now, days)
	}
	return r.resumeRotation(tx, id)
}

// rotationDue is the piece of work of a key that is rotated automatically.
func (r *keyRow) rotationDue(id api.KeyID) dueItem { return dueItem{r.RotateNext, dueRotation, id} }

// pauseRotation takes the next automatic rotation out of what is due, for a key that is
// not enabled any more. resumeRotation puts it there for one that is: it is done at
// once, if its time was over meanwhile.
func (r *keyRow) pauseRotation(tx keystore.Tx, id api.KeyID) error {
	if r.RotateNext == 0 {
		return nil
	}
	return dropDue(tx, r.rotationDue(id))
}

func (r *keyRow) resumeRotation(tx keystore.Tx, id api.KeyID) error {
	if r.RotateNext == 0 || r.State != kmsapi.StateEnabled {
		return nil
	}
	return putDue(tx, r.rotationDue(id))
}

// rotateDue rotates a key whose time has come: once, however many periods have passed
// while nobody was there to do it. The next period begins now. What is due of a key that
// is not enabled comes back with EnableKey.
func rotateDue(s *Service, ctx context.Context, w *dueWork) error {
	k, err := s.load(ctx, w.key)
	if err != nil {
		return err
	}
	if k == nil {
		return w.change(ctx, func(keystore.Tx, *keyRow) (*access.Event, error) { return nil, nil })
	}
	var last rotated
	return s.rotate(ctx, k, s.drawSecret, func(secret []byte) (rotated, error) {
		err := w.change(ctx, func(tx keystore.Tx, r *keyRow) (*access.Event, error) {
			last = rotated{}
			if r.RotateNext != w.at || enabledStates&(1<<r.State) == 0 {
				return nil, nil
			}
			done, err := rotateIn(tx, k, r, secret, w.now, kmsapi.RotationAutomatic)
			if err != nil {
				return nil, err
			}
			last, r.RotateNext = done, afterDays(w.now, r.RotateDays)
			return k.rotation(done), r.resumeRotation(tx, k.id)
		})
		return last, err
	}, func(back func(keystore.Tx, *keyRow) error) error {
		return w.gate.Update(ctx, s.store, func(tx keystore.Tx) (*access.Event, error) {
			moved := false
			err := s.changeKey(tx, k, func(r *keyRow) error {
				before := r.Current
				err := back(tx, r)
				moved = !bytes.Equal(before, r.Current)
				return err
			})
			if !moved || err != nil {
				return nil, err
			}
			return k.rotation(rotated{is: last.was, was: last.is}), nil
		})
	})
}

// rotation is the record of an automatic rotation.
func (k *key) rotation(done rotated) *access.Event {
	return &access.Event{Op: kmsapi.RotateKey.Op, Account: k.account, Resource: k.arn, Details: &kmsapi.RotateKeyEvent{
		KeyId: k.id.String(), RotationType: kmsapi.RotationAutomatic.String(),
		KeyMaterialId: hex.EncodeToString(done.is), PreviousMaterialId: hex.EncodeToString(done.was),
	}}
}
