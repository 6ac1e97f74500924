package domain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

var digestName = keystore.MakeName(keystore.SpaceSlotDigest)

// digestRow is the sealed row for this table row, from FORMAT.md.
func digestRow(table []byte) []byte { return join(1, table[17:25], sum(table)) }

// storedDigest returns the sealed row as it is.
func (r *rack) storedDigest(t *testing.T) (row []byte) {
	t.Helper()
	err := r.records.View(t.Context(), func(reader keystore.Reader) error {
		got, err := reader.Get(digestName)
		row = append([]byte{}, got...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// changeSealed writes the sealed row, or removes it.
func (r *rack) changeSealed(t *testing.T, row []byte) {
	t.Helper()
	_, err := r.records.UpdateBoth(t.Context(), func(sealed, _ keystore.Tx) error {
		if row == nil {
			return sealed.Delete(digestName)
		}
		return sealed.Put(digestName, row)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tableOfStore returns the present table row.
func tableOfStore(t *testing.T, store keystore.Store) []byte {
	t.Helper()
	for _, e := range rawRows(t, store) {
		if e.Name == tableName {
			return e.Value
		}
	}
	t.Fatal("no table")
	return nil
}

func TestTheRecordsNameEveryTable(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	check := func() {
		t.Helper()
		if got, want := r.storedDigest(t), digestRow(tableOfStore(t, r.store)); string(got) != string(want) {
			t.Errorf("the records name %x, want %x", got, want)
		}
		if err := errors.Join(r.Verify(t.Context(), r.records), r.Bind(t.Context(), r.records)); err != nil {
			t.Error(err)
		}
	}
	check()
	r.rotate(t)
	check()
	r.finish(t)
	check()
}

// Every way in which table and records can differ: Verify says which, and nothing that builds on the table goes on.
func TestVerifyNamesTheDifference(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, r *rack, before []keystore.Entry)
		row   keystore.Name
		says  string
	}{
		"an older table": {func(t *testing.T, r *rack, before []keystore.Entry) {
			for _, e := range before {
				write(t, r.store, e.Name, e.Value)
			}
		}, tableName, "older table was put back: its sequence is 1, the records name 4"},
		"older records": {func(t *testing.T, r *rack, before []keystore.Entry) {
			r.changeSealed(t, digestRow(before[1].Value))
		}, tableName, "records are older than the table: its sequence is 4, they name 1"},
		"another table": {func(t *testing.T, r *rack, _ []keystore.Entry) {
			row := digestRow(tableOfStore(t, r.store))
			row[20] ^= 1
			r.changeSealed(t, row)
		}, tableName, "another table of sequence 4"},
		"no digest":    {func(t *testing.T, r *rack, _ []keystore.Entry) { r.changeSealed(t, nil) }, tableName, "do not know"},
		"short digest": {func(t *testing.T, r *rack, _ []keystore.Entry) { r.changeSealed(t, make([]byte, 40)) }, digestName, "format 1"},
		"format 2": {func(t *testing.T, r *rack, _ []keystore.Entry) {
			r.changeSealed(t, join(2, digestRow(tableOfStore(t, r.store))[1:]))
		}, digestName, "format 1"},
		"sequence 0": {func(t *testing.T, r *rack, _ []keystore.Entry) {
			r.changeSealed(t, join(1, make([]byte, 8), sum(tableOfStore(t, r.store))))
		}, digestName, "format 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRack(t)
			before := rawRows(t, r.store)
			faulty := r.crashing(t, &crasher{only: "PRF", at: 1, once: true})
			if err := faulty.Rotate(t.Context(), faulty.records); err == nil { // taken back: three changes of the table
				t.Fatal("Rotate did not fail")
			}
			r = r.reopen(t)
			c.spoil(t, r, before)
			k := open(t, r.store, r.token)
			if err := k.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
			r = &rack{k, r.store, r.token, openRecords(t, r.store, k)}
			rows := rawRows(t, r.store)
			err := r.Verify(t.Context(), r.records)
			names(t, err, c.row)
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("Verify says %q, want %q", err, c.says)
			}
			names(t, r.Rotate(t.Context(), r.records), c.row)
			names(t, r.Continue(t.Context(), r.records), c.row)
			if name != "no digest" {
				names(t, r.Bind(t.Context(), r.records), c.row)
			}
			if !equal(rows, rawRows(t, r.store)) {
				t.Error("rows were written all the same")
			}
		})
	}
}

// A table that changed under an unlocked keyring is not written over.
func TestATableThatChangedIsNotReplaced(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	write(t, r.store, tableName, []byte("another table"))
	if err := r.Bind(t.Context(), r.records); err == nil || !strings.Contains(err.Error(), "lock it and unlock it") {
		t.Errorf("Bind returned %v", err)
	}
	names(t, r.Bind(t.Context(), r.records), tableName)
	names(t, r.Rotate(t.Context(), r.records), tableName)
	if string(tableOfStore(t, r.store)) != "another table" || len(rawRows(t, r.store)) != 2 {
		t.Error("the rows were written over")
	}
	if live := r.token.(*liveToken).blobs(); len(live) != 1 {
		t.Errorf("%d roots in the token", len(live))
	}
}
