package rack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyrack/keyrack/keystore"
)

// The time that an appliance has reached is kept in its store, so that no clock that is set back, or that a board without
// a battery begins at 1970, makes it live through its past again. The row is 8 bytes: µs since 1970, big-endian.
const (
	timeEvery = time.Minute        // between two writes of the row
	timeStart = 7 * 24 * time.Hour // by how much a start may be later than the row
	timeLeash = 5 * time.Minute    // by how much the clock may then get ahead of the monotonic clock
)

// timeName is the name of the row.
func timeName() keystore.Name { return keystore.MakeName(keystore.SpaceClock) }

// keepTime sets the clock's floor to the time that was reached before, and keeps the row.
func (a *Appliance) keepTime(ctx context.Context, o *opened) error {
	wall := a.cfg.Clock.Now()
	floor, err := readTime(ctx, o.records)
	if err != nil {
		return err
	}
	a.cfg.Clock.Floor(floor)
	if behind := a.cfg.Clock.Behind(); behind > time.Minute {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the system's clock is behind the time that was reached before, which counts on: set it",
			slog.Time("clock", wall), slog.Time("reached", floor))
	}
	k := &timekeeper{a: a, records: o.records, written: floor, base: min(a.cfg.Clock.Now().UnixMicro(), floor.Add(timeStart).UnixMicro())}
	if floor.IsZero() {
		k.base = a.cfg.Clock.Now().UnixMicro() // a new appliance takes the time as it finds it
	}
	k.began = a.cfg.Clock.Running()
	if err := k.write(ctx); errors.Is(err, keystore.ErrFull) { // the row before still holds, and what is there can be read
		a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the time that was reached is not kept", slog.Any("error", err))
	} else if err != nil {
		return err
	}
	a.onClose(func(ctx context.Context) error { k.keep(ctx); return nil })
	a.background(&a.undo, k.run)
	return nil
}

// readTime returns the time in the row, zero if there is none yet.
func readTime(ctx context.Context, records keystore.Store) (t time.Time, err error) {
	err = records.View(ctx, func(r keystore.Reader) error {
		b, err := r.Get(timeName())
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			return nil
		case err != nil:
			return err
		case len(b) != 8:
			return fmt.Errorf("row %s has %d bytes, want 8", timeName(), len(b))
		}
		t = time.UnixMicro(int64(binary.BigEndian.Uint64(b))).UTC()
		return nil
	})
	return t, err
}

// timekeeper writes the row. A clock that is set far ahead does not take the row with it: the
// appliance would be bound to that future for ever. After a start the time is accepted up to
// timeStart behind the row, and from there it goes with the monotonic clock and timeLeash.
type timekeeper struct {
	a       *Appliance
	records keystore.Store
	written time.Time
	base    int64         // the time that was accepted at the start, µs since 1970
	began   time.Duration // when that was, by the monotonic clock
}

// accepted is the latest time that the row may hold now.
func (k *timekeeper) accepted() time.Time {
	return time.UnixMicro(k.base).Add(k.a.cfg.Clock.Running() - k.began + timeLeash).UTC()
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
		k.a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the time that was reached is not kept", slog.Any("error", err))
	}
}

// write puts the time into the row, if it has gone on.
func (k *timekeeper) write(ctx context.Context) error {
	now := k.a.cfg.Clock.Now()
	if accepted := k.accepted(); now.After(accepted) {
		k.a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the system's clock is far ahead of the time that was reached before: check it",
			slog.Time("clock", now), slog.Time("accepted", accepted))
		now = accepted
	}
	if !now.After(k.written) {
		return nil
	}
	_, err := k.records.Update(ctx, func(tx keystore.Tx) error {
		return tx.Put(timeName(), binary.BigEndian.AppendUint64(nil, uint64(now.UnixMicro())))
	})
	if err == nil {
		k.written = now
	}
	return err
}
