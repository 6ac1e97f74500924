package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const day = 24 * time.Hour

// timed is an appliance whose time the test lets pass.
type timed struct {
	*racktest.Rack
	tb      testing.TB
	advance func(time.Duration) // lets time pass with the appliance on
	set     func(time.Time)     // sets the machine's clock
	clock   *clock.Clock
}

func startTimed(tb testing.TB, options ...func(*rack.Config)) *timed {
	tb.Helper()
	c, advance, set := clock.NewTestWall(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	options = append(options, func(cfg *rack.Config) { cfg.Clock, cfg.DueEvery = c, 2*time.Millisecond })
	return &timed{Rack: racktest.Start(tb, options...), tb: tb, advance: advance, set: set, clock: c}
}

func (r *timed) schedule(key string, days int64) (*kmsapi.ScheduleKeyDeletionResponse, error) {
	return client.Do(r.tb.Context(), r.Client, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(key), PendingWindowInDays: days})
}

func (r *timed) cancel(key string) error {
	_, err := client.Do(r.tb.Context(), r.Client, kmsapi.CancelKeyDeletion, &kmsapi.CancelKeyDeletionRequest{KeyId: ref(key)})
	return err
}

// doom schedules the deletion of a key for the shortest window.
func (r *timed) doom(key string) {
	r.tb.Helper()
	if _, err := r.schedule(key, 7); err != nil {
		r.tb.Fatal(err)
	}
}

// state returns the state of a key, none once it is gone.
func (r *timed) state(key string) kmsapi.KeyState {
	r.tb.Helper()
	out, err := client.Do(r.tb.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(key)})
	if api.KindOf(err) == api.KindNotFound {
		return 0
	}
	if err != nil {
		r.tb.Fatal(err)
	}
	return out.KeyMetadata.KeyState
}

// until waits for what must come true.
func (r *timed) until(what string, ok func() bool) {
	r.tb.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(60 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			r.tb.Fatalf("%s: it does not come true", what)
		}
	}
}

// warned waits until a key's end is warned of.
func (r *timed) warned(key string) {
	r.tb.Helper()
	id := keyID(r.tb, key).String()
	r.until("warning of "+key, func() bool {
		return slices.ContainsFunc(r.KMS().Warnings(), func(w string) bool { return strings.Contains(w, id) })
	})
}

// accept lets the operator accept the machine's clock.
func (r *timed) accept() {
	r.tb.Helper()
	if _, err := client.Do(r.tb.Context(), r.Operator, applianceapi.AcceptClock, &applianceapi.AcceptClockRequest{}); err != nil {
		r.tb.Fatal(err)
	}
}

// settled waits until the runner has looked at its rows twice more.
func (r *timed) settled() {
	r.tb.Helper()
	passes := kms.DuePasses(r.KMS())
	r.until("passes", func() bool { kms.WakeDue(r.KMS()); return kms.DuePasses(r.KMS()) > passes+1 })
}

// furnish gives a key aliases, materials and tags.
func furnish(tb testing.TB, r *racktest.Rack, key string, aliases, materials int) {
	tb.Helper()
	for i := range aliases {
		if _, err := client.Do(tb.Context(), r.Client, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: fmt.Sprintf("alias/n%d", i), TargetKeyId: ref(key)}); err != nil {
			tb.Fatal(err)
		}
	}
	for range materials {
		addMaterial(tb, r, key, kmsapi.MaterialCurrent)
	}
	if _, err := client.Do(tb.Context(), r.Client, kmsapi.TagResource, &kmsapi.TagResourceRequest{KeyId: ref(key), Tags: []kmsapi.Tag{{TagKey: "a", TagValue: "b"}}}); err != nil {
		tb.Fatal(err)
	}
}

// TestDeletionOfAKey: with all that it has, after its window and a day of warning, and no trace is left but
// the tombstone, the record, and the others' keys.
func TestDeletionOfAKey(t *testing.T) {
	t.Parallel()
	r := startTimed(t, racktest.OnDisk)
	other, arn := r.CreateKey(), r.CreateKey()
	furnish(t, r.Rack, arn, api.MaxAliases, 40)
	blob := encrypt(t, r.Rack, arn, []byte("x"))
	before := r.clock.Now()
	out, err := r.schedule(arn, 0)
	if err != nil || out.KeyId != arn || out.KeyState != kmsapi.StatePendingDeletion || out.PendingWindowInDays != 30 || !out.DeletionDate.Time().Equal(before.Add(30*day)) {
		t.Fatalf("got %+v, %v", out, err)
	}
	if m := describe(t, r.Rack, arn); m.DeletionDate != out.DeletionDate || m.Enabled || m.KeyState != kmsapi.StatePendingDeletion {
		t.Errorf("described as %+v", m)
	}
	_, err = decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindInvalidState)
	r.advance(29*day - time.Second)
	r.settled()
	if all := r.KMS().Warnings(); len(all) > 0 {
		t.Errorf("warned too early: %q", all)
	}
	r.advance(time.Second)
	r.warned(arn)
	r.advance(day - time.Second)
	r.settled()
	wantSound(t, r.Rack)
	if r.state(arn) != kmsapi.StatePendingDeletion {
		t.Error("destroyed before its date")
	}
	r.advance(time.Second)
	r.until("end", func() bool { return r.state(arn) == 0 })
	wantSound(t, r.Rack)
	wantCount(t, r.Rack, racktest.Account, 1)
	_, err = decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindAccessDenied)
	_, err = client.Do(t.Context(), r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref("alias/n7"), Plaintext: []byte("x")})
	wantKind(t, err, api.KindNotFound)
	wantKind(t, r.cancel(arn), api.KindNotFound)
	encrypt(t, r.Rack, other, []byte("x"))
	wantRows(t, r.Rack, keyID(t, arn), keystore.SpaceTombstone)
	wantOneDeletion(t, r.Rack, arn, out.DeletionDate)
	r.Restart(nil)
	if r.state(arn) != 0 || r.state(other) != kmsapi.StateEnabled {
		t.Error("after a restart it is not as it was")
	}
}

// wantRows checks in which spaces there are rows that name a key.
func wantRows(tb testing.TB, r *racktest.Rack, id api.KeyID, want ...keystore.Space) {
	tb.Helper()
	var got []keystore.Space
	err := kms.Rows(r.KMS()).View(tb.Context(), func(reader keystore.Reader) error {
		lo, hi := keystore.SealedRange()
		for e, err := range reader.Scan(lo, hi) {
			if err != nil {
				return err
			}
			named := slices.Contains(e.Name.Components(), string(id[:])) || strings.Contains(string(e.Value), string(id[:]))
			if s := e.Name.Space(); named && s != keystore.SpaceOutbox && !slices.Contains(got, s) {
				got = append(got, s)
			}
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		tb.Errorf("rows of the key in %v, want %v; %v", got, want, err)
	}
}

// wantOneDeletion checks the one record of a key's end.
func wantOneDeletion(tb testing.TB, r *racktest.Rack, arn string, date api.Time) {
	tb.Helper()
	n := 0
	for _, rec := range r.Records() {
		if rec.Op != kmsapi.DeleteKey.Number || rec.Resource != arn {
			continue
		}
		n++
		details := new(kmsapi.DeleteKeyEvent)
		if err := kmsapi.DeleteKey.Out.DecodeCBOR(rec.Response, details); err != nil {
			tb.Fatal(err)
		}
		if rec.Account != racktest.Account.String() || !strings.HasSuffix(rec.Principal, "::appliance") || rec.Error != 0 ||
			details.DeletionDate != date || details.Aliases != api.MaxAliases || details.Materials != 41 || len(details.KeyMaterialIds) != 41 ||
			details.ScheduledBy != "arn:aws:iam::"+racktest.Account.String()+":root" {
			tb.Errorf("recorded %+v, %+v", rec, details)
		}
	}
	if n != 1 {
		tb.Errorf("%d records of the end of %s", n, arn)
	}
}

// TestDeletionIsCancelled: the key is Disabled, and as it was once it is enabled; nothing is due any more.
func TestDeletionIsCancelled(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arn := r.CreateKey()
	blob := encrypt(t, r.Rack, arn, []byte("x"))
	wantKind(t, r.cancel(arn), api.KindInvalidState)
	for range 2 {
		r.doom(arn)
		r.advance(7 * day)
		r.warned(arn)
		if err := r.cancel(arn); err != nil {
			t.Fatal(err)
		}
		if m := describe(t, r.Rack, arn); m.KeyState != kmsapi.StateDisabled || m.DeletionDate != 0 {
			t.Errorf("cancelled, and described as %+v", m)
		}
		r.advance(40 * day)
		r.settled()
		if all := r.KMS().Warnings(); len(all) > 0 {
			t.Errorf("still warned: %q", all)
		}
	}
	wantSound(t, r.Rack)
	if _, err := client.Do(t.Context(), r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)}); err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestWhatCannotBeScheduled: AWS's window and states.
func TestWhatCannotBeScheduled(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arn := r.CreateKey()
	for _, days := range []int64{1, 6, 31, 365} {
		_, err := r.schedule(arn, days)
		wantKind(t, err, api.KindValidation)
	}
	_, err := r.schedule("alias/none", 7)
	wantKind(t, err, api.KindNotFound)
	_, err = client.Do(t.Context(), r.Stranger, kmsapi.ScheduleKeyDeletion, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(arn)})
	wantKind(t, err, api.KindAccessDenied)
	for _, state := range []kmsapi.KeyState{kmsapi.StateEnabled, kmsapi.StateDisabled, kmsapi.StatePendingImport, kmsapi.StateUnavailable, kmsapi.StateCreating} {
		key := r.CreateKey()
		kms.SetState(t, r.KMS(), keyID(t, key), state)
		if out, err := r.schedule(key, 30); err != nil || out.KeyState != kmsapi.StatePendingDeletion {
			t.Errorf("%s: got %+v, %v", state, out, err)
		}
		_, err := r.schedule(key, 7)
		wantKind(t, err, api.KindInvalidState)
	}
	kms.SetState(t, r.KMS(), keyID(t, arn), kmsapi.StateUpdating)
	_, err = r.schedule(arn, 7)
	wantKind(t, err, api.KindInvalidState)
}

// TestAHiddenRowLosesNothing: a piece of work that somebody brought in destroys no key, and check names it.
func TestAHiddenRowLosesNothing(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arn := r.CreateKey()
	kms.PutDue(t, r.KMS(), r.clock.Now().Add(time.Second), 1, keyID(t, arn))
	if all := problems(t, r.Rack); len(all) != 1 || !strings.Contains(all[0], "does not wait for it") {
		t.Errorf("check says %q", all)
	}
	r.advance(time.Minute)
	r.until("the row's end", func() bool { return len(problems(t, r.Rack)) == 0 })
	if r.state(arn) != kmsapi.StateEnabled {
		t.Error("the key is not as it was")
	}
	kms.PutDue(t, r.KMS(), r.clock.Now().Add(-time.Second), 77, keyID(t, arn))
	doomed := r.CreateKey()
	r.doom(doomed)
	r.until("a warning", func() bool { return strings.Contains(strings.Join(r.KMS().Warnings(), " "), "no work of kind 77") })
	r.advance(7 * day)
	r.until("the end of another key", func() bool { r.advance(time.Hour); return r.state(doomed) == 0 })
}

// idOf returns the id in a key's ARN.
func idOf(arn string) []byte {
	id := ref(arn).ID
	return id[:]
}

// rowOf reads a row.
func rowOf(tb testing.TB, r *racktest.Rack, n keystore.Name) (value []byte, err error) {
	tb.Helper()
	err = kms.Rows(r.KMS()).View(tb.Context(), func(reader keystore.Reader) error {
		b, err := reader.Get(n)
		value = bytes.Clone(b)
		return err
	})
	return value, err
}

// removeRow takes a row away.
func removeRow(tb testing.TB, r *racktest.Rack, n keystore.Name) {
	tb.Helper()
	if _, err := kms.Rows(r.KMS()).Update(tb.Context(), func(tx keystore.Tx) error { return tx.Delete(n) }); err != nil {
		tb.Fatal(err)
	}
}

// TestHiddenAliasesStopADestruction: a key that has an alias which is not found stays, and the operator is told.
func TestHiddenAliasesStopADestruction(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arn := r.CreateKey()
	furnish(t, r.Rack, arn, 2, 0)
	r.doom(arn)
	removeRow(t, r.Rack, keystore.MakeName(keystore.SpaceKeyAlias, string(idOf(arn)), "n1"))
	r.advance(7 * day)
	r.warned(arn)
	r.advance(day)
	r.until("a warning", func() bool {
		return strings.Contains(strings.Join(r.KMS().Warnings(), " "), "aliases of the key are missing")
	})
	if r.state(arn) != kmsapi.StatePendingDeletion {
		t.Error("the key is gone, and an alias names it")
	}
}

// TestHiddenTombstonesStopShredding: what is to be shredded is counted, and none is left out.
func TestHiddenTombstonesStopShredding(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	arns := []string{r.CreateKey(), r.CreateKey()}
	for _, arn := range arns {
		r.doom(arn)
	}
	r.advance(7 * day)
	r.warned(arns[1])
	r.warned(arns[0])
	r.advance(day)
	for _, arn := range arns {
		r.until("the end", func() bool { return r.state(arn) == 0 })
	}
	found, err := r.KMS().ToShred(t.Context())
	if err != nil || len(found.Keys) != 2 || len(found.Materials) != 2 {
		t.Errorf("to be shredded are %+v, %v", found, err)
	}
	removeRow(t, r.Rack, keystore.MakeName(keystore.SpaceTombstone, string(idOf(arns[0]))))
	if _, err := r.KMS().ToShred(t.Context()); !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("one tombstone is hidden: %v", err)
	}
	if all := problems(t, r.Rack); len(all) != 1 || !strings.Contains(all[0], "counts 2 keys and materials that are not shredded, and there are 1") {
		t.Errorf("check says %q", all)
	}
	if err := r.KMS().Shredded(t.Context(), kms.Destroyed{Keys: []api.KeyID{ref(arns[1]).ID, ref(arns[1]).ID}}, api.TimeOf(r.clock.Now())); err != nil {
		t.Error(err)
	}
	if n, _, err := r.KMS().Unshredded(t.Context()); err != nil || n != 1 {
		t.Errorf("%d keys are left, %v", n, err)
	}
}

// cutStore is a store as a process sees it that may be killed before a transaction and behind it.
type cutStore struct {
	keystore.Store
	life *racktest.Power
	dead *atomic.Bool
}

func (cutStore) Close() error { return nil }

func (c cutStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if err := c.use(); err != nil {
		return 0, err
	}
	rev, err := c.Store.Update(ctx, f)
	return rev, errors.Join(err, c.use())
}

func (c cutStore) use() error {
	err := c.life.Use()
	if err != nil {
		c.dead.Store(true)
	}
	return err
}

// TestDestructionIsCut at every transaction, before and behind it: what is left agrees, and the next
// process goes on to the end, with one record.
func TestDestructionIsCut(t *testing.T) {
	t.Parallel()
	whole := false
	for n := 1; !whole; n++ {
		whole = destructionCutAt(t, n)
		if t.Failed() {
			t.Fatalf("cut at use %d of the store", n)
		}
	}
}

func destructionCutAt(t *testing.T, n int) (whole bool) {
	t.Helper()
	below, life := keystore.NewMemory(), racktest.NewPower(1<<30)
	var dead, never atomic.Bool
	r := startTimed(t, func(cfg *rack.Config) { cfg.Store = cutStore{below, life, &dead} })
	other, arn := r.CreateKey(), r.CreateKey()
	furnish(t, r.Rack, arn, 14, 14)
	r.doom(arn)
	r.advance(7 * day)
	r.warned(arn)
	life.Last(n)
	r.advance(day)
	r.until("the cut or the end", func() bool {
		_, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(arn)})
		whole = api.KindOf(err) == api.KindNotFound
		return whole || dead.Load()
	})
	life.Off()
	r.Restart(func(cfg *rack.Config) {
		cfg.Store = cutStore{below, racktest.NewPower(1 << 30), &never}
		cfg.DueEvery = time.Hour
	})
	wantSound(t, r.Rack)
	if _, err := rowOf(t, r.Rack, keystore.MakeName(keystore.SpaceTombstone, string(idOf(arn)))); err == nil && r.state(arn) != 0 {
		wantKind(t, r.cancel(arn), api.KindNotFound) // its destruction has begun
	}
	r.accept() // the process did not live to keep its time
	r.until("the end", func() bool { r.advance(time.Hour); kms.WakeDue(r.KMS()); return r.state(arn) == 0 })
	wantSound(t, r.Rack)
	wantRows(t, r.Rack, keyID(t, arn), keystore.SpaceTombstone)
	if r.state(other) != kmsapi.StateEnabled {
		t.Error("another key is gone, too")
	}
	records := 0
	for _, rec := range r.Records() {
		if rec.Op == kmsapi.DeleteKey.Number {
			records++
		}
	}
	if records != 1 {
		t.Errorf("%d records of the end", records)
	}
	return whole
}
