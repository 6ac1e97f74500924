package kms

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// errUnsynced says that records are counted that a power cut could still take.
var errUnsynced = errors.New("the audit log is not synced that far yet")

// write writes rows from time to time, and when it is asked to, until ctx ends.
func (u *usage) write(ctx context.Context) {
	timer := time.NewTimer(usageEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-u.full:
		case <-ctx.Done():
			return
		}
		err := u.flush(ctx)
		switch {
		case err == nil:
			timer.Reset(usageEvery)
			continue
		case ctx.Err() != nil:
			return
		case !errors.Is(err, errUnsynced):
			u.logger.LogAttrs(ctx, slog.LevelWarn, "what keys are used for is not written", slog.Any("error", err))
		}
		timer.Reset(usageUnsynced)
	}
}

// flush writes what was counted so far, and then the position that is reached with it. What could
// not be written is tried again, as it is, by the next flush. One goroutine at a time may call it.
func (u *usage) flush(ctx context.Context) error {
	if !u.freeze() {
		return nil
	}
	if u.frozenAt > u.log.Synced() {
		return errUnsynced
	}
	ids := slices.Collect(maps.Keys(u.frozen)) // it is not changed any more
	for some := range slices.Chunk(ids, usageAtOnce) {
		begun := time.Now()
		if err := u.writeRows(ctx, some); err != nil {
			return err
		}
		u.giveWay(ctx, time.Since(begun))
	}
	if err := u.putPosition(ctx, u.frozenAt); err != nil {
		return err
	}
	u.mu.Lock()
	u.flushed, u.frozen = u.frozenAt, nil
	u.mu.Unlock()
	select {
	case u.freed <- struct{}{}:
	default:
	}
	return nil
}

// giveWay rests for a multiple of the time that rows took, so that writing them costs requests little: where
// more keys are used than fit in memory, counting falls behind the log, which keeps what is to be counted. It
// does not rest while somebody waits for counts, nor where ctx has a deadline: that is a stop.
func (u *usage) giveWay(ctx context.Context, took time.Duration) {
	u.mu.Lock()
	awaited := u.more != nil
	u.mu.Unlock()
	if _, last := ctx.Deadline(); last || awaited {
		return
	}
	timer := time.NewTimer(min(usageRest*took, usageMostRest))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// freeze takes what is hot to be written, unless something is there from before, and reports
// whether there is anything. For records alone that use no key, and are quickly read again, the
// position is not written.
func (u *usage) freeze() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.frozen != nil {
		return true
	}
	if len(u.hot) == 0 && u.at-u.flushed < usageQuiet {
		return false
	}
	maps.DeleteFunc(u.hot, func(_ api.KeyID, known *uses) bool { return known.total == 0 })
	u.frozen, u.frozenAt, u.hot = u.hot, u.at, map[api.KeyID]*uses{}
	return true
}

// writeRows writes the rows of some keys in one transaction. Where the store finds damage, each is
// written for itself, and those that cannot be are given up: there is nothing to be had by trying
// again.
func (u *usage) writeRows(ctx context.Context, ids []api.KeyID) error {
	_, err := u.store.Update(ctx, func(tx keystore.Tx) error {
		for _, id := range ids {
			if err := u.writeRow(tx, id, u.frozen[id]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || !errors.Is(err, keystore.ErrDamaged) {
		return err
	}
	if len(ids) > 1 {
		for i := range ids {
			if err := u.writeRows(ctx, ids[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	u.logger.LogAttrs(ctx, slog.LevelError, "what a key was used for is lost: its row is damaged", slog.String("key", ids[0].String()), slog.Any("error", err))
	u.mu.Lock()
	u.lost++
	u.mu.Unlock()
	return nil
}

// writeRow adds to a key's row what it does not cover yet. A key that was deleted meanwhile gets
// none; a row that cannot be read is begun anew.
func (u *usage) writeRow(tx keystore.Tx, id api.KeyID, k *uses) error {
	if _, err := tx.Get(keyName(id)); errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	row, err := readUsage(tx, id)
	switch {
	case errors.Is(err, keystore.ErrDamaged):
		row = &usageRow{Since: k.since}
	case err != nil:
		return err
	case row == nil || row.Tracking != u.tracking:
		row = &usageRow{Since: u.tracking}
	case row.Position >= u.frozenAt:
		return nil // an earlier try did it
	}
	if row.Counts == nil {
		row.Counts = map[kmsapi.UsageOperation]uint64{}
	}
	for op, n := range k.counts {
		if n > 0 {
			row.Counts[kmsapi.UsageOperation(op)] += n
		}
	}
	row.Format, row.Tracking, row.Position = usageFormat, u.tracking, u.frozenAt
	row.Op, row.Time, row.Event = k.op, k.time, k.event[:]
	b, err := cbor.Marshal(row)
	if err != nil {
		return err
	}
	return tx.Put(usageName(id), b)
}

// putPosition writes how far all rows cover the log.
func (u *usage) putPosition(ctx context.Context, at audit.Position) error {
	b, err := cbor.Marshal(&positionRow{Format: usageFormat, Tracking: u.tracking, Position: at})
	if err != nil {
		return err
	}
	_, err = u.store.Update(ctx, func(tx keystore.Tx) error { return tx.Put(positionName(), b) })
	return err
}
