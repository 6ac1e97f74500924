package kms_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
)

// below is a store whose rows the test can edit beneath the seal, as who has the file can.
func below() (keystore.Store, func(*rack.Config)) {
	rows := keystore.NewMemory()
	return rows, func(cfg *rack.Config) { cfg.Store = cutStore{rows, racktest.NewPower(1 << 30), new(atomic.Bool)} }
}

// editDue changes each row of due work beneath the seal, to nothing where edit returns nil.
func editDue(tb testing.TB, rows keystore.Store, edit func(n keystore.Name, record []byte) []byte) (edited int) {
	tb.Helper()
	all := map[keystore.Name][]byte{}
	if err := rows.View(tb.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Range(keystore.SpaceDue)) {
			if err != nil {
				return err
			}
			all[e.Name] = bytes.Clone(e.Value)
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	if _, err := rows.Update(tb.Context(), func(tx keystore.Tx) error {
		for n, record := range all {
			after := edit(n, record)
			if after == nil {
				if err := tx.Delete(n); err != nil {
					return err
				}
			} else if err := tx.Put(n, after); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

// mended reports whether the operator is told of rows that were made again.
func (r *timed) mended(n int) bool {
	return strings.Contains(strings.Join(r.KMS().Warnings(), "\n"), fmt.Sprintf("%d rows of due work were missing or broken", n))
}

// TestHiddenDueWork: a scan does not show that rows were taken away beneath the seal, but what the keys say does: they are made again
// by the next start, among more keys than are looked at together, and what is due is done.
func TestHiddenDueWork(t *testing.T) {
	t.Parallel()
	rows, beneath := below()
	r := startTimed(t, beneath)
	doomed, rotated, ends := r.CreateKey(), r.CreateKey(), secretKey(t, r.Rack)
	for range 80 {
		r.CreateKey()
	}
	r.doom(doomed)
	if err := rotateEvery(t, r.Client, rotated, 90); err != nil {
		t.Fatal(err)
	}
	if _, err := importMaterial(t, r.Rack, ends, randomBytes(32), r.until1h()); err != nil {
		t.Fatal(err)
	}
	first := describe(t, r.Rack, rotated).CurrentKeyMaterialId
	r.Restart(func(*rack.Config) {
		if n := editDue(t, rows, func(keystore.Name, []byte) []byte { return nil }); n != 3 {
			t.Errorf("%d rows were hidden", n)
		}
	})
	r.until("three rows", func() bool { return r.mended(3) })
	wantSound(t, r.Rack)
	r.advance(6 * day)
	r.warned(doomed)
	r.advance(day)
	r.until("the end of the material", func() bool { return importStateOf(t, r, ends) == kmsapi.PendingImport })
	r.until("the end of the key", func() bool { return r.state(doomed) == 0 })
	r.advance(83 * day)
	r.until("the rotation", func() bool { return describe(t, r.Rack, rotated).CurrentKeyMaterialId != first })
	wantSound(t, r.Rack)
}

// importStateOf returns whether the one material of a key is stored.
func importStateOf(tb testing.TB, r *timed, key string) kmsapi.ImportState {
	tb.Helper()
	all, _ := rotations(tb, r.Client, key, kmsapi.AllKeyMaterial, 0)
	if len(all) != 1 {
		tb.Fatalf("it has %d materials", len(all))
	}
	return all[0].ImportState
}

// TestBrokenDueWork holds up nothing that is due behind it: rows in which a byte differs, that are those of another row, or that nobody
// has written.
func TestBrokenDueWork(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(record []byte) []byte{
		"a byte differs": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b },
		"no record":      func([]byte) []byte { return []byte{1} },
		"empty":          func([]byte) []byte { return []byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows, beneath := below()
			r := startLate(t, beneath)
			arns := []string{r.CreateKey(), r.CreateKey()}
			var before []string
			for i, arn := range arns {
				kms.SetDue(t, r.KMS(), keyID(t, arn), 90, api.TimeOf(r.clock.Now().Add(time.Duration(i+1)*time.Hour)))
				before = append(before, describe(t, r.Rack, arn).CurrentKeyMaterialId)
			}
			id := keyID(t, arns[0])
			editDue(t, rows, func(n keystore.Name, b []byte) []byte {
				if strings.HasSuffix(string(n.Append(nil)), string(id[:])) {
					return spoil(b)
				}
				return b
			})
			strays := []keystore.Name{
				keystore.MakeName(keystore.SpaceDue, "\x00\x00\x00\x00\x00\x00\x00\x01", "\x02", string(id[:])),
				keystore.MakeName(keystore.SpaceDue, "what nobody has written"),
			}
			if _, err := rows.Update(t.Context(), func(tx keystore.Tx) error {
				for _, n := range strays {
					if err := tx.Put(n, []byte("stray")); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			told, err := r.KMS().DueUntil(t.Context(), r.clock.Now().Add(3*time.Hour))
			if want := "key " + keyID(t, arns[1]).String() + " gets a new material"; err != nil || !slices.Contains(told, want) {
				t.Errorf("people are told %q, %v", told, err)
			}
			r.advance(3 * time.Hour)
			kms.WakeDue(r.KMS())
			r.until("both rotations", func() bool {
				return describe(t, r.Rack, arns[0]).CurrentKeyMaterialId != before[0] && describe(t, r.Rack, arns[1]).CurrentKeyMaterialId != before[1]
			})
			r.until("a warning", func() bool { return r.mended(3) })
			wantSound(t, r.Rack)
		})
	}
}

// TestDueWorkThatNobodyTouched is left as it is by a start.
func TestDueWorkThatNobodyTouched(t *testing.T) {
	t.Parallel()
	r := startTimed(t, racktest.OnDisk)
	arn, other := r.CreateKey(), r.CreateKey()
	r.doom(arn)
	if err := rotateEvery(t, r.Client, other, 90); err != nil {
		t.Fatal(err)
	}
	r.Restart(nil)
	kms.KeepDue(t, r.KMS())
	if all := strings.Join(r.KMS().Warnings(), "\n"); strings.Contains(all, "made again") {
		t.Error(all)
	}
	wantSound(t, r.Rack)
}

// TestManyPiecesAtOnce: they are done in one pass, and those of the future do not keep the runner busy.
func TestManyPiecesAtOnce(t *testing.T) {
	t.Parallel()
	r := startLate(t)
	const n = 1000
	kms.PutManyDue(t, r.KMS(), n, func(i int) time.Time { return r.clock.Now().Add(time.Hour + time.Duration(i)*time.Microsecond) })
	kms.PutManyDue(t, r.KMS(), n, func(i int) time.Time { return r.clock.Now().Add(48*time.Hour + time.Duration(i)*time.Second) })
	r.settled()
	passes := kms.DuePasses(r.KMS())
	r.advance(2 * time.Hour)
	kms.WakeDue(r.KMS())
	r.until("all of them", func() bool { return kms.CountDue(t, r.KMS()) == n })
	r.until("the end of the pass", func() bool { return kms.DuePasses(r.KMS()) > passes })
	if more := kms.DuePasses(r.KMS()) - passes; more > 3 {
		t.Errorf("%d passes for %d pieces that are due at once", more, n)
	}
	for at, want := range map[time.Duration]bool{-time.Hour: true, time.Minute - time.Second: true, time.Minute: false, 24 * time.Hour: false} {
		if kms.Asks(r.clock.Now().Add(time.Minute), r.clock.Now().Add(at)) != want {
			t.Errorf("a row that is due in %s asks the runner, who looks in a minute, for a pass: %t", at, !want)
		}
	}
}
