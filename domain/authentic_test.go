package domain_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/keystore"
)

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
	if !errors.Is(err, keystore.ErrDamaged) {
		t.Errorf("not told as damage: %v", err)
	}
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
