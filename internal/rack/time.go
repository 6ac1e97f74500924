package rack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/appliance"
)

// The time that an appliance has reached is kept in its store, so that no clock that is set back, or that a board without
// a battery begins at 1970, makes it live through its past again. Nor may a clock that is set ahead, by whomever, make it
// destroy what still has years: FORMAT.md, "Time", has the row and the rule.
const (
	timeEvery = time.Minute        // between two writes of the row
	timeSlack = 7 * 24 * time.Hour // by how much all starts and runs together may get ahead of powered-on time, since the last acceptance
	timeLeash = 5 * time.Minute    // by how much one run may, behind its first reading
)

// timeName is the name of the row.
func timeName() keystore.Name { return keystore.MakeName(keystore.SpaceClock) }

// timeRow is the row of the time, FORMAT.md. All are µs; times since 1970.
type timeRow struct {
	floor   int64 // the latest time that was accepted
	powered int64 // for how long the appliance has been unlocked, in all its life
	base    int64 // the time that an operator, or init, has accepted, and on behind it what was spent locked
	since   int64 // powered at the base
}

func (r timeRow) encode() (b []byte) {
	for _, v := range []int64{r.floor, r.powered, r.base, r.since} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

// parseTimeRow reads a row; those of before there was a rule have the floor alone.
func parseTimeRow(b []byte) (r timeRow, err error) {
	at := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
	switch len(b) {
	case 8:
		return timeRow{floor: at(0), base: at(0)}, nil
	case 32:
		r = timeRow{at(0), at(1), at(2), at(3)}
	default:
		return r, fmt.Errorf("row %s has %d bytes, want 32", timeName(), len(b))
	}
	if r.powered < r.since || r.since < 0 {
		return r, fmt.Errorf("row %s counts %d µs, and %d before them", timeName(), r.powered, r.since)
	}
	return r, nil
}

// timekeeper knows the time that is accepted, and keeps the row. Safe for concurrent use.
type timekeeper struct {
	clock   *clock.Clock
	logger  *slog.Logger
	records keystore.Store
	writing sync.Mutex // held while the row is written

	mu       sync.Mutex
	row      timeRow       // as stored, or to be; guarded by mu, as what follows
	began    time.Duration // by the monotonic clock: what row.powered counts up to
	ahead    int64         // accepted time − monotonic clock, µs; it only grows
	anchored bool          // this run has had a reading that it could believe
	anchor   int64         // ahead at that one
	beyond   bool          // the last reading could not be believed
}

// keepTime reads the time that was reached before, and keeps it from now on.
func (a *Appliance) keepTime(ctx context.Context, o *opened) error {
	k := &timekeeper{clock: a.cfg.Clock, logger: a.cfg.Logger, records: o.records, began: a.cfg.Clock.Running()}
	wall := a.cfg.Clock.Wall()
	found, err := k.read(ctx)
	if err != nil {
		return err
	}
	if !found { // a new appliance takes the time as it finds it
		k.row.floor, k.row.base = wall.UnixMicro(), wall.UnixMicro()
	}
	k.row.base += max(0, k.began-a.spent).Microseconds()
	k.ahead = k.row.floor - k.began.Microseconds()
	a.cfg.Clock.Floor(time.UnixMicro(k.row.floor))
	if behind := a.cfg.Clock.Behind(); behind > time.Minute {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the system's clock is behind the time that was reached before, which counts on: set it",
			slog.Time("clock", wall), slog.Time("reached", time.UnixMicro(k.row.floor).UTC()))
	}
	if err := k.write(ctx); errors.Is(err, keystore.ErrFull) { // the row before still holds, and what is there can be read
		a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the time that was reached is not kept", slog.Any("error", err))
	} else if err != nil {
		return err
	}
	a.spent, o.time = k.began, k
	a.onClose(func(ctx context.Context) error { k.keep(ctx); a.spent = k.clock.Running(); return nil })
	a.background(&a.undo, k.run)
	return nil
}

// read reads the row, and reports whether there is one.
func (k *timekeeper) read(ctx context.Context) (found bool, err error) {
	err = k.records.View(ctx, func(r keystore.Reader) error {
		b, err := r.Get(timeName())
		if errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		if err == nil {
			found = true
			k.row, err = parseTimeRow(b)
		}
		return err
	})
	return found, err
}

// Accepted returns the time that is believed, and whether the system's clock is: it is not
// where it is further ahead than its leash. It implements [kms.Time].
func (k *timekeeper) Accepted() (now time.Time, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	mono := k.look()
	return time.UnixMicro(mono + k.ahead).UTC(), !k.beyond
}

// look takes a reading into account, and returns that of the monotonic clock. A wall clock that is behind
// is no reading: the time that was reached goes on with the monotonic clock. The caller holds mu.
func (k *timekeeper) look() (mono int64) {
	wall := k.clock.Wall().UnixMicro()
	mono = k.clock.Running().Microseconds()
	if k.beyond = wall > k.limit(mono); k.beyond {
		return mono
	}
	if wall < mono+k.ahead {
		return mono
	}
	k.ahead = wall - mono
	k.clock.Floor(time.UnixMicro(wall)) // what calls go by is not behind the time that is accepted
	if !k.anchored {
		k.anchored, k.anchor = true, k.ahead
	}
	return mono
}

// limit is the end of the leash: µs since 1970. The caller holds mu.
func (k *timekeeper) limit(mono int64) int64 {
	all := k.row.base + k.poweredAt(mono) - k.row.since + timeSlack.Microseconds()
	if !k.anchored {
		return all
	}
	return min(all, mono+k.anchor+timeLeash.Microseconds())
}

// poweredAt is for how long the appliance has been on, in µs. The caller holds mu.
func (k *timekeeper) poweredAt(mono int64) int64 {
	return k.row.powered + mono - k.began.Microseconds()
}

// Powered returns for how long the appliance has been unlocked in all its life. It implements [kms.Time].
func (k *timekeeper) Powered() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Duration(k.poweredAt(k.clock.Running().Microseconds())) * time.Microsecond
}

// State says how the time is, for the operator.
func (k *timekeeper) State() appliance.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	mono := k.look()
	return appliance.Time{
		Wall: k.clock.Wall(), Accepted: time.UnixMicro(mono + k.ahead).UTC(), Floor: time.UnixMicro(k.row.floor).UTC(),
		Leash: time.UnixMicro(k.limit(mono)).UTC(), Beyond: k.beyond,
		Powered: time.Duration(k.poweredAt(mono)) * time.Microsecond,
	}
}

// warning says that the clock cannot be believed; "" while it can.
func (k *timekeeper) warning() string {
	s := k.State()
	if !s.Beyond {
		return ""
	}
	return fmt.Sprintf("the system's clock is %s ahead of the time that is accepted, further than it may be: nothing that is due is done; set the clock, or if it is right run keyrack clock accept",
		s.Wall.Sub(s.Accepted).Round(time.Second))
}

// run writes the row from time to time until ctx ends.
func (k *timekeeper) run(ctx context.Context) {
	tick := time.NewTicker(timeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.keep(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// keep writes the row if it can: the one before still holds.
func (k *timekeeper) keep(ctx context.Context) {
	if err := k.write(ctx); err != nil && ctx.Err() == nil {
		k.logger.LogAttrs(ctx, slog.LevelWarn, "the time that was reached is not kept", slog.Any("error", err))
	}
	if s := k.State(); s.Beyond {
		k.logger.LogAttrs(ctx, slog.LevelError, "the system's clock is far ahead of the time that was reached before: check it",
			slog.Time("clock", s.Wall), slog.Time("accepted", s.Accepted))
	}
}

// next is the row as it should be now. While the clock cannot be believed its floor stays, and only what the
// appliance was on for counts on.
func (k *timekeeper) next() timeRow {
	k.mu.Lock()
	defer k.mu.Unlock()
	mono := k.look()
	row := k.row
	row.powered = k.poweredAt(mono)
	if !k.beyond {
		row.floor = max(row.floor, mono+k.ahead)
	}
	return row
}

// put writes a row in a transaction.
func (k *timekeeper) put(tx keystore.Tx, row timeRow) error { return tx.Put(timeName(), row.encode()) }

// write writes the row.
func (k *timekeeper) write(ctx context.Context) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	row := k.next()
	_, err := k.records.Update(ctx, func(tx keystore.Tx) error { return k.put(tx, row) })
	if err == nil {
		k.written(row)
	}
	return err
}

// written takes over a row that is stored.
func (k *timekeeper) written(row timeRow) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.began += time.Duration(row.powered-k.row.powered) * time.Microsecond
	k.row = row
}

// Accept makes the system's clock the time that is believed, for the call c: from now on it may get ahead by as much
// as after init. It returns the time that was accepted before and that is now. A clock that is behind is refused: time
// does not go back.
func (k *timekeeper) Accept(c *access.Call) (before, now time.Time, err error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	row := k.next()
	s := k.State()
	if s.Wall.Before(s.Accepted.Add(-time.Second)) {
		return before, now, &api.Error{Kind: api.KindInvalidState, Reason: "clock-behind",
			Message: fmt.Sprintf("the system's clock says %s, and %s was reached: time does not go back; set the clock", s.Wall.Format(time.RFC3339), s.Accepted.Format(time.RFC3339))}
	}
	now = s.Accepted
	if s.Wall.After(now) {
		now = s.Wall
	}
	row.floor, row.base, row.since = now.UnixMicro(), now.UnixMicro(), row.powered
	if err := c.Update(k.records, func(tx keystore.Tx) error { return k.put(tx, row) }); err != nil {
		return before, now, err
	}
	k.written(row)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ahead = max(k.ahead, row.floor-k.clock.Running().Microseconds())
	k.anchored, k.anchor, k.beyond = true, k.ahead, false
	return s.Accepted, now, nil
}

// time says how the time is.
func (a *Appliance) time() (now appliance.Time, ok bool) {
	o := a.open.Load()
	if o == nil {
		return now, false
	}
	return o.time.State(), true
}

// acceptTime lets a call accept what the system's clock says, and what is due then be done.
func (a *Appliance) acceptTime(c *access.Call) (before, now time.Time, err error) {
	o := a.open.Load()
	if o == nil {
		return before, now, keystore.ErrLocked
	}
	if before, now, err = o.time.Accept(c); err == nil {
		o.keys.WakeDue()
	}
	return before, now, err
}

// dueUntil says what is due up to a time.
func (a *Appliance) dueUntil(ctx context.Context, until time.Time) ([]string, error) {
	o := a.open.Load()
	if o == nil {
		return nil, keystore.ErrLocked
	}
	return o.keys.DueUntil(ctx, until)
}
