package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// versions is a row that stands for the keyring's: which versions of the domain key there are.
var versions = keystore.MakeName(keystore.SpaceSlotTable)

// keysOf are the domain keys of all versions.
var keysOf = domainKeys{1: theKeys[1], 2: count(0x20, 32), 3: count(0x40, 32), 4: count(0x60, 32)}

// only derives from one version.
func (k domainKeys) only(version uint32) func([]byte, seal.Label, []byte) error {
	return func(out []byte, label seal.Label, context []byte) error {
		seal.KDF(out, keysOf[version], label, context)
		return nil
	}
}

func cancelled(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, cancel
}

// held returns the keys that the row of versions names.
func held(t testing.TB, below keystore.Store) domainKeys {
	t.Helper()
	row, err := get(below, false, versions)
	if errors.Is(err, keystore.ErrNotFound) {
		row, err = []byte{1}, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	keys := make(domainKeys)
	for _, v := range row {
		keys[uint32(v)] = keysOf[uint32(v)]
	}
	return keys
}

// rekey begins a rotation as a keyring does.
func rekey(s *sealed.Store, from, to byte) error {
	return s.Rekey(context.Background(), uint32(to), keysOf.only(uint32(to)), func(sealed, raw keystore.Tx) error {
		return errors.Join(raw.Put(versions, []byte{from, to}), sealed.Put(name(8000), []byte{to}))
	})
}

// finish ends it.
func finish(s *sealed.Store, to byte) error {
	for {
		left, err := s.Rewrap(context.Background())
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	return s.Retire(context.Background(), func(sealed, raw keystore.Tx) error {
		return errors.Join(raw.Put(versions, []byte{to}), sealed.Put(name(8001), []byte{to}))
	})
}

// wantWell expects a store of which Check finds nothing wrong, with these rows.
func wantWell(t *testing.T, s *sealed.Store, want map[keystore.Name]string) {
	t.Helper()
	report, err := s.Check(t.Context(), nil)
	if err != nil || len(report.Problems) != 0 || report.Rows != len(want) {
		t.Errorf("Check: %+v, %v; want %d rows", report, err, len(want))
	}
	got := rows(t, s)
	if !maps.EqualFunc(got, want, func(a []byte, b string) bool { return string(a) == b }) {
		t.Errorf("the store has %d rows %q, want %d: %q", len(got), got, len(want), want)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	want := make(map[keystore.Name]string)
	for i := range 150 {
		want[name(i)] = fmt.Sprint(i)
		put(t, s, name(i), []byte(want[name(i)]))
	}
	records := rows(t, below)
	for to := byte(2); to <= 4; to++ {
		if err := rekey(s, to-1, to); err != nil {
			t.Fatal(err)
		}
		before := s.State()
		if before.Left < 145 || !slices.Equal(before.Versions, []uint32{uint32(to) - 1, uint32(to)}) {
			t.Errorf("after Rekey: %+v", before)
		}
		old := s.OldKey()
		left, err := s.Rewrap(t.Context())
		if err != nil || left != before.Left-32 || left != s.State().Left {
			t.Errorf("Rewrap left %d, %v; state %+v, before it %+v", left, err, s.State(), before)
		}
		if err := finish(s, to); err != nil {
			t.Fatal(err)
		}
		if after := s.State(); after.Left != 0 || !slices.Equal(after.Versions, []uint32{uint32(to)}) || old() != nil {
			t.Errorf("after Retire: %+v, the old key is %v", after, old())
		}
		want[name(8000)], want[name(8001)] = string(rune(to)), string(rune(to))
		wantWell(t, s, want)
		wantWell(t, open(t, lent{below}, held(t, below)), want)
		for _, keys := range []domainKeys{{uint32(to) - 1: keysOf[uint32(to)-1]}, {uint32(to) - 1: keysOf[uint32(to)]}} {
			_, err := sealed.Open(t.Context(), below, keys, theAppliance, theNode)
			wantBroken(t, "Open with the keys from before", err, "name-key")
		}
	}
	for i := range 150 {
		if n := name(i); !bytes.Equal(rows(t, below)[n], records[n]) {
			t.Fatalf("the record of %s was sealed anew", n)
		}
	}
}

// TestRotationSteps: each step is refused when it is not the next one, and then nothing has changed.
func TestRotationSteps(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	put(t, s, name(1), []byte("one"))
	failure := errors.New("on purpose")
	none := func(_, _ keystore.Tx) error { return nil }
	fails := func(sealed, raw keystore.Tx) error {
		return errors.Join(sealed.Put(name(1), []byte("half")), raw.Put(versions, []byte("half")), failure)
	}
	derives := keysOf.only(2)
	refuse := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: got error %v, want %v", what, err, want)
		}
	}
	step := func(f func()) {
		t.Helper()
		before, state := rows(t, below), s.State()
		f()
		if !maps.EqualFunc(before, rows(t, below), bytes.Equal) || fmt.Sprint(state) != fmt.Sprint(s.State()) {
			t.Errorf("a step that was refused has changed something: %+v", s.State())
		}
		wantKnown(t, s)
	}
	step(func() {
		refuse("Retire without a rotation", s.Retire(t.Context(), none), sealed.ErrRotation)
		left, err := s.Rewrap(t.Context())
		if left != 0 {
			t.Errorf("%d bucket rows are left without a rotation", left)
		}
		refuse("Rewrap without a rotation", err, nil)
		refuse("Rekey to the same version", s.Rekey(t.Context(), 1, derives, none), sealed.ErrRotation)
		refuse("Rekey to an earlier version", s.Rekey(t.Context(), 0, derives, none), sealed.ErrRotation)
		refuse("Rekey with rows that fail", s.Rekey(t.Context(), 2, derives, fails), failure)
		refuse("Rekey with a hidden error", s.Rekey(t.Context(), 2, derives, func(_, raw keystore.Tx) error { raw.Put(anchorName, nil); return nil }), keystore.ErrName)
		refuse("Rekey of a locked keyring", s.Rekey(t.Context(), 2, func([]byte, seal.Label, []byte) error { return errLocked }, none), errLocked)
	})
	refuse("Rekey", s.Rekey(t.Context(), 2, derives, none), nil)
	step(func() {
		refuse("Rekey in a rotation", s.Rekey(t.Context(), 3, derives, none), sealed.ErrRotation)
		refuse("Retire with rows left", s.Retire(t.Context(), none), sealed.ErrRotation)
	})
	if left, err := s.Rewrap(t.Context()); left != 0 || err != nil {
		t.Errorf("Rewrap of one row: %d, %v", left, err)
	}
	step(func() { refuse("Retire with rows that fail", s.Retire(t.Context(), fails), failure) })
	refuse("Retire", s.Retire(t.Context(), none), nil)
	if got, err := get(s, false, name(1)); string(got) != "one" || err != nil {
		t.Errorf("in the end: %q, %v", got, err)
	}
}

// TestRotationMeetsDamage: a bucket row that is broken keeps a rotation from its end, and the others
// from nothing. Neither Rekey nor Retire leaves a name key that the next start could not open.
func TestRotationMeetsDamage(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	for i := range 100 {
		put(t, s, name(i), []byte("v"))
	}
	nameKey := rows(t, below)[nameKeyName]
	put(t, below, nameKeyName, append([]byte{2}, nameKey[1:60]...))
	wantBroken(t, "Rekey over a broken name key", rekey(s, 1, 2), "name-key")
	place := seal.Place{Appliance: theAppliance, Number: 1}
	other, err := seal.SealRecord(nil, kdf(theKeys[1], "w1", theAppliance[:]), place, nameKeyName.Append(nil), count(0, 32))
	if err != nil {
		t.Fatal(err)
	}
	put(t, below, nameKeyName, other)
	wantBroken(t, "Rekey over another name key", rekey(s, 1, 2), "name-key: is another key")
	put(t, below, nameKeyName, nameKey)
	if err := rekey(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	all := rows(t, below)
	names := slices.DeleteFunc(bucketNames(all), func(n keystore.Name) bool { return all[n][4] != 1 })
	bad := names[:40] // more than one Rewrap meets
	for _, n := range bad {
		put(t, below, n, append(bytes.Clone(all[n][:172]), all[n][172]^1))
	}
	for calls, left := 0, 0; err == nil || left > len(bad) && calls < 100; calls++ {
		left, err = s.Rewrap(t.Context())
	}
	wantBroken(t, "Rewrap of what is left", err, "bucket/")
	for range 10 {
		s.Rewrap(t.Context())
	}
	if left := s.State().Left; left != len(bad) {
		t.Errorf("%d rows are left, want the %d that are broken", left, len(bad))
	}
	for _, n := range bad {
		put(t, below, n, all[n])
	}
	good := rows(t, below)[nameKeyName]
	put(t, below, nameKeyName, nameKey)
	err = finish(s, 2)
	wantBroken(t, "Retire over the older name key", err, "name-key")
	put(t, below, nameKeyName, good)
	if err := finish(s, 2); err != nil {
		t.Error(err)
	}
	put(t, below, names[50], all[names[50]])
	for i := range 100 {
		if _, bucket := bucketOf(name(i)); bucket == names[50] {
			_, err := get(s, false, name(i))
			wantBroken(t, "a row of the retired version", err, "version 1 of the domain key")
		}
	}
}

// TestRotationAfterACrash stops the disk at every commit of a rotation, with and without having made
// it, and goes on with what is there.
func TestRotationAfterACrash(t *testing.T) {
	t.Parallel()
	for last := 1; ; last++ {
		finished := false
		for _, made := range []bool{false, true} {
			d := newDisk()
			s := create(t, d.store(t))
			want := make(map[keystore.Name]string)
			for i := range 40 {
				put(t, s, name(i), []byte("v"))
				want[name(i)] = "v"
			}
			stop := d.commits + last
			d.commit = func(i int) (bool, error) {
				if i < stop {
					return true, nil
				}
				return made && i == stop, errDisk
			}
			_, err := rekey(s, 1, 2), error(nil)
			if err = finish(s, 2); err == nil {
				finished = true
			} else if !errors.Is(err, errDisk) && !errors.Is(err, sealed.ErrRotation) {
				t.Fatalf("commit %d: %v", last, err)
			}
			d.commit = func(int) (bool, error) { return true, nil }
			resume(t, d, want, fmt.Sprintf("stopped at commit %d, made: %v", last, made))
		}
		if finished {
			if last < 4 {
				t.Errorf("a rotation of 40 buckets has %d commits", last-1)
			}
			return
		}
	}
}

// resume opens what a crash has left and brings the rotation to its end.
func resume(t *testing.T, d *disk, want map[keystore.Name]string, what string) {
	t.Helper()
	below := d.store(t)
	s := open(t, below, held(t, below))
	if len(s.State().Versions) == 1 && s.State().Versions[0] == 1 {
		if err := rekey(s, 1, 2); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(s.State().Versions) == 2 {
		if err := finish(s, 2); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want[name(8000)], want[name(8001)] = "\x02", "\x02"
	wantWell(t, s, want)
	again := d.store(t)
	wantWell(t, open(t, again, held(t, again)), want)
}

// TestRotationUnderLoad: readers and writers do not notice it.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	const rows, writers = 200, 8
	for i := range rows {
		put(t, s, name(i), []byte("0"))
	}
	stop := make(chan struct{})
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := w; ; i += writers {
				n := name(i % rows)
				if w%2 == 0 {
					put(t, s, n, fmt.Append(nil, i))
					remove(t, s, name(9000+w))
					put(t, s, name(9000+w), nil)
				}
				if _, err := get(s, w%3 == 0, n); err != nil {
					t.Errorf("reader %d: %v", w, err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for to := byte(2); to <= 4; to++ {
		if err := errors.Join(rekey(s, to-1, to), finish(s, to)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	done.Wait()
	wantKnown(t, s)
	if report, err := s.Check(t.Context(), nil); err != nil || len(report.Problems) > 0 || report.Rows != rows+2+writers/2 {
		t.Errorf("Check: %+v, %v", report, err)
	}
	open(t, lent{below}, held(t, below))
}

// TestViewAcrossARotation: a View that began before reads what it began with, and until it has ended
// the keys for that are there.
func TestViewAcrossARotation(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	for i := range 50 {
		put(t, s, name(i), []byte("v"))
	}
	if err := rekey(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	old := s.OldKey()
	err := s.View(t.Context(), func(r keystore.Reader) error {
		if err := finish(s, 2); err != nil {
			return err
		}
		if old() == nil {
			t.Error("the old key is wiped while a View needs it")
		}
		for i := range 50 {
			if _, err := r.Get(name(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || old() != nil {
		t.Errorf("View: %v; then the old key is %v", err, old())
	}
}

// TestCloseWipes: what is left of a closed store holds no key.
func TestCloseWipes(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	if err := rekey(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	old := s.OldKey()
	for range 2 {
		if err := s.Close(); err != nil || old() != nil || s.HoldsKeys() {
			t.Errorf("Close: %v; the older key is %v, others: %v", err, old(), s.HoldsKeys())
		}
	}
	if err := rekey(s, 2, 3); !errors.Is(err, keystore.ErrClosed) {
		t.Errorf("Rekey of a closed store: %v", err)
	}
	if state := s.State(); state.Generation != 2 || s.HoldsKeys() {
		t.Errorf("a closed store is in state %+v; holds keys: %v", state, s.HoldsKeys())
	}
}
