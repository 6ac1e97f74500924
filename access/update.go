package access

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// Update is the only way for a method to write. f's rows and the call's
// finished audit record, as the row outbox/<event id>, are one transaction, so
// a change without a record cannot exist, whenever the power goes. It needs a
// worker. f may run several times and must have filled the response when it
// returns nil; its error comes back as it is.
func (c *Call) Update(store keystore.Store, f func(keystore.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	var encoded []byte
	_, err := store.Update(c.ctx, func(tx keystore.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		var rec audit.Record
		c.describe(&rec, nil)
		encoded = audit.AppendRecord(nil, &rec)
		return tx.Put(outboxName(c.event), encoded)
	})
	if err != nil {
		return err
	}
	c.stored = encoded
	c.session.rows = append(c.session.rows, outboxRow{store: store, event: c.event, record: encoded})
	return nil
}

// mayWrite refuses a method that has no business to write: its errors are its
// author's. Without it, a method that forgot the door would be found out by
// [Call.outcome] only when its change was made.
func (c *Call) mayWrite() error {
	switch {
	case !c.mayBlock:
		return api.Internal(errWorkerOnly)
	case c.op.Flags&api.ReadOnly != 0:
		return api.Internal(fmt.Errorf("%s is read-only and writes", c.op))
	}
	if e := c.unadmitted(); e != nil {
		return e
	}
	return nil
}

// outboxName returns the name of the row that holds an event's record until
// the log has it.
func outboxName(e api.EventID) keystore.Name {
	return keystore.MakeName(keystore.SpaceOutbox, string(e[:]))
}

// outbox lists rows that can be dropped once the log is durable past them. Rows
// whose record the log has refused, because it was full, wait for it here.
type outbox struct {
	mu   sync.Mutex
	rows []outboxRow // guarded by mu; positions ascend but for races between sessions
}

type outboxRow struct {
	store  keystore.Store
	event  api.EventID
	record []byte         // as it stands in the row
	at     audit.Position // durable when the log is past it
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
func (o *outbox) take(durable audit.Position) (done []outboxRow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(r outboxRow) bool {
		if r.at <= durable {
			done = append(done, r)
		}
		return r.at <= durable
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

// dropOutbox deletes rows whose records are durable, a few in a transaction.
// A row that cannot be deleted now is tried again in the next round.
func (g *Gate) dropOutbox(ctx context.Context) {
	const batch = 16
	for rows := range slices.Chunk(g.outbox.take(g.Log.Durable()), batch) {
		byStore := map[keystore.Store][]outboxRow{}
		for _, r := range rows {
			byStore[r.store] = append(byStore[r.store], r)
		}
		for store, rows := range byStore {
			if err := deleteRows(ctx, store, rows); err != nil {
				g.outbox.add(rows, 0)
				g.Logger.LogAttrs(ctx, slog.LevelWarn, "outbox rows could not be dropped", slog.Any("error", err))
			}
		}
	}
}

func deleteRows(ctx context.Context, store keystore.Store, rows []outboxRow) error {
	_, err := store.Update(ctx, func(tx keystore.Tx) error {
		for _, r := range rows {
			if err := tx.Delete(outboxName(r.event)); err != nil {
				return err
			}
		}
		return nil
	})
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
