package access

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// positionLen is the length of the position in front of a row's record.
const positionLen = 8

// outboxName returns the name of the row that holds an event's record until
// the log has it.
func outboxName(e api.EventID) keystore.Name {
	return keystore.MakeName(keystore.SpaceOutbox, string(e[:]))
}

// appendPosition begins the value of an outbox row.
func appendPosition(dst []byte, at audit.Position) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(at))
}

// parseOutbox reads an outbox row: a position and the record of the event in
// the row's name, in the one encoding that it has. encoded aliases value. Errors
// name the row and wrap keystore.ErrDamaged.
func parseOutbox(n keystore.Name, value []byte) (at audit.Position, encoded []byte, rec audit.Record, err error) {
	if len(value) < positionLen {
		return 0, nil, rec, fmt.Errorf("%s: %w: %d bytes are too few", n, keystore.ErrDamaged, len(value))
	}
	at, encoded = audit.Position(binary.BigEndian.Uint64(value)), value[positionLen:]
	rec, err = audit.ParseRecord(encoded)
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w: %w", n, keystore.ErrDamaged, err)
	case outboxName(rec.Event) != n:
		err = fmt.Errorf("%s: %w: it holds the record of another event", n, keystore.ErrDamaged)
	}
	return at, encoded, rec, err
}

// outbox lists rows that can be dropped once a power cut cannot take their
// records. Rows whose record the log has refused, because it was full, wait for it
// here.
type outbox struct {
	mu   sync.Mutex
	rows []outboxRow // guarded by mu; positions ascend but for races between sessions
}

type outboxRow struct {
	store  keystore.Store
	event  api.EventID
	record []byte         // as it stands in the row
	size   int            // of the row's value in bytes
	at     audit.Position // reached with the record
}

// unlogged is the position of a row whose record the log has not taken.
const unlogged = audit.Position(math.MaxUint64)

func (o *outbox) add(rows []outboxRow, at audit.Position) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range rows {
		r.at = at
		o.rows = append(o.rows, r)
	}
}

// take removes and returns the rows that the log has made needless.
func (o *outbox) take(synced audit.Position) (done []outboxRow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(r outboxRow) bool {
		if r.at <= synced {
			done = append(done, r)
		}
		return r.at <= synced
	})
	return done
}

// takeUnlogged removes and returns the rows whose record the log has not taken.
func (o *outbox) takeUnlogged() (rows []outboxRow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(r outboxRow) bool {
		if r.at == unlogged {
			rows = append(rows, r)
		}
		return r.at == unlogged
	})
	return rows
}

// reset forgets all rows.
func (o *outbox) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = nil
}

// logOutbox offers the log the records that it has refused: their changes are
// made, so they must be told of as soon as it has room.
func (g *Gate) logOutbox(ctx context.Context) {
	for _, r := range g.outbox.takeUnlogged() {
		var t audit.Trail
		t.AddEncoded(r.record)
		at, err := g.Log.Append(&t, false)
		if err != nil {
			g.Logger.LogAttrs(ctx, slog.LevelError, "a change is not in the audit log yet", slog.String("request", r.event.String()), slog.Any("error", err))
			at = unlogged
		}
		g.outbox.add([]outboxRow{r}, at)
	}
}

// dropOutbox deletes rows whose records are synced, a few in a transaction.
// A row that cannot be deleted now is tried again in the next round.
func (g *Gate) dropOutbox(ctx context.Context) {
	for rows := range portions(g.outbox.take(g.Log.Synced())) {
		byStore := map[keystore.Store][]outboxRow{}
		for _, r := range rows {
			byStore[r.store] = append(byStore[r.store], r)
		}
		for store, rows := range byStore {
			err := deleteRows(ctx, store, rows)
			if errors.Is(err, keystore.ErrClosed) { // Recover meets them when it is open again
				continue
			}
			if err != nil {
				g.outbox.add(rows, 0)
				g.Logger.LogAttrs(ctx, slog.LevelWarn, "outbox rows could not be dropped", slog.Any("error", err))
			}
		}
	}
}

// Bounds of the rows that one transaction deletes: it reads them before, to count them.
const (
	dropAtOnce = 32 // of keystore.MaxRows
	dropBytes  = keystore.MaxBytes / 2
)

// portions cuts rows into what one transaction may delete.
func portions(rows []outboxRow) iter.Seq[[]outboxRow] {
	return func(yield func([]outboxRow) bool) {
		for len(rows) > 0 {
			n, bytes := 0, 0
			for n < min(len(rows), dropAtOnce) && (n == 0 || bytes+rows[n].size <= dropBytes) {
				bytes += rows[n].size
				n++
			}
			if !yield(rows[:n]) {
				return
			}
			rows = rows[n:]
		}
	}
}

// deleteRows deletes a portion.
func deleteRows(ctx context.Context, store keystore.Store, rows []outboxRow) error {
	_, err := store.Update(ctx, func(tx keystore.Tx) error { return deleteOutbox(tx, rows) })
	return err
}

// keepEvery is how often the gate's housekeeping runs.
const keepEvery = time.Second

// keepLast bounds the last round.
const keepLast = 2 * time.Second

// Keep does the gate's housekeeping until ctx ends: it writes the records of
// folded refusals, and those that the log has refused, and drops outbox rows
// that the log has made needless. It returns after a last round.
func (g *Gate) Keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.keep(ctx, false)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepLast)
			defer cancel()
			g.keep(last, true)
			return
		}
	}
}

// keep is one round of Keep.
func (g *Gate) keep(ctx context.Context, last bool) {
	g.flushFolded(ctx, last)
	g.logOutbox(ctx)
	g.dropOutbox(ctx)
}
