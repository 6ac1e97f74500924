package keystore

import (
	"context"
	"errors"
	"slices"
)

// transaction is the Tx of one run of an Update's function. What it writes stays in its own
// overlay, so that throwing it away costs nobody else anything. It reads the overlay, then the
// batches under it, newest first, then the committed snapshot. Since the snapshot is taken last, a
// batch committed meanwhile is seen twice, which is harmless, and none is missed.
type transaction struct {
	ctx      context.Context
	meter    Meter
	rows     map[Name]Row
	under    [2]*batch // open and, where there is one, committing
	failures int       // of the Local when under was taken
	snapshot Snapshot
}

// begin returns a transaction on top of all that ran before. The caller holds turn.
func (l *Local) begin(ctx context.Context) (*transaction, error) {
	t := &transaction{ctx: ctx, rows: make(map[Name]Row, 8)}
	l.mu.Lock()
	t.under, t.failures = [2]*batch{l.open, l.committing}, l.failures
	l.mu.Unlock()
	var err error
	t.snapshot, err = l.engine.Snapshot()
	return t, err
}

// run runs f and returns what keeps the transaction from committing. The snapshot is not held
// across the commit that follows: an engine may have to wait for the readers of old pages.
func (t *transaction) run(f func(Tx) error) error {
	defer func() {
		t.meter.Fail(ErrClosed) // for a Tx that was kept
		t.snapshot.Close()
	}()
	if err := f(t); err != nil {
		return err
	}
	return t.meter.Err()
}

func (t *transaction) Widen() { t.meter.Widen() }

func (t *transaction) Get(n Name) ([]byte, error) {
	if err := t.check(t.meter.Read(n)); err != nil {
		return nil, err
	}
	return t.find(n)
}

func (t *transaction) Put(n Name, value []byte) error {
	if err := t.check(t.meter.Write(n, len(value))); err != nil {
		return err
	}
	t.rows[n] = Row{Name: n, Value: append([]byte{}, value...)}
	return nil
}

func (t *transaction) Delete(n Name) error {
	if err := t.check(t.meter.Write(n, 0)); err != nil {
		return err
	}
	delete(t.rows, n)
	_, err := t.find(n)
	switch {
	case err == nil:
		t.rows[n] = Row{Name: n, Deleted: true}
		return nil
	case errors.Is(err, ErrNotFound):
		return nil
	}
	return err
}

// check lets the end of the context fail the transaction, too.
func (t *transaction) check(err error) error {
	if err != nil {
		return err
	}
	if err := t.ctx.Err(); err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// find reads the newest version of a row.
func (t *transaction) find(n Name) ([]byte, error) {
	row, ok := t.rows[n]
	for _, b := range t.under {
		if ok || b == nil {
			break
		}
		row, ok = b.rows[n]
	}
	switch {
	case !ok:
		return t.committed(n)
	case row.Deleted:
		return nil, ErrNotFound
	}
	return slices.Clip(row.Value), nil
}

// committed reads the snapshot, where any error but ErrNotFound fails the transaction.
func (t *transaction) committed(n Name) ([]byte, error) {
	v, err := t.snapshot.Get(n)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, t.meter.Fail(err)
	}
	return v, err
}
