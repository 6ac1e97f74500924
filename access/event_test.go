package access_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/keystore"
)

// happened is an event that writes row.
func happened(tx keystore.Tx) (*access.Event, error) {
	return &access.Event{Op: change.Op, Account: tenant, Resource: thing{}.ARN(), Details: &answer{Text: "by itself", Secret: []byte("petals")}},
		tx.Put(row, nil)
}

// TestAnEventAndItsRecordAreOne: what the appliance does by itself stands in the store with its
// record, and is in the log in the same bytes, once.
func TestAnEventAndItsRecordAreOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := keystore.NewMemory()
	if err := r.Update(t.Context(), store, happened); err != nil {
		t.Fatal(err)
	}
	outbox, made := rows(t, store)
	if len(outbox) != 1 || !made {
		t.Fatalf("%d rows in the outbox, changed=%t", len(outbox), made)
	}
	r.flush()
	rec := r.one()
	if rec.Op != change.Number || rec.Principal != "arn:aws:keyrack:rack-1::appliance" || rec.Account != "111122223333" ||
		rec.Resource != (thing{}).ARN() || rec.Error != 0 || !bytes.Contains(rec.Response, []byte("by itself")) || bytes.Contains(rec.Response, []byte("petals")) {
		t.Errorf("recorded %+v", rec)
	}
	r.until(func() bool {
		access.Keep(t.Context(), r.Gate, false)
		now, _ := rows(t, store)
		return len(now) == 0
	})
}

// TestNoEventNoRecord: a transaction that finds nothing to do, or fails, leaves none.
func TestNoEventNoRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := keystore.NewMemory()
	if err := r.Update(t.Context(), store, func(keystore.Tx) (*access.Event, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	wrong := errors.New("wrong")
	err := r.Update(t.Context(), store, func(tx keystore.Tx) (*access.Event, error) {
		e, _ := happened(tx)
		return e, wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	r.flush()
	if outbox, made := rows(t, store); len(outbox) != 0 || made || len(r.records()) != 0 {
		t.Errorf("%d rows in the outbox, changed=%t", len(outbox), made)
	}
}

// TestAnEventWaitsForTheLog: nothing is done by itself that could not be recorded, and what
// a process did not live to record, the next one does.
func TestAnEventWaitsForTheLog(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	broken := newRig(t)
	broken.disk.Hold()
	if err := broken.Update(t.Context(), store, happened); err != nil { // and then the process is gone
		t.Fatal(err)
	}
	next := newRig(t)
	if n, err := next.Recover(t.Context(), store); n != 1 || err != nil {
		t.Errorf("%d records recovered, %v", n, err)
	}
	if rec := next.one(); rec.Op != change.Number || !strings.HasSuffix(rec.Principal, "::appliance") {
		t.Errorf("recorded %+v", rec)
	}
}
