package domain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// rack is an appliance that rotates: a keyring whose records are bound to its slot table, with some rows in them.
type rack struct {
	*domain.Keyring
	store   keystore.Store
	token   hsm.Provider
	records *sealed.Store
}

// sealedRows is how many rows newRack seals: more than one call of Rewrap takes.
const sealedRows = keystore.MaxRows

// node is the one node of the appliance.
var node = appliance

// shared is a store that outlives those who use it.
type shared struct{ keystore.Store }

func (shared) Close() error { return nil }

// openRecords opens the sealed rows of a store with the keys of k.
func openRecords(t *testing.T, store keystore.Store, k *domain.Keyring) *sealed.Store {
	t.Helper()
	s, err := sealed.Open(t.Context(), shared{store}, k, appliance, node)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newRecords makes the sealed rows of a store that has none, and binds them to the slot table.
func newRecords(t *testing.T, store keystore.Store, k *domain.Keyring) *sealed.Store {
	t.Helper()
	s := createRecords(t, store, k)
	if err := k.Bind(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// createRecords makes the sealed rows of a store that has none.
func createRecords(t *testing.T, store keystore.Store, k *domain.Keyring) *sealed.Store {
	t.Helper()
	if err := sealed.Create(t.Context(), store, k, appliance, node); err != nil {
		t.Fatal(err)
	}
	return openRecords(t, store, k)
}

func newRack(t *testing.T) *rack {
	t.Helper()
	r := emptyRack(t)
	r.fill(t)
	return r
}

// emptyRack has no sealed rows but the slot digest.
func emptyRack(t *testing.T) *rack {
	t.Helper()
	store, token := keystore.NewMemory(), &liveToken{Provider: newToken(t), live: map[string]bool{}}
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Lock)
	return &rack{k, store, token, newRecords(t, store, k)}
}

func clientName(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceClient, fmt.Sprint("client ", i))
}

// fill writes the sealed rows.
func (r *rack) fill(t *testing.T) {
	t.Helper()
	_, err := r.records.Update(t.Context(), func(tx keystore.Tx) (err error) {
		for i := range sealedRows {
			err = errors.Join(err, tx.Put(clientName(i), fmt.Append(nil, "value ", i)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readAll checks that every sealed row is there.
func (r *rack) readAll(t *testing.T) {
	t.Helper()
	err := r.records.View(t.Context(), func(reader keystore.Reader) error {
		for i := range sealedRows {
			value, err := reader.Get(clientName(i))
			if err != nil || string(value) != fmt.Sprint("value ", i) {
				t.Errorf("row %d is %q, %v", i, value, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// reopen unlocks what r's store and token hold, as after a restart, and verifies it.
func (r *rack) reopen(t *testing.T) *rack {
	t.Helper()
	return unlockRack(t, r.store, r.token)
}

func unlockRack(t *testing.T, store keystore.Store, token hsm.Provider) *rack {
	t.Helper()
	k := open(t, store, token)
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &rack{k, store, token, openRecords(t, store, k)}
	if err := k.Verify(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
	return r
}

// rotate begins a rotation.
func (r *rack) rotate(t *testing.T) {
	t.Helper()
	if err := r.Rotate(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
}

// finish ends it.
func (r *rack) finish(t *testing.T) {
	t.Helper()
	if err := r.Continue(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
}

// deriveAt returns what a version derives.
func deriveAt(t *testing.T, k *domain.Keyring, version uint32) (out [32]byte) {
	t.Helper()
	if err := k.Derive(out[:], version, seal.LabelState, []byte("context")); err != nil {
		t.Errorf("version %d: %v", version, err)
	}
	return out
}

// blobs returns the blob of every root that a store names, in slots and retired.
func blobs(t *testing.T, store keystore.Store) (slots, retired []string) {
	t.Helper()
	for _, e := range dump(t, store) {
		switch e.Name.Space() {
		case keystore.SpaceSlot:
			slots = append(slots, string(e.Value[72+1+4:len(e.Value)-60]))
		case keystore.SpaceRetired:
			retired = append(retired, string(e.Value[35+1+4:]))
		}
	}
	return slots, retired
}

func TestRotation(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	first := deriveAt(t, r.Keyring, 1)
	old, _ := blobs(t, r.store)
	if r.Rotating() {
		t.Error("rotating before the first rotation")
	}
	r.rotate(t)
	if got := r.Versions(); !slices.Equal(got, []uint32{1, 2}) || !r.Rotating() || r.State() != domain.Unlocked {
		t.Errorf("versions %v, rotating %t, %v", got, r.Rotating(), r.State())
	}
	second := deriveAt(t, r.Keyring, 2)
	if second == first || deriveAt(t, r.Keyring, 1) != first {
		t.Error("version 2 is version 1, or version 1 is another")
	}
	fresh, retired := blobs(t, r.store)
	if len(fresh) != 1 || fresh[0] == old[0] || len(retired) != 0 {
		t.Errorf("roots %q and retired %q, was %q", fresh, retired, old)
	}
	if _, err := r.token.Load(t.Context(), []byte(old[0])); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("the old root is still in the token: %v", err)
	}
	r.readAll(t)
	reopened := r.reopen(t)
	if got := reopened.Versions(); !slices.Equal(got, []uint32{1, 2}) || deriveAt(t, reopened.Keyring, 1) != first {
		t.Errorf("after a restart versions %v", got)
	}
	for range 2 { // the second time there is nothing left to do
		r.readAll(t)
		if deriveAt(t, r.Keyring, 2) != second {
			t.Error("version 2 is another")
		}
		r.finish(t)
		if got := r.Versions(); !slices.Equal(got, []uint32{2}) || r.Rotating() {
			t.Errorf("in the end versions %v, rotating %t", got, r.Rotating())
		}
		if err := r.Derive(make([]byte, 32), 1, seal.LabelState, nil); !errors.Is(err, domain.ErrVersion) {
			t.Errorf("version 1 derives, %v", err)
		}
		r = r.reopen(t)
	}
}

// The largest table there may be rotates: 16 slots, and 32 roots that an attempt has left.
func TestTheLargestTableRotates(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	if err := r.Fill(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
	slots, retired := blobs(t, r.store)
	if len(slots) != 16 || len(retired) != 32 {
		t.Fatalf("%d slots, %d retired roots", len(slots), len(retired))
	}
	r = r.reopen(t)
	r.rotate(t)
	r = r.reopen(t)
	r.finish(t)
	r.readAll(t)
	if live := r.token.(*liveToken).blobs(); len(live) != 1 {
		t.Errorf("%d roots in the token", len(live))
	}
}

func TestRotationsFollowEachOther(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	for version := uint32(2); version < 5; version++ {
		if version == 3 {
			r = r.reopen(t)
		}
		r.rotate(t)
		if err := r.Rotate(t.Context(), r.records); !errors.Is(err, domain.ErrRotating) {
			t.Errorf("a second Rotate returned %v", err)
		}
		if err := r.reopen(t).Rotate(t.Context(), r.records); !errors.Is(err, domain.ErrRotating) {
			t.Errorf("a second Rotate after a restart returned %v", err)
		}
		r.finish(t)
		if got := r.Versions(); !slices.Equal(got, []uint32{version}) {
			t.Errorf("versions %v, want %d", got, version)
		}
		r.readAll(t)
	}
	if rows := rawRows(t, r.store); len(rows) != 2 {
		t.Errorf("%d rows are left: %v", len(rows), rows)
	}
}

// rawRows returns the rows of the domain.
func rawRows(t *testing.T, store keystore.Store) (rows []keystore.Entry) {
	t.Helper()
	for _, e := range dump(t, store) {
		switch e.Name.Space() {
		case keystore.SpaceSlot, keystore.SpaceSlotTable, keystore.SpaceDomainKey, keystore.SpaceRetired:
			rows = append(rows, e)
		}
	}
	return rows
}

// A copy of everything from before a rotation does not open with the present token, and the error says what happened.
func TestACopyFromBeforeStaysShut(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	before := dump(t, r.store)
	r.rotate(t)
	copied := storeOf(t, before)
	err := open(t, copied, r.token).Unlock(t.Context())
	names(t, err, rawNames(before, keystore.SpaceSlot)[0])
	if !errors.Is(err, domain.ErrNoSlot) || !errors.Is(err, hsm.ErrBlob) || !strings.Contains(err.Error(), "rotated") || !strings.Contains(err.Error(), "another token") {
		t.Errorf("the copy: %v", err)
	}
	r.finish(t)
	if err := open(t, copied, r.token).Unlock(t.Context()); !errors.Is(err, domain.ErrNoSlot) {
		t.Errorf("the copy, later: %v", err)
	}
}

func storeOf(t *testing.T, rows []keystore.Entry) keystore.Store {
	t.Helper()
	store := keystore.NewMemory()
	for _, e := range rows {
		write(t, store, e.Name, e.Value)
	}
	return store
}

func rawNames(rows []keystore.Entry, space keystore.Space) (names []keystore.Name) {
	for _, e := range rows {
		if e.Name.Space() == space {
			names = append(names, e.Name)
		}
	}
	return names
}

// A slot of another token cannot follow into the next version, nor its root be ended: nothing happens.
func TestRotateRefusesForeignSlots(t *testing.T) {
	t.Parallel()
	for _, foreign := range [][2]string{{"tpm2", "x"}, {"soft", "another root"}} {
		mine, other := slotRow(count(0x40, 16), "soft", "root", knownDomainKey), slotRow(count(0x50, 16), foreign[0], foreign[1], knownDomainKey)
		store := put(t, tableRow(knownDomainKey, knownAppliance, mine, other), mine, other)
		k := open(t, store, &knownToken{root: knownRootKey})
		if err := k.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := newRecords(t, store, k)
		before := rawRows(t, store)
		names(t, k.Rotate(t.Context(), r), slotName(count(0x50, 16)))
		if !equal(before, rawRows(t, store)) || k.Rotating() {
			t.Error("the refusal wrote")
		}
	}
}

func TestLockedKeyringsRotateNothing(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	before := dump(t, r.store)
	r.Lock()
	var records domain.Records = r.records
	for name, f := range map[string]func(context.Context, domain.Records) error{
		"Bind": func(ctx context.Context, records domain.Records) error { return r.Bind(ctx, records) }, "Verify": r.Verify, "Rotate": r.Rotate, "Continue": r.Continue,
	} {
		if err := f(t.Context(), records); !errors.Is(err, domain.ErrLocked) {
			t.Errorf("%s of a locked keyring returned %v", name, err)
		}
	}
	if !equal(before, dump(t, r.store)) || r.Rotating() {
		t.Error("a locked keyring wrote")
	}
}

// Derivations go on while the key is rotated, of both versions, and none sees a key that is not one.
func TestDeriveWhileRotating(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	var mu sync.Mutex
	seen := map[uint32][32]byte{}
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, v := range r.Versions() {
					var out [32]byte
					err := r.Derive(out[:], v, seal.LabelState, nil)
					if errors.Is(err, domain.ErrVersion) { // retired since Versions
						continue
					}
					mu.Lock()
					if was, ok := seen[v]; err != nil || ok && was != out {
						t.Errorf("version %d derives %x, %v, was %x", v, out, err, was)
					}
					seen[v] = out
					mu.Unlock()
				}
			}
		})
	}
	for range 10 {
		r.rotate(t)
		r.finish(t)
	}
	close(stop)
	wg.Wait()
	if r.Versions()[0] != 11 {
		t.Errorf("versions %v", r.Versions())
	}
}

// Not parallel: the page of the freed key must still be mapped when it is looked at.
func TestRetiredVersionsAreWiped(t *testing.T) {
	r := newRack(t)
	key := r.Key()
	r.rotate(t)
	if bytes.Equal(key, make([]byte, 32)) {
		t.Fatal("the version before is gone too early")
	}
	r.finish(t)
	if !bytes.Equal(key, make([]byte, 32)) {
		t.Error("the retired version is still in memory")
	}
	newest := r.Key()
	r.rotate(t)
	r.Lock()
	if !bytes.Equal(newest, make([]byte, 32)) {
		t.Error("Lock leaves the version before in memory")
	}
}

// lockingStore locks a keyring in the middle of the nth Update: when its rows are committed, and before the caller knows.
type lockingStore struct {
	keystore.Store
	lock  func()
	n, at int
}

func (s *lockingStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	r, err := s.Store.Update(ctx, f)
	if s.n++; s.n == s.at {
		s.lock()
	}
	return r, err
}

// A Lock that comes at any commit of a rotation wins: nothing of the domain key stays in memory, and the next Unlock goes on.
func TestLockOvertakesRotate(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		r := newRack(t)
		store := &lockingStore{Store: r.store}
		locked := unlockRack(t, store, r.token)
		store.lock, store.at = locked.Lock, at
		err := locked.rotateAndFinish(t.Context())
		if store.n < at {
			break
		}
		if !errors.Is(err, domain.ErrLocked) || locked.State() != domain.Locked || locked.Versions() != nil {
			t.Errorf("commit %d: %v, the keyring is %v", at, err, locked.State())
		}
		if err := locked.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		locked.records = openRecords(t, store, locked.Keyring)
		locked.finish(t)
		locked.readAll(t)
		if live := r.token.(*liveToken).blobs(); len(live) != 1 {
			t.Errorf("commit %d: %d roots", at, len(live))
		}
	}
}

// The whole thing on a token that is a file.
func TestRotationOnAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	token, err := soft.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	store := keystore.NewMemory()
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	r := &rack{k, store, token, newRecords(t, store, k)}
	r.fill(t)
	r.rotate(t)
	k.Lock()
	token.Close()
	if token, err = soft.Open(path); err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	r = unlockRack(t, store, token)
	r.finish(t)
	r.readAll(t)
	if info, err := os.Stat(path); err != nil || info.Size() != 59+49 { // the token's FORMAT.md: one key
		t.Errorf("the token file has %d bytes, %v", info.Size(), err)
	}
}
