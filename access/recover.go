package access

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of what Recover holds: rows that it knows of at once, under 100 bytes each, and
// rows whose values one transaction reads, which may be keystore.MaxValue long.
const (
	recoverAtOnce = 4096
	readAtOnce    = keystore.MaxBytes/keystore.MaxValue - 1
)

// Recover gives the log the records of changes that an earlier process made and
// did not live to record, in the order in which they were made, and drops all
// outbox rows once their records are synced. It returns how many records the log
// lacked. Call it with the store that [Call.Update] writes to, before any call is
// served.
//
// Afterwards every change has exactly one record, also if Recover is cut off
// anywhere, or returns an error, and runs again. Rows that a full medium keeps are
// left to [Gate.Keep]: there is no need to refuse those who only read. A row that is damaged is an
// error that names it; nothing is appended or deleted then. Other errors are
// those of the store, the log and the context. Where rows are
// missing, or there are more than were counted, the error wraps keystore.ErrDamaged.
func (g *Gate) Recover(ctx context.Context, store keystore.Store) (appended int, err error) {
	g.outbox.reset() // what an unlocking that failed has left is in the store
	for more := true; more && err == nil; {
		r := recovery{Gate: g, store: store}
		more, err = r.round(ctx)
		appended += r.appended
	}
	if err != nil {
		return appended, fmt.Errorf("recover the outbox: %w", err)
	}
	return appended, nil
}

// recovery is one round of Recover, over the oldest rows there are.
type recovery struct {
	*Gate
	store    keystore.Store
	rows     []owed // in the order in which the changes were made
	more     bool   // there are others behind them
	appended int
}

// owed is an outbox row, without its record.
type owed struct {
	event api.EventID
	at    audit.Position    // the record stands there or behind it, if at all
	time  int64             // of the record
	sum   [sha256.Size]byte // of the record's bytes, which begin with the event
	size  int               // of the row's value
	found bool              // the log has it
}

// round deals with recoverAtOnce rows and reports whether there are more.
func (r *recovery) round(ctx context.Context) (more bool, err error) {
	if r.more, err = r.scan(ctx); err != nil || len(r.rows) == 0 {
		return false, err
	}
	// What an earlier round appended, here or in a call that was cut off, may not be durable yet.
	if err := r.Log.Wait(ctx, r.Log.State().Size); err != nil {
		return false, err
	}
	end := r.Log.Durable()
	for _, step := range []func(context.Context, audit.Position) error{r.lower, r.find, r.append, r.drop} {
		if err := step(ctx, end); err != nil {
			return false, err
		}
	}
	return r.more, nil
}

// scan reads every row of the outbox and keeps what it must know of the oldest.
func (r *recovery) scan(ctx context.Context) (more bool, err error) {
	err = r.store.View(ctx, func(v keystore.Reader) error {
		count, err := countOutbox(v)
		if err != nil {
			return err
		}
		found := uint64(0)
		for e, err := range v.Scan(keystore.Range(keystore.SpaceOutbox)) {
			if err != nil {
				return err
			}
			at, encoded, rec, err := parseOutbox(e.Name, e.Value)
			if err != nil {
				return err
			}
			found++
			r.rows = append(r.rows, owed{event: rec.Event, at: at, time: rec.Time, sum: sha256.Sum256(encoded), size: len(e.Value)})
			if len(r.rows) == 2*recoverAtOnce {
				more = true
				r.oldest()
			}
		}
		if found != count {
			return fmt.Errorf("%s: %w: it counts %d, and there are %d", countName(), errHidden, count, found)
		}
		more = more || len(r.rows) > recoverAtOnce
		r.oldest()
		return nil
	})
	return more, err
}

// oldest sorts the rows and keeps the first of them.
func (r *recovery) oldest() {
	slices.SortFunc(r.rows, func(a, b owed) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.time, b.time), bytes.Compare(a.event[:], b.event[:]))
	})
	r.rows = r.rows[:min(len(r.rows), recoverAtOnce)]
}

// lower corrects the rows whose position is behind the log's end: the log has
// lost records, and theirs, which it cannot have, may come to stand before that
// position.
func (r *recovery) lower(ctx context.Context, end audit.Position) error {
	first, _ := slices.BinarySearchFunc(r.rows, end+1, func(o owed, at audit.Position) int { return cmp.Compare(o.at, at) })
	beyond := r.rows[first:]
	if len(beyond) == 0 {
		return nil
	}
	r.Logger.LogAttrs(ctx, slog.LevelError, "the audit log has lost records: it is shorter than when changes were made; run keyrack audit verify with an older checkpoint",
		slog.Uint64("records", uint64(end)), slog.Uint64("before", uint64(beyond[len(beyond)-1].at)))
	for some := range slices.Chunk(beyond, readAtOnce) {
		if err := r.lowerRows(ctx, some, end); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) lowerRows(ctx context.Context, rows []owed, end audit.Position) error {
	_, err := r.store.Update(ctx, func(tx keystore.Tx) error {
		for _, o := range rows {
			name := outboxName(o.event)
			value, err := tx.Get(name)
			if err != nil {
				return err
			}
			if err := tx.Put(name, append(appendPosition(nil, end), value[positionLen:]...)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range rows {
		rows[i].at = end
	}
	return err
}

// find walks the log from the first place where any of the records can stand.
func (r *recovery) find(ctx context.Context, end audit.Position) error {
	bySum := make(map[[sha256.Size]byte]*owed, len(r.rows))
	for i := range r.rows {
		bySum[r.rows[i].sum] = &r.rows[i]
	}
	return r.Log.Walk(ctx, r.rows[0].at, end, func(_ audit.Position, record []byte) error {
		if o := bySum[sha256.Sum256(record)]; o != nil {
			o.found = true
		}
		return nil
	})
}

// append appends what the log lacks and waits until no power cut can take it.
func (r *recovery) append(ctx context.Context, at audit.Position) error {
	lacking := slices.DeleteFunc(slices.Clone(r.rows), func(o owed) bool { return o.found })
	for some := range slices.Chunk(lacking, readAtOnce) {
		if err := r.Log.Err(); err != nil { // beyond its reserve, the log could let us wait for ever
			return err
		}
		t, err := r.trail(ctx, some)
		if err != nil {
			return err
		}
		if at, err = r.Log.Append(t, false); err != nil {
			return err
		}
		r.appended += len(some)
	}
	if err := r.Log.Wait(ctx, at); err != nil {
		return err
	}
	return r.synced(ctx, at)
}

// synced waits for a checkpoint where being durable is not enough.
func (r *recovery) synced(ctx context.Context, at audit.Position) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for r.Log.Synced() < at {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if s := r.Log.State(); s.CheckpointErr != nil || s.Dead != nil {
			return errors.Join(s.CheckpointErr, s.Dead)
		}
	}
	return nil
}

// trail reads the records of some rows.
func (r *recovery) trail(ctx context.Context, rows []owed) (*audit.Trail, error) {
	t := new(audit.Trail)
	err := r.store.View(ctx, func(v keystore.Reader) error {
		for _, o := range rows {
			name := outboxName(o.event)
			value, err := v.Get(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			_, encoded, _, err := parseOutbox(name, value)
			if err != nil {
				return err
			}
			t.AddEncoded(encoded)
		}
		return nil
	})
	return t, err
}

// drop deletes the rows, whose records the log has.
func (r *recovery) drop(ctx context.Context, _ audit.Position) error {
	all := make([]outboxRow, len(r.rows))
	for i, o := range r.rows {
		all[i] = outboxRow{store: r.store, event: o.event, size: o.size}
	}
	for rows := range portions(all) {
		err := deleteRows(ctx, r.store, rows)
		if errors.Is(err, keystore.ErrFull) && !r.more {
			r.outbox.add(rows, 0)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
