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
)

// rack is an appliance that rotates: a keyring whose records are bound to its slot table, with some rows in them.
type rack struct {
	*domain.Keyring
	store   keystore.Store
	token   hsm.Provider
	records domain.Records
}

// sealedRows is how many rows newRack seals.
const sealedRows = 5

func newRack(t *testing.T) *rack {
	t.Helper()
	store, token := keystore.NewMemory(), &liveToken{Provider: newToken(t), live: map[string]bool{}}
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Lock)
	r := &rack{k, store, token, openRecords(t, store, k)}
	if err := k.Bind(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
	for i := range sealedRows {
		r.put(t, i)
	}
	return r
}

func clientName(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceClient, fmt.Sprint("client ", i))
}

func (r *rack) put(t *testing.T, i int) {
	t.Helper()
	_, err := r.records.UpdateBoth(t.Context(), func(sealed, _ keystore.Tx) error {
		return sealed.Put(clientName(i), fmt.Append(nil, "value ", i))
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

func TestOnlyOneRotationBegins(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	var wg sync.WaitGroup
	var won, refused int
	var mu sync.Mutex
	for range 4 {
		wg.Go(func() {
			err := r.Rotate(t.Context(), r.records)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.Is(err, domain.ErrRotating):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || refused != 3 {
		t.Errorf("%d began, %d were refused", won, refused)
	}
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

// Rows from before a rotation, put back beside or in the place of the new ones.
func TestOldRowsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	before := rawRows(t, r.store)
	r.rotate(t)
	during := rawRows(t, r.store)
	r.finish(t)
	after := rawRows(t, r.store)
	oldSlot, newSlot, version := before[0], after[0], rawNames(during, keystore.SpaceDomainKey)[0]
	for name, c := range map[string]struct {
		rows    []keystore.Entry
		refused keystore.Name
	}{
		"the old slot beside the new one": {append(slices.Clone(after), oldSlot), oldSlot.Name},
		"the old slot and its table":      {before, oldSlot.Name},
		"the old slot for the new one":    {[]keystore.Entry{oldSlot, after[1]}, oldSlot.Name},
		"the old table over the new slot": {[]keystore.Entry{newSlot, before[1]}, tableName},
		"the earlier version again":       {append(slices.Clone(after), during[2]), version},
		"the earlier version removed":     {during[:2], version},
		"the new slot alone":              {after[1:], newSlot.Name},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := domain.Open(t.Context(), storeOf(t, c.rows), r.token)
			if err == nil {
				err = k.Unlock(t.Context())
			}
			names(t, err, c.refused)
		})
	}
}

// While the old root is still in the token, its slot opens, and is refused all the same.
func TestAnOldSlotWhoseRootLives(t *testing.T) {
	t.Parallel()
	for range 8 { // the slots have random ids: tried in either order
		r := newRack(t)
		old := rawRows(t, r.store)[0]
		crashed := r.crashing(t, &crasher{only: "Destroy", at: 1})
		if err := crashed.Rotate(t.Context(), crashed.records); !errors.Is(err, errCrash) || !strings.Contains(err.Error(), "rotated to version 2") {
			t.Fatalf("Rotate returned %v", err)
		}
		write(t, r.store, old.Name, old.Value)
		names(t, open(t, r.store, r.token).Unlock(t.Context()), old.Name)
	}
}

// Every bit of every row in the middle of a rotation is authenticated.
func TestEveryByteOfARotationIsAuthenticated(t *testing.T) {
	t.Parallel()
	d := rotating()
	token := &knownToken{root: knownRootKey}
	store := d.store(t)
	for _, row := range d.entries() {
		for i := range row.Value {
			bad := bytes.Clone(row.Value)
			bad[i] ^= 1 << (i % 8)
			write(t, store, row.Name, bad)
			refused(t, store, token, row.Name)
		}
		for _, n := range []int{0, 1, len(row.Value) - 1} {
			write(t, store, row.Name, row.Value[:n])
			refused(t, store, token, row.Name)
		}
		write(t, store, row.Name, append(bytes.Clone(row.Value), 0))
		refused(t, store, token, row.Name)
		write(t, store, row.Name, row.Value)
	}
	if err := open(t, store, token).Unlock(t.Context()); err != nil {
		t.Errorf("the rows as they were: %v", err)
	}
}

// refused checks that neither Open nor Unlock takes a store, and that the row is named.
func refused(t *testing.T, store keystore.Store, token hsm.Provider, row keystore.Name) {
	t.Helper()
	k, err := domain.Open(t.Context(), store, token)
	if err == nil {
		err = k.Unlock(t.Context())
		if k.Versions() != nil {
			t.Errorf("unlocked with versions %v", k.Versions())
		}
	}
	names(t, err, row)
}

// Whoever writes to the store would like the appliance to destroy a key of its token.
func TestPlantedRetiredRoots(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	_, checkpoint, err := r.token.Generate(t.Context(), hsm.SignP256)
	if err != nil {
		t.Fatal(err)
	}
	roots, _ := blobs(t, r.store)
	for what, blob := range map[string]string{"the present root": roots[0], "the checkpoint key": string(checkpoint), "a foreign key": "no blob"} {
		id := count(0x77, 16)
		row := join(1, id, appliance[:], 0, 5+len(blob), 4, "soft", blob)
		write(t, r.store, retiredName(id), row)
		refused(t, r.store, r.token, retiredName(id))
		// The keyring that was unlocked before does not ask the store what to destroy.
		r.finish(t)
		if err := r.Verify(t.Context(), r.records); err != nil {
			t.Error(err)
		}
		update(t, r.store, func(tx keystore.Tx) error { return tx.Delete(retiredName(id)) })
		for _, blob := range [][]byte{[]byte(roots[0]), checkpoint} {
			if _, err := r.token.Load(t.Context(), blob); err != nil {
				t.Fatalf("%s: a key is gone: %v", what, err)
			}
		}
	}
	// In the middle of a rotation the store is read once more before anything is destroyed.
	id := count(0x77, 16)
	write(t, r.store, retiredName(id), join(1, id, appliance[:], 0, 5+len(checkpoint), 4, "soft", checkpoint))
	if err := r.Rotate(t.Context(), r.records); !errors.Is(err, domain.ErrReadBack) {
		t.Errorf("Rotate beside a planted row returned %v", err)
	}
	for _, blob := range [][]byte{[]byte(roots[0]), checkpoint} {
		if _, err := r.token.Load(t.Context(), blob); err != nil {
			t.Errorf("a key is gone: %v", err)
		}
	}
}

func update(t *testing.T, store keystore.Store, f func(keystore.Tx) error) {
	t.Helper()
	if _, err := store.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// Rows that are authentic and contradict each other, as only the appliance itself could write them.
func TestForgedRotations(t *testing.T) {
	t.Parallel()
	key, id := knownDomainKey, count(0x10, 16)
	for name, c := range map[string]struct {
		spoil   func(*domainRows)
		refused keystore.Name
	}{
		"a retired root in use":          {func(d *domainRows) { d.retired = [][]byte{retiredRow(id, "soft", "root")} }, retiredName(id)},
		"a retired root elsewhere":       {func(d *domainRows) { d.retired[0][20] ^= 1 }, retiredName(id)},
		"a slot of the version before":   {func(d *domainRows) { d.slots[0] = slotRow(count(0x40, 16), "soft", "root", key) }, slotName(count(0x40, 16))},
		"an earlier version, other name": {func(d *domainRows) { d.earlier = versionRow(key, knownEarlierKey, 3) }, versionName(1)},
		"an earlier version, other key":  {func(d *domainRows) { d.earlier = versionRow(count(0x99, 32), knownEarlierKey, 2) }, versionName(1)},
		"a longer earlier version":       {func(d *domainRows) { d.earlier = versionRow(key, count(0, 33), 2) }, versionName(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := rotating()
			c.spoil(&d)
			d.table = tableOf(key, knownAppliance, 2, d.slots, d.earlier, d.retired)
			refused(t, d.store(t), &knownToken{root: knownRootKey}, c.refused)
		})
	}
}

// A row of each kind that is not listed, and one listed that is not there.
func TestRowsThatAreNotListed(t *testing.T) {
	t.Parallel()
	d := rotating()
	for name, extra := range map[string]keystore.Entry{
		"a slot":           {Name: slotName(count(0x30, 16)), Value: slotOf(count(0x30, 16), "soft", "root", knownDomainKey, 2)},
		"version 0":        {Name: versionName(0), Value: d.earlier},
		"version 2":        {Name: versionName(2), Value: d.earlier},
		"a retired root":   {Name: retiredName(count(0x11, 16)), Value: retiredRow(count(0x11, 16), "soft", "x")},
		"an earlier root":  {Name: retiredName(count(0x09, 16)), Value: retiredRow(count(0x09, 16), "soft", "x")},
		"another's name":   {Name: retiredName(count(0x12, 16)), Value: d.retired[0]},
		"a nameless root":  {Name: keystore.MakeName(keystore.SpaceRetired), Value: d.retired[0]},
		"a version's name": {Name: keystore.MakeName(keystore.SpaceDomainKey, "v"), Value: d.earlier},
	} {
		store := d.store(t)
		write(t, store, extra.Name, extra.Value)
		t.Run(name, func(t *testing.T) { refused(t, store, &knownToken{root: knownRootKey}, extra.Name) })
	}
	for _, e := range d.entries() {
		store := d.store(t)
		update(t, store, func(tx keystore.Tx) error { return tx.Delete(e.Name) })
		if e.Name != tableName {
			refused(t, store, &knownToken{root: knownRootKey}, e.Name)
		}
	}
	many := rotating()
	for i := range 33 {
		many.retired = append(many.retired, retiredRow(count(byte(0x30+i), 16), "soft", "x"))
	}
	refused(t, many.store(t), &knownToken{root: knownRootKey}, retiredName(count(0x30+31, 16)))
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
		r := openRecords(t, store, k)
		if err := k.Bind(t.Context(), r); err != nil {
			t.Fatal(err)
		}
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
	for name, f := range map[string]func(context.Context, domain.Records) error{
		"Bind": r.Bind, "Verify": r.Verify, "Rotate": r.Rotate, "Continue": r.Continue,
	} {
		if err := f(t.Context(), r.records); !errors.Is(err, domain.ErrLocked) {
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
	r := &rack{k, store, token, openRecords(t, store, k)}
	if err := k.Bind(t.Context(), r.records); err != nil {
		t.Fatal(err)
	}
	for i := range sealedRows {
		r.put(t, i)
	}
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
