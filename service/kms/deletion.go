package kms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// deletionWarning is for how long before its date, and for how long of the time that the
// appliance is on at least, a key's end is warned of.
const deletionWarning = 24 * time.Hour

// doom is what the deletion of a key needs to know: FORMAT.md, "Key", member 15.
type doom struct {
	Due       api.Time `cbor:"1,keyasint"`           // of its piece of due work
	Scheduled api.Time `cbor:"2,keyasint"`           // when it was asked for
	By        string   `cbor:"3,keyasint"`           // ARN of who asked
	Warned    int64    `cbor:"4,keyasint,omitempty"` // powered-on time when the warning began, µs; 0 = it has not
	Begun     bool     `cbor:"5,keyasint,omitempty"` // the destruction has begun: no way back
}

// What the states of a key allow of its end (AWS KMS developer guide, "Key states of AWS KMS keys").
var (
	doomedStates   = setOf(kmsapi.StatePendingDeletion)
	doomableStates = keptStates &^ setOf(kmsapi.StateUpdating)
)

// ScheduleKeyDeletion lets a key of the caller's account be destroyed when a window of 7
// to 30 days is over, 30 if the caller does not say: from the next request of every
// connection on nobody can use it, and until then it can be had back. The window
// begins at the later of the machine's clock and of the time that was reached before.
// (AWS KMS API Reference, ScheduleKeyDeletion.)
//
// Errors in the order in which they are found: ValidationException (the window),
// NotFound, also for an alias, AccessDenied, KMSInvalidState (it is to be deleted
// already, or is being updated).
func (s *Service) ScheduleKeyDeletion(c *access.Call, in *kmsapi.ScheduleKeyDeletionRequest, out *kmsapi.ScheduleKeyDeletionResponse) error {
	days := in.PendingWindowInDays
	if days == 0 {
		days = api.MaxDeletionWindow
	}
	if days < api.MinDeletionWindow || days > api.MaxDeletionWindow {
		return api.Errorf(api.KindValidation, "PendingWindowInDays is %d: a key can be deleted after %d to %d days", days, api.MinDeletionWindow, api.MaxDeletionWindow)
	}
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	in.PendingWindowInDays = days // for the record, also where the caller left it out
	now := s.reckoned(c)
	date := now.Add(time.Duration(days) * 24 * time.Hour)
	err = c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			if err := doomableStates.refuse(k.arn, r.State); err != nil {
				return err
			}
			r.State, r.Deletion = kmsapi.StatePendingDeletion, api.TimeOf(date)
			r.Doom = &doom{Due: api.TimeOf(date.Add(-deletionWarning)), Scheduled: api.TimeOf(now), By: c.Principal().ARN}
			*out = kmsapi.ScheduleKeyDeletionResponse{KeyId: k.arn, DeletionDate: r.Deletion, KeyState: r.State, PendingWindowInDays: days}
			return errors.Join(r.pauseRotation(tx, k.id), putDue(tx, r.deletionDue(k.id)))
		})
	})
	return err
}

// CancelKeyDeletion keeps a key that was to be destroyed: it is Disabled from then on,
// or PendingImport if it waits for imported material. Once the destruction has begun
// there is no such key. (AWS KMS API Reference, CancelKeyDeletion.)
//
// Errors in the order in which they are found: NotFound, also for an alias,
// AccessDenied, KMSInvalidState (it is not to be deleted).
func (s *Service) CancelKeyDeletion(c *access.Call, in *kmsapi.CancelKeyDeletionRequest, out *kmsapi.CancelKeyDeletionResponse) error {
	k, err := s.ownAdmitted(c, &in.KeyId)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	out.KeyId = k.arn
	return c.Update(s.store, func(tx keystore.Tx) error {
		return s.changeKey(tx, k, func(r *keyRow) error {
			switch {
			case doomedStates&(1<<r.State) == 0 || r.Doom == nil:
				return api.Errorf(api.KindInvalidState, "%s is not pending deletion.", k.arn)
			case r.Doom.Begun:
				return s.noKey(k.account, k.id, k.multi)
			}
			if err := dropDue(tx, r.deletionDue(k.id)); err != nil {
				return err
			}
			r.State, r.Deletion, r.Doom = kmsapi.StateDisabled, 0, nil
			if r.Origin != kmsapi.OriginExternal {
				return nil
			}
			m, err := materialsOf(tx, k.id, r)
			if err == nil && !m.whole() {
				r.State = kmsapi.StatePendingImport
			}
			return err
		})
	})
}

// dying reports whether the key is to be deleted.
func (r *keyRow) dying() bool { return r.State == kmsapi.StatePendingDeletion }

// deletionDue is the piece of work of a key that is to be deleted.
func (r *keyRow) deletionDue(id api.KeyID) dueItem { return dueItem{r.Doom.Due, dueDeletion, id} }

// doomed are keys whose end is warned of: the first few, and how many there are.
type doomed struct {
	first []doomedKey
	n     int
}

type doomedKey struct {
	id   api.KeyID
	date api.Time
}

// Bounds of what is known of them.
const (
	doomedNamed = 10
	doomedMost  = 1000 // rows that are looked at
)

// warnings has one for each of the first keys, and one that counts the rest.
func (d doomed) warnings() (all []string) {
	for _, k := range d.first {
		all = append(all, fmt.Sprintf("key %s will be destroyed, not before %s: keyrack key cancel-deletion keeps it", k.id, k.date.Time().Format(time.RFC3339)))
	}
	if more := d.n - len(d.first); more > 0 {
		all = append(all, fmt.Sprintf("%d more keys will be destroyed within a day or two", more))
	}
	return all
}

// doomedBy returns the keys whose end is warned of. They are for people, so a scan will do.
func (s *Service) doomedBy(ctx context.Context, t Time) (d doomed, err error) {
	now, _ := t.Accepted()
	until := api.TimeOf(now.Add(deletionWarning + time.Hour)) // a warning is over a day and a moment later at most
	lo, hi := keystore.Range(keystore.SpaceDue)
	err = s.store.View(ctx, func(r keystore.Reader) error {
		d = doomed{}
		looked := 0
		for e, err := range r.Scan(lo, hi) {
			if err != nil {
				return err
			}
			w, ok := parseDue(e.Name)
			if looked++; looked > doomedMost || ok && w.at > until {
				return nil
			}
			if !ok || w.kind != dueDeletion {
				continue
			}
			if err := d.look(r, w); err != nil {
				return err
			}
		}
		return nil
	})
	return d, err
}

// look counts the key of a piece of work if its end is warned of.
func (d *doomed) look(r keystore.Reader, w dueItem) error {
	b, err := r.Get(keyName(w.key))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	row, _, err := parseKeyRow(b)
	if err != nil || row.Doom == nil || row.Doom.Warned == 0 {
		return err
	}
	if d.n++; len(d.first) < doomedNamed {
		d.first = append(d.first, doomedKey{w.key, row.Deletion})
	}
	return nil
}
