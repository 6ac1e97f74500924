package kms

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// Bounds of the runner.
const (
	dueAtOnce = 64          // rows that one snapshot is read for
	dueEvery  = time.Minute // the longest that it sleeps: work that failed is tried again, and time is looked at again
)

// due is what the runner has to be told, and tells.
type due struct {
	woken chan struct{} // has room for one: a row was written

	mu     sync.Mutex
	passes int    // that are over; guarded by mu, as what follows
	failed int    // pieces of work that the last pass has left because of an error
	cause  error  // of the last of them
	doomed doomed // keys whose end is warned of
}

// wake lets the runner look at its rows.
func (d *due) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// note says how a pass has gone.
func (d *due) note(failed int, cause error, keys doomed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes++
	d.failed, d.cause, d.doomed = failed, cause, keys
}

// warnings says which keys will be destroyed, and what of the last pass was left.
func (d *due) warnings() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all = d.doomed.warnings()
	if d.cause != nil {
		all = append(all, fmt.Sprintf("work that was due is not done, %d keys: %v: it is tried again every %v", d.failed, d.cause, dueEvery))
	}
	return all
}

// RunDue does what is due, by accepted time and behind g's audit log, until ctx ends. It
// wakes for the next row, when rows are written, and at least once in every, 0 being a minute.
// Nothing of it is in memory only: after a cut the rows that were not done are there.
func (s *Service) RunDue(ctx context.Context, g *access.Gate, every time.Duration) {
	if every == 0 {
		every = dueEvery
	}
	for {
		wait := min(every, s.duePass(ctx, g, s.time))
		alarm := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-alarm.C:
		case <-s.due.woken:
			alarm.Stop()
		case <-ctx.Done():
			alarm.Stop()
			return
		}
	}
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
// first 99 pieces, and one that counts the others.
func (s *Service) DueUntil(ctx context.Context, until time.Time) (all []string, err error) {
	const most = 99
	lo, hi := keystore.Range(keystore.SpaceDue)
	err = s.store.View(ctx, func(r keystore.Reader) error {
		all = nil
		more := 0
		for e, err := range r.Scan(lo, hi) {
			if err != nil {
				return err
			}
			d, ok := parseDue(e.Name)
			if ok && d.at.Time().After(until) {
				break
			}
			if more++; more <= most {
				all = append(all, fmt.Sprintf("key %s %s", d.key, dueWords[d.kind]))
			}
		}
		if more > most {
			all = append(all, fmt.Sprintf("and %d more", more-most))
		}
		return nil
	})
	return all, err
}

// duePass does all that is due now, one transaction or more for each piece, and returns
// how long it is until the next one. A piece that fails holds up none behind it.
func (s *Service) duePass(ctx context.Context, g *access.Gate, t Time) time.Duration {
	var failed int
	var cause error
	from, next := keystore.Name{}, dueEvery
	for more := true; more && ctx.Err() == nil; {
		now, ok := t.Accepted()
		if !ok {
			return dueEvery // status says so
		}
		page, err := s.duePage(ctx, from, api.TimeOf(now))
		if err != nil {
			failed, cause = failed+1, err
			break
		}
		for _, d := range page.items {
			if err := s.doDue(ctx, &dueWork{dueItem: d, now: api.TimeOf(now), time: t, gate: g, s: s}); err != nil && ctx.Err() == nil {
				failed, cause = failed+1, err
				s.logger.LogAttrs(ctx, slog.LevelError, "work that was due is not done", slog.String("key", d.key.String()), slog.Any("error", err), slog.Duration("again", dueEvery))
			}
		}
		from, more = page.next, page.more
		if page.until > 0 {
			next = page.until
		}
	}
	keys, err := s.doomedBy(ctx, t)
	if err != nil {
		failed, cause = failed+1, err
	}
	s.due.note(failed, cause, keys)
	return next
}

// doDue does a piece of work. A panic costs this one.
func (s *Service) doDue(ctx context.Context, w *dueWork) (err error) {
	defer func() {
		if p := recover(); p != nil { // the value may hold anything
			err = fmt.Errorf("%s: panic of type %T", w.name(), p)
		}
	}()
	handle := dueHandlers[w.kind]
	if handle == nil {
		return fmt.Errorf("%s: %w: this program knows no work of kind %d", w.name(), keystore.ErrDamaged, w.kind)
	}
	return handle(s, ctx, w)
}

// duePage is what a snapshot shows of the work that is due.
type duePage struct {
	items []dueItem
	next  keystore.Name // where to go on, if there may be more
	more  bool
	until time.Duration // to the first that is not due yet; 0 if none was met
}

// duePage reads at most dueAtOnce pieces of work from a name on.
func (s *Service) duePage(ctx context.Context, from keystore.Name, now api.Time) (p duePage, err error) {
	lo, hi := keystore.Range(keystore.SpaceDue)
	if from != (keystore.Name{}) {
		lo = from
	}
	err = s.store.View(ctx, func(r keystore.Reader) error {
		p = duePage{}
		for e, err := range r.Scan(lo, hi) {
			if err != nil {
				return err
			}
			d, ok := parseDue(e.Name)
			switch {
			case !ok:
				return fmt.Errorf("%s: %w: no work is called so", e.Name, keystore.ErrDamaged)
			case d.at > now:
				p.until = d.at.Time().Sub(now.Time())
				return nil
			case len(p.items) == dueAtOnce:
				p.next, p.more = e.Name, true
				return nil
			}
			p.items = append(p.items, d)
		}
		return nil
	})
	return p, err
}
