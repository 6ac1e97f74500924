package access

import (
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// Update is the only way for a method to write. f's rows and the call's
// finished audit record, as the row outbox/<event id> (FORMAT.md), are one
// transaction, of whose rows two are taken by that; so a change without a record cannot exist, whenever the power
// goes. It needs a worker. f may run several times and must have filled the response when it
// returns nil; its error comes back as it is.
func (c *Call) Update(store keystore.Store, f func(keystore.Tx) error) error {
	return c.update(store, nil, f)
}

// Refuse writes what a refusal leaves behind, a count of failed tries, as Update does:
// in one transaction with the record, which is that of the refusal. It returns cause
// once that is made, else what kept it from being made.
func (c *Call) Refuse(store keystore.Store, cause error, f func(keystore.Tx) error) error {
	if err := c.update(store, c.outcome(cause), f); err != nil {
		return err
	}
	return cause
}

func (c *Call) update(store keystore.Store, refusal *api.Error, f func(keystore.Tx) error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	var encoded []byte
	_, err := store.Update(c.ctx, func(tx keystore.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		var rec audit.Record
		c.describe(&rec, refusal)
		row := audit.AppendRecord(appendPosition(nil, c.session.gate.Log.Durable()), &rec)
		encoded = row[positionLen:]
		return putOutbox(tx, outboxName(c.event), row)
	})
	if err != nil {
		return err
	}
	c.stored = encoded
	c.session.keepRow(outboxRow{store: store, event: c.event, record: encoded, size: positionLen + len(encoded)})
	return nil
}

// keepRow lists a row for when the burst is flushed. A call that writes twice
// has one row, and one record.
func (s *Session) keepRow(row outboxRow) {
	same := slices.IndexFunc(s.rows, func(r outboxRow) bool { return r.event == row.event })
	if same < 0 {
		s.rows = append(s.rows, row)
		return
	}
	s.rows[same] = row
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
