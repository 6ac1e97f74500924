package kms

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// Due work is what is to be done with a key at a time, a row each (FORMAT.md, "Due work").
// The runner finds rows by a Scan and decides nothing by it: the row says no more than that
// the key's own row is to be looked at.

// dueKind says what is due. Numbers are frozen: they are on disk.
type dueKind uint8

const (
	dueDeletion dueKind = 1
	dueRotation dueKind = 2
	dueExpiry   dueKind = 3 // of imported material
)

// dueHandler does one piece of work. It decides by the key's row inside a transaction of
// [dueWork.change], which takes the piece away; one that it leaves in its place is given to it
// again. It may put another piece for the key, of a time behind w.now. An error is
// told to the operator, and the piece is tried again in the next pass.
type dueHandler func(s *Service, ctx context.Context, w *dueWork) error

// dueHandlers is the one table of what is done. A kind without a line is a failure of its row.
var dueHandlers = map[dueKind]dueHandler{
	dueDeletion: (*Service).destroyDue,
	dueRotation: rotateDue,
	dueExpiry:   (*Service).expireDue,
}

// dueItem is the name of a piece of work.
type dueItem struct {
	at   api.Time
	kind dueKind
	key  api.KeyID
}

func (d dueItem) name() keystore.Name {
	return keystore.MakeName(keystore.SpaceDue, string(binary.BigEndian.AppendUint64(nil, uint64(d.at))), string([]byte{byte(d.kind)}), string(d.key[:]))
}

// parseDue reads a name of the space of due work.
func parseDue(n keystore.Name) (d dueItem, ok bool) {
	parts := n.Components()
	if n.Space() != keystore.SpaceDue || len(parts) != 3 || len(parts[0]) != 8 || len(parts[1]) != 1 || len(parts[2]) != len(d.key) {
		return d, false
	}
	at := binary.BigEndian.Uint64([]byte(parts[0]))
	return dueItem{api.Time(at), dueKind(parts[1][0]), api.KeyID([]byte(parts[2]))}, at>>63 == 0
}

// putDue and dropDue write and remove a piece of work, in the transaction that changes
// the key's row so that the row says the same.
func putDue(tx keystore.Tx, d dueItem) error { return tx.Put(d.name(), listed) }

func dropDue(tx keystore.Tx, d dueItem) error { return tx.Delete(d.name()) }

// Time is the time that due work goes by. Its methods are safe for concurrent use.
type Time interface {
	// Accepted returns the time that the appliance believes in. ok is false where the
	// system's clock says one that it cannot believe: then nothing that is due may be done.
	Accepted() (now time.Time, ok bool)
	// Powered returns for how long the appliance has been on, in all its life.
	Powered() time.Duration
}

// dueWork is a piece of work that has come due, for its handler.
type dueWork struct {
	dueItem
	now  api.Time // accepted
	time Time
	gate *access.Gate
	s    *Service
}

// change runs f in one transaction with the end of this piece of work, if it is still
// there and so is its key, and with the audit record of the event that f returns: none if
// f finds nothing to do. What f changes in row is written. f may run several times.
func (w *dueWork) change(ctx context.Context, f func(tx keystore.Tx, row *keyRow) (*access.Event, error)) error {
	return w.gate.Update(ctx, w.s.store, func(tx keystore.Tx) (*access.Event, error) {
		before, err := w.claim(tx)
		if before == nil || err != nil {
			return nil, err
		}
		row, _, err := parseKeyRow(before)
		if err != nil {
			return nil, err
		}
		event, err := f(tx, &row)
		if err != nil {
			return nil, err
		}
		after, err := cbor.Marshal(&row)
		if err == nil && !bytes.Equal(before, after) {
			err = tx.Put(keyName(w.key), after)
		}
		return event, err
	})
}

// claim takes the piece of work away and returns the key's row: nil if the work is
// somebody else's by now, or the key is gone.
func (w *dueWork) claim(tx keystore.Tx) ([]byte, error) {
	if _, err := tx.Get(w.name()); errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := dropDue(tx, w.dueItem); err != nil {
		return nil, err
	}
	row, err := tx.Get(keyName(w.key))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	return row, err
}

// reckoned returns the time that dates of what is to be done count from: the one that due work goes by, which a
// clock that was set wrong and right again has not changed. While the clock is not believed it is the later of the
// two: a key that is to be deleted then has its window also if an operator accepts the clock.
func (s *Service) reckoned(c *access.Call) time.Time {
	now, ok := s.time.Accepted()
	if wall := c.Now(); !ok && wall.After(now) {
		return wall
	}
	return now
}

// WakeDue lets RunDue look at once at what is due: the accepted time has changed.
func (s *Service) WakeDue() { s.due.wake() }

// dueWords say what becomes of a key by a piece of work.
var dueWords = map[dueKind]string{
	dueDeletion: "is destroyed, after 24 hours of warning",
	dueRotation: "gets a new material",
	dueExpiry:   "loses imported material",
}

// DueUntil says what is to be done up to a time, for people: one sentence for each of the
// first 99 pieces, one that counts the others, and one that counts rows that cannot be read.
func (s *Service) DueUntil(ctx context.Context, until time.Time) (all []string, err error) {
	const most = 99
	lo, hi := keystore.Range(keystore.SpaceDue)
	more, broken := 0, 0
	for from := lo; from.Valid() && err == nil; {
		next := keystore.Name{}
		err = s.store.View(ctx, func(r keystore.Reader) error {
			for e, err := range r.Scan(from, hi) {
				if errors.Is(err, keystore.ErrDamaged) && e.Name.Valid() {
					broken++
					next = behindRow(e.Name)
					return nil
				}
				if err != nil {
					return err
				}
				d, ok := parseDue(e.Name)
				if !ok {
					broken++
					continue
				}
				if d.at.Time().After(until) {
					return nil
				}
				if more++; more <= most {
					all = append(all, fmt.Sprintf("key %s %s", d.key, dueWords[d.kind]))
				}
			}
			return nil
		})
		from = next
	}
	if more > most {
		all = append(all, fmt.Sprintf("and %d more", more-most))
	}
	if broken > 0 {
		all = append(all, fmt.Sprintf("%d rows of due work cannot be read: run keyrack check", broken))
	}
	return all, err
}
