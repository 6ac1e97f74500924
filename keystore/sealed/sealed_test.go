package sealed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/keystore/storetest"
)

// domainKeys derives like a keyring that holds these versions of the domain key.
type domainKeys map[uint32][]byte

var errLocked = errors.New("appliance is locked")

func (k domainKeys) Versions() []uint32 { return slices.Sorted(maps.Keys(k)) }

// Derive refuses a version without a key, as a keyring that was locked in between.
func (k domainKeys) Derive(out []byte, version uint32, label seal.Label, context []byte) error {
	if k[version] == nil {
		return errLocked
	}
	seal.KDF(out, k[version], label, context)
	return nil
}

var (
	// theKeys, theAppliance and theNode are those of the example in FORMAT.md.
	theKeys      = domainKeys{1: count(0, 32)}
	theAppliance = [16]byte(count(0xa0, 16))
	theNode      = [16]byte(count(0xc0, 16))

	anchorName  = keystore.MakeName(keystore.SpaceAnchor, string(theNode[:]))
	nameKeyName = keystore.MakeName(keystore.SpaceNameKey)
)

// count returns n bytes that count up.
func count(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func name(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceMaterial, string(binary.BigEndian.AppendUint32(nil, uint32(i))))
}

// create returns an empty sealed store over below.
func create(t testing.TB, below keystore.Store) *sealed.Store {
	t.Helper()
	if err := sealed.Create(t.Context(), below, theKeys, theAppliance, theNode); err != nil {
		t.Fatal(err)
	}
	return open(t, below, theKeys)
}

// open opens the sealed store in below, which the test closes.
func open(t testing.TB, below keystore.Store, keys domainKeys) *sealed.Store {
	t.Helper()
	s, err := sealed.Open(t.Context(), below, keys, theAppliance, theNode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// put writes a row.
func put(t testing.TB, s keystore.Store, n keystore.Name, value []byte) {
	t.Helper()
	if _, err := s.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(n, value) }); err != nil {
		t.Fatalf("put %s: %v", n, err)
	}
}

// remove deletes a row.
func remove(t testing.TB, s keystore.Store, n keystore.Name) {
	t.Helper()
	if _, err := s.Update(context.Background(), func(tx keystore.Tx) error { return tx.Delete(n) }); err != nil {
		t.Fatalf("delete %s: %v", n, err)
	}
}

// rows returns all rows of a store.
func rows(t testing.TB, s keystore.Store) map[keystore.Name][]byte {
	t.Helper()
	all := make(map[keystore.Name][]byte)
	err := s.View(context.Background(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			all[e.Name] = bytes.Clone(e.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// bring makes below hold exactly these rows.
func bring(t testing.TB, below keystore.Store, to map[keystore.Name][]byte) {
	t.Helper()
	for n := range rows(t, below) {
		if _, keep := to[n]; !keep {
			remove(t, below, n)
		}
	}
	for n, value := range to {
		put(t, below, n, value)
	}
}

// get reads a row in a View or in an Update.
func get(s keystore.Store, update bool, n keystore.Name) (value []byte, err error) {
	if update {
		_, err = s.Update(context.Background(), func(tx keystore.Tx) error {
			v, err := tx.Get(n)
			value = bytes.Clone(v)
			return err
		})
		return value, err
	}
	err = s.View(context.Background(), func(r keystore.Reader) error {
		v, err := r.Get(n)
		value = bytes.Clone(v)
		return err
	})
	return value, err
}

// bucketNames returns the names of bucket rows, in order.
func bucketNames(rows map[keystore.Name][]byte) (names []keystore.Name) {
	for n := range rows {
		if n.Space() == keystore.SpaceBucket {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, keystore.Name.Compare)
	return names
}

func TestSealedMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) keystore.Store { return create(t, keystore.NewMemory()) })
}

func TestSealedBolt(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) keystore.Store {
		below, err := bolt.Create(filepath.Join(t.TempDir(), "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		return create(t, below)
	})
}

// TestBelowHasNoPlaintext looks at what the medium gets: rows of the documented sizes, and the value
// nowhere.
func TestBelowHasNoPlaintext(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	value := []byte("a value that should not be seen")
	put(t, s, name(1), value)
	first := rows(t, below)
	put(t, s, name(1), value)
	second := rows(t, below)
	for n, stored := range second {
		size, changes := map[keystore.Space]int{
			keystore.SpaceBucket: 36 + 48 + seal.RecordOverhead, keystore.SpaceNameKey: 32 + seal.RecordOverhead,
			keystore.SpaceAnchor: 64, keystore.SpaceMaterial: len(value) + seal.RecordOverhead,
		}[n.Space()], n != nameKeyName
		if len(stored) != size || bytes.Contains(stored, value[:8]) || bytes.Equal(stored, first[n]) == changes {
			t.Errorf("%s is stored as %d bytes, want %d: %x; before: %x", n, len(stored), size, stored, first[n])
		}
	}
	if len(first) != 4 || len(second) != 4 {
		t.Errorf("%d rows, then %d, want 4: record, bucket, anchor, name key", len(first), len(second))
	}
}

// TestEmptyBucketsGo: what was deleted leaves nothing.
func TestEmptyBucketsGo(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	empty := s.State()
	for i := range 300 {
		put(t, s, name(i), []byte("v"))
	}
	full := s.State()
	for i := range 300 {
		remove(t, s, name(i))
	}
	if got := len(rows(t, below)); got != 2 {
		t.Errorf("%d rows below, want the anchor and the name key", got)
	}
	state := s.State()
	if state.Buckets != 0 || state.Rows != 0 || full.Rows != 300 || full.Buckets < 290 || state.Generation != 601 {
		t.Errorf("states: %+v, full: %+v, empty again: %+v", empty, full, state)
	}
	open(t, below, theKeys)
}

// TestPureReadsWriteNothing: nor do deletions of nothing, or rows that come and go.
func TestPureReadsWriteNothing(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	one, beside := neighbours(t)
	put(t, s, one, []byte("one"))
	before, state := rows(t, below), s.State()
	_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
		_, err := tx.Get(one)
		for i := range 30 {
			err = errors.Join(err, tx.Delete(name(5000+i)))
		}
		for _, n := range []keystore.Name{beside, name(6000)} {
			err = errors.Join(err, tx.Put(n, nil), tx.Put(n, []byte("v")), tx.Delete(n))
		}
		return err
	})
	if after := rows(t, below); err != nil || !maps.EqualFunc(before, after, bytes.Equal) || s.State().Generation != state.Generation {
		t.Errorf("%v: %d rows, then %d; %+v, then %+v", err, len(before), len(after), state, s.State())
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	slot := keystore.MakeName(keystore.SpaceSlot, "token")
	for what, c := range map[string]struct {
		rows []keystore.Name
		keys domainKeys
		want error
	}{
		"rows of others": {[]keystore.Name{slot}, theKeys, nil},
		"an anchor row":  {[]keystore.Name{anchorName}, theKeys, sealed.ErrExists},
		"another node's": {[]keystore.Name{keystore.MakeName(keystore.SpaceAnchor, "b")}, theKeys, sealed.ErrExists},
		"a name key":     {[]keystore.Name{nameKeyName}, theKeys, sealed.ErrExists},
		"a bucket row":   {[]keystore.Name{keystore.MakeName(keystore.SpaceBucket, "ab")}, theKeys, sealed.ErrExists},
		"a sealed row":   {[]keystore.Name{name(1)}, theKeys, sealed.ErrExists},
		"locked":         {nil, domainKeys{}, keystore.ErrLocked},
		"locked since":   {nil, domainKeys{1: nil}, errLocked},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			below := keystore.NewMemory()
			defer below.Close()
			for _, n := range c.rows {
				put(t, below, n, []byte("row"))
			}
			err := sealed.Create(t.Context(), below, c.keys, theAppliance, theNode)
			if !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			if got := len(rows(t, below)); err != nil && got != len(c.rows) {
				t.Errorf("%d rows, want the %d from before", got, len(c.rows))
			}
		})
	}
}

// TestCreateTwice: of two that both find an empty store, one makes it.
func TestCreateTwice(t *testing.T) {
	t.Parallel()
	m := keystore.NewMemory()
	hook, waiting, release := once()
	slow := &heldStore{m, hook, func() {}}
	late := make(chan error, 1)
	go func() { late <- sealed.Create(context.Background(), slow, theKeys, theAppliance, theNode) }()
	<-waiting
	s := create(t, m)
	put(t, s, name(1), []byte("one"))
	release()
	if err := <-late; !errors.Is(err, sealed.ErrExists) {
		t.Errorf("the late one: %v, want ErrExists", err)
	}
	if got, err := get(s, false, name(1)); string(got) != "one" || err != nil {
		t.Errorf("then reads: %q, %v", got, err)
	}
}

// oddKeys are versions that no keyring should have.
type oddKeys []uint32

func (k oddKeys) Versions() []uint32 { return k }

func (k oddKeys) Derive(out []byte, _ uint32, label seal.Label, context []byte) error {
	return theKeys.Derive(out, 1, label, context)
}

func TestOddVersionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, versions := range []oddKeys{{2, 1}, {1, 1}, {1, 2, 3}} {
		below := keystore.NewMemory()
		defer below.Close()
		if err := sealed.Create(t.Context(), below, versions, theAppliance, theNode); err == nil {
			t.Errorf("a store was created under versions %d", versions)
		}
		create(t, below)
		if _, err := sealed.Open(t.Context(), below, versions, theAppliance, theNode); err == nil || errors.Is(err, sealed.ErrSealBroken) {
			t.Errorf("opened with versions %d: %v", versions, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	other := [16]byte(count(0xb0, 16))
	for what, c := range map[string]struct {
		keys            domainKeys
		appliance, node [16]byte
		edit            func(t *testing.T, below keystore.Store)
		want            error
		words           string
	}{
		"nothing there": {theKeys, theAppliance, theNode, func(t *testing.T, s keystore.Store) { bring(t, s, nil) }, sealed.ErrSealBroken, "name-key: is missing"},
		"no name key":   {theKeys, theAppliance, theNode, func(t *testing.T, s keystore.Store) { remove(t, s, nameKeyName) }, sealed.ErrSealBroken, "name-key: is missing"},
		"no anchor row": {theKeys, theAppliance, theNode, func(t *testing.T, s keystore.Store) { remove(t, s, anchorName) }, sealed.ErrSealBroken, "state root is missing"},
		"odd bucket name": {theKeys, theAppliance, theNode, func(t *testing.T, s keystore.Store) {
			all := rows(t, s)
			put(t, s, keystore.MakeName(keystore.SpaceBucket, "odd"), all[bucketNames(all)[0]])
		}, sealed.ErrSealBroken, "bucket/odd: is not the name of a bucket"},
		"locked":             {domainKeys{}, theAppliance, theNode, nil, keystore.ErrLocked, ""},
		"locked since":       {domainKeys{1: nil}, theAppliance, theNode, nil, errLocked, ""},
		"foreign domain key": {domainKeys{1: count(1, 32)}, theAppliance, theNode, nil, sealed.ErrSealBroken, "name-key"},
		"other version":      {domainKeys{2: theKeys[1]}, theAppliance, theNode, nil, sealed.ErrSealBroken, "name-key: does not open under version 2"},
		"other appliance":    {theKeys, other, theNode, nil, sealed.ErrSealBroken, "name-key"},
		"other node":         {theKeys, theAppliance, other, nil, sealed.ErrSealBroken, "state root is missing"},
		"three versions":     {domainKeys{1: theKeys[1], 2: theKeys[1], 3: theKeys[1]}, theAppliance, theNode, nil, nil, "versions [1 2 3]"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			below := keystore.NewMemory()
			put(t, create(t, below), name(1), []byte("one"))
			if c.edit != nil {
				c.edit(t, below)
			}
			_, err := sealed.Open(t.Context(), below, c.keys, c.appliance, c.node)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got error %v, want %v with %q", err, c.want, c.words)
			}
		})
	}
}

// TestRawSpacesAreOutOfReach: what the layers below keep is neither read, written, listed nor told
// of through the seal.
func TestRawSpacesAreOutOfReach(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	put(t, s, name(1), []byte("one"))
	slot := keystore.MakeName(keystore.SpaceSlot, "token")
	put(t, below, slot, []byte("slot"))
	for _, n := range []keystore.Name{bucketNames(rows(t, below))[0], slot, anchorName, nameKeyName} {
		_, viewed := get(s, false, n)
		_, got := get(s, true, n)
		_, written := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(n, nil) })
		_, deleted := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Delete(n) })
		for _, err := range []error{viewed, got, written, deleted} {
			if !errors.Is(err, keystore.ErrName) {
				t.Errorf("%s: got error %v, want ErrName", n, err)
			}
		}
	}
	if all := rows(t, s); len(all) != 1 || string(all[name(1)]) != "one" {
		t.Errorf("a Scan of everything has %q", all)
	}
	err := s.Watch(t.Context(), 0, func(_ keystore.Revision, changes []keystore.Change) error {
		if len(changes) == 0 {
			return errLocked // the end of the past
		}
		if len(changes) != 1 || changes[0].Name != name(1) {
			t.Errorf("told of %v", changes)
		}
		return nil
	})
	if err != errLocked {
		t.Errorf("Watch: %v", err)
	}
}

// TestUpdateBoth: sealed and raw rows come together or not at all, and neither side reaches what is
// the other's or this package's own.
func TestUpdateBoth(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	slot := keystore.MakeName(keystore.SpaceSlot, "token")
	failure := errors.New("on purpose")
	for _, want := range []error{failure, nil} {
		_, err := s.UpdateBoth(t.Context(), func(sealed, raw keystore.Tx) error {
			return errors.Join(sealed.Put(name(1), []byte("one")), raw.Put(slot, []byte("slot")), want)
		})
		_, kept := get(s, false, name(1))
		_, keptRaw := get(below, false, slot)
		if !errors.Is(err, want) || errors.Is(kept, keystore.ErrNotFound) != (want != nil) || errors.Is(keptRaw, keystore.ErrNotFound) != (want != nil) {
			t.Errorf("got error %v, want %v; then reads: %v, %v", err, want, kept, keptRaw)
		}
	}
	generation := s.State().Generation
	_, err := s.UpdateBoth(t.Context(), func(sealed, raw keystore.Tx) error {
		value, err := raw.Get(slot)
		if string(value) != "slot" {
			t.Errorf("raw row is %q", value)
		}
		_, missing := raw.Get(keystore.MakeName(keystore.SpaceSlot, "no"))
		if !errors.Is(missing, keystore.ErrNotFound) {
			t.Errorf("a raw row that is not there: %v", missing)
		}
		return errors.Join(err, raw.Delete(slot))
	})
	if err != nil || s.State().Generation != generation {
		t.Errorf("raw rows alone: %v; the generation went from %d to %d", err, generation, s.State().Generation)
	}
	for _, n := range []keystore.Name{name(1), anchorName, nameKeyName, bucketNames(rows(t, below))[0], {}} {
		for what, use := range map[string]func(keystore.Tx) error{
			"Get":    func(raw keystore.Tx) error { _, err := raw.Get(n); return err },
			"Put":    func(raw keystore.Tx) error { return raw.Put(n, nil) },
			"Delete": func(raw keystore.Tx) error { return raw.Delete(n) },
		} {
			_, err := s.UpdateBoth(t.Context(), func(_, raw keystore.Tx) error { use(raw); return nil })
			if !errors.Is(err, keystore.ErrName) {
				t.Errorf("%s of %s: got error %v, want ErrName, also when it was hidden", what, n, err)
			}
		}
	}
	var kept keystore.Tx
	s.UpdateBoth(t.Context(), func(_, raw keystore.Tx) error { kept = raw; return nil })
	if err := kept.Put(slot, nil); !errors.Is(err, keystore.ErrClosed) {
		t.Errorf("a Tx that was kept: %v, want ErrClosed", err)
	}
}

// TestLargestTransaction: all rows that a caller may touch fit in below, with all that this package
// adds, read and written.
func TestLargestTransaction(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	for round := range 3 {
		_, err := s.UpdateBoth(t.Context(), func(sealed, raw keystore.Tx) (err error) {
			for i := range keystore.MaxRows {
				_, missing := sealed.Get(name(i))
				if (missing != nil) != (round == 0) {
					err = missing
				}
				err = errors.Join(err, sealed.Put(name(i), make([]byte, 20<<10)))
			}
			for i := range 30 {
				err = errors.Join(err, raw.Put(keystore.MakeName(keystore.SpaceSlot, fmt.Sprint(i)), []byte("slot")))
			}
			return err
		})
		if err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name(1), make([]byte, keystore.MaxValue+1)) })
	if !errors.Is(err, keystore.ErrTooLarge) {
		t.Errorf("one byte too long: %v", err)
	}
}

// TestOpenedValuesAreBounded: locked memory is for all.
func TestOpenedValuesAreBounded(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	large := make([]byte, keystore.MaxValue)
	for i := range 200 {
		value := []byte("small")
		if i < 10 {
			value = large
		}
		put(t, s, name(i), value)
	}
	hold := func(from, n int) error {
		return s.View(t.Context(), func(r keystore.Reader) error {
			for i := range 2 * n { // twice each, which counts once
				if _, err := r.Get(name(from + i%n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, c := range []struct {
		from, n int
		want    error
	}{{10, 128, nil}, {10, 129, keystore.ErrTooManyRows}, {0, 7, nil}, {0, 9, keystore.ErrTooLarge}} {
		if err := hold(c.from, c.n); !errors.Is(err, c.want) {
			t.Errorf("%d values from %d on: %v, want %v", c.n, c.from, err, c.want)
		}
	}
	if got := len(rows(t, s)); got != 200 {
		t.Errorf("a Scan, which holds one value at a time, has %d rows", got)
	}
}

// TestNothingStaysOpen opens far more than locked memory can hold, in every way a transaction can
// end.
func TestNothingStaysOpen(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	put(t, s, name(1), make([]byte, keystore.MaxValue))
	put(t, s, name(3), make([]byte, keystore.MaxValue-100))
	bad := rows(t, below)[name(3)]
	bad[1000] ^= 1
	put(t, below, name(3), bad)
	failure := errors.New("on purpose")
	for i := range 600 {
		var err error
		switch i % 5 {
		case 0:
			_, err = get(s, false, name(1))
		case 1:
			_, err = s.Update(t.Context(), func(tx keystore.Tx) error {
				_, err := tx.Get(name(1))
				return errors.Join(err, tx.Delete(name(2)), failure)
			})
		case 2:
			err = s.View(t.Context(), func(r keystore.Reader) error {
				for _, err := range r.Scan(name(1), name(2)) {
					return err
				}
				return failure
			})
		case 3:
			err = fmt.Errorf("%v, %w", panicked(s), failure)
		case 4:
			if _, err = get(s, false, name(3)); errors.Is(err, sealed.ErrSealBroken) {
				err = failure
			}
		}
		if err != nil && !errors.Is(err, failure) {
			t.Fatalf("transaction %d: %v", i, err)
		}
	}
}

// panicked panics in a View that holds a value.
func panicked(s keystore.Store) (value any) {
	defer func() { value = recover() }()
	return s.View(context.Background(), func(r keystore.Reader) error {
		_, err := r.Get(name(1))
		panic(err)
	})
}
