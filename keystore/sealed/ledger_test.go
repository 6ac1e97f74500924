package sealed_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// wantKnown expects that the ledger holds one version and waits for no View.
func wantKnown(t *testing.T, s *sealed.Store) {
	t.Helper()
	if versions, floors := s.Known(); versions != 1 || floors != 0 {
		t.Errorf("%d versions are known and %d floors are held, want 1 and 0", versions, floors)
	}
}

// add adds one to a row that holds a number.
func add(tx keystore.Tx, n keystore.Name) error {
	value, err := tx.Get(n)
	if errors.Is(err, keystore.ErrNotFound) {
		value, err = make([]byte, 8), nil
	}
	if err != nil {
		return err
	}
	return tx.Put(n, binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(value)+1))
}

// TestRefusedCommits has writers and readers on a disk that refuses every third commit. What is
// built on a batch that was refused is built again; nobody meets a state root that he does not know;
// and nothing is remembered of all that came to nothing.
func TestRefusedCommits(t *testing.T) {
	t.Parallel()
	const writers, times = 64, 12
	d := newDisk()
	s := create(t, d.store(t))
	d.commit = func(i int) (bool, error) {
		if i%3 == 0 {
			return false, errDisk
		}
		return true, nil
	}
	var sum atomic.Uint64
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for range times {
				_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
					return errors.Join(add(tx, name(0)), add(tx, name(1+w)), tx.Delete(name(1000+w)))
				})
				switch {
				case err == nil:
					sum.Add(1)
				case !errors.Is(err, errDisk):
					t.Errorf("writer %d: %v", w, err)
				}
				if _, err := get(s, w%2 == 0, name(0)); err != nil && !errors.Is(err, keystore.ErrNotFound) && !errors.Is(err, errDisk) {
					t.Errorf("reader %d: %v", w, err)
				}
			}
		})
	}
	done.Wait()
	wantKnown(t, s)
	d.commit = func(int) (bool, error) { return true, nil }
	for _, store := range []keystore.Store{s, open(t, d.store(t), theKeys)} {
		value, err := get(store, false, name(0))
		if err != nil || binary.BigEndian.Uint64(value) != sum.Load() || sum.Load() == 0 || sum.Load() == writers*times {
			t.Errorf("counted %x, %v; %d of %d transactions committed", value, err, sum.Load(), writers*times)
		}
	}
}

// TestNothingOfFailuresIsKept: on a disk that has failed for good, and for functions that fail.
func TestNothingOfFailuresIsKept(t *testing.T) {
	t.Parallel()
	d := newDisk()
	s := create(t, d.store(t))
	put(t, s, name(1), []byte("one"))
	state := s.State()
	d.commit = func(int) (bool, error) { return false, errDisk }
	for i := range 300 {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name(i), []byte("v")) })
		if !errors.Is(err, errDisk) {
			t.Fatalf("Update %d: %v", i, err)
		}
		put := s.Rekey(t.Context(), 2, theKeys.only(1), func(sealed, _ keystore.Tx) error { return sealed.Put(name(2), nil) })
		if !errors.Is(put, errDisk) {
			t.Fatalf("Rekey %d: %v", i, put)
		}
		func() {
			defer func() { recover() }()
			s.Update(t.Context(), func(tx keystore.Tx) error { panic(tx.Put(name(i), nil)) })
		}()
	}
	wantKnown(t, s)
	if now := s.State(); fmt.Sprint(now) != fmt.Sprint(state) {
		t.Errorf("the state went from %+v to %+v", state, now)
	}
	if got, err := get(s, false, name(1)); string(got) != "one" || err != nil {
		t.Errorf("then reads: %q, %v", got, err)
	}
}

// TestViewThatIsOvertaken: a View may begin long before it has its snapshot, or look at its snapshot
// long after. It reads the state of its snapshot, and what is kept for it is given up.
func TestViewThatIsOvertaken(t *testing.T) {
	t.Parallel()
	const updates = 50
	for what, c := range map[string]struct {
		want string
		hold func(d *disk, wait func())
	}{
		"before its snapshot": {"new", func(d *disk, wait func()) { d.snapshot = wait }},
		"behind its snapshot": {"old", func(d *disk, wait func()) {
			d.read = func(n keystore.Name) {
				if n == anchorName {
					wait()
				}
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := newDisk()
			s := create(t, d.store(t))
			put(t, s, name(1), []byte("old"))
			hook, waiting, release := once()
			c.hold(d, hook)
			var done sync.WaitGroup
			done.Go(func() {
				if got, err := get(s, false, name(1)); string(got) != c.want || err != nil {
					t.Errorf("the View read %q, %v, want %q", got, err, c.want)
				}
			})
			<-waiting
			for range updates {
				put(t, s, name(1), []byte("new"))
			}
			if versions, floors := s.Known(); versions != updates+1 || floors != 1 {
				t.Errorf("%d versions and %d floors while a View looks for one of %d", versions, floors, updates+1)
			}
			release()
			done.Wait()
			wantKnown(t, s)
		})
	}
}

// TestOlderStateThatIsStillKnown: that one View may still read an older state is no reason for
// another one, which began later, to believe it.
func TestOlderStateThatIsStillKnown(t *testing.T) {
	t.Parallel()
	d := newDisk()
	s := create(t, d.store(t))
	put(t, s, name(1), []byte("old"))
	older := d.state
	hook, waiting, release := once()
	d.snapshot = hook
	var done sync.WaitGroup
	done.Go(func() { get(s, false, name(1)) })
	<-waiting
	for range 3 {
		put(t, s, name(1), []byte("new"))
	}
	d.mu.Lock()
	d.state = older
	d.mu.Unlock()
	for _, update := range []bool{false, true} {
		value, err := get(s, update, name(1))
		wantBroken(t, string(value), err, tooOld)
	}
	release()
	done.Wait()
}

// TestNothingOfEarlierRunsIsKept: an Update that ran again, and then failed, leaves nothing of either
// run.
func TestNothingOfEarlierRunsIsKept(t *testing.T) {
	t.Parallel()
	d := newDisk()
	s := create(t, d.store(t))
	hook, waiting, release := once()
	d.commit = func(int) (bool, error) { hook(); return false, errDisk }
	var done sync.WaitGroup
	fails := func(what string, f func(keystore.Tx) error) {
		done.Go(func() {
			if _, err := s.Update(t.Context(), f); !errors.Is(err, errDisk) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	fails("the one that is refused", func(tx keystore.Tx) error { return add(tx, name(1)) })
	<-waiting
	var runs atomic.Int32
	ran := make(chan struct{})
	fails("the one on top of it", func(tx keystore.Tx) error {
		if runs.Add(1) == 1 {
			defer close(ran)
		}
		return add(tx, name(1))
	})
	<-ran
	release()
	done.Wait()
	if runs.Load() < 2 {
		t.Errorf("the second Update ran %d times", runs.Load())
	}
	wantKnown(t, s)
}

// TestUpdatesReturnInAnyOrder: of two that committed, the later one may return first. What is
// acknowledged then stays so.
func TestUpdatesReturnInAnyOrder(t *testing.T) {
	t.Parallel()
	m := keystore.NewMemory()
	below := &heldStore{m, func() {}, func() {}}
	s := create(t, below)
	put(t, s, name(1), []byte("first"))
	older := rows(t, m)
	hook, waiting, release := once()
	below.after = hook
	var done sync.WaitGroup
	done.Go(func() { put(t, s, name(1), []byte("second")) })
	<-waiting
	put(t, s, name(1), []byte("third"))
	newest := rows(t, m)
	release()
	done.Wait()
	wantKnown(t, s)
	if state := s.State(); state.Generation != 4 {
		t.Errorf("the newest generation is %d, want 4", state.Generation)
	}
	if got, err := get(s, false, name(1)); string(got) != "third" || err != nil {
		t.Errorf("then reads: %q, %v", got, err)
	}
	bring(t, m, older)
	value, err := get(s, false, name(1))
	wantBroken(t, string(value), err, tooOld)
	bring(t, m, newest)
}

// TestTwins: deletions alone leave the same state root whoever makes them. One whose commit failed,
// and who returns late, takes nothing away from the other, who made it again.
func TestTwins(t *testing.T) {
	t.Parallel()
	d := newDisk()
	below := &heldStore{d.store(t), func() {}, func() {}}
	s := create(t, below)
	put(t, s, name(1), []byte("one"))
	put(t, s, name(2), []byte("two"))
	if err := rekey(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	hook, waiting, release := once()
	below.after = hook
	d.commit = func(int) (bool, error) { return false, errDisk }
	var done sync.WaitGroup
	done.Go(func() {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Delete(name(1)) })
		if !errors.Is(err, errDisk) {
			t.Errorf("the deletion that is refused: %v", err)
		}
	})
	<-waiting
	d.commit = func(int) (bool, error) { return true, nil }
	remove(t, s, name(1))
	release()
	done.Wait()
	wantKnown(t, s)
	if got, err := get(s, false, name(2)); string(got) != "two" || err != nil {
		t.Errorf("then reads: %q, %v", got, err)
	}
	old := s.OldKey()
	if err := finish(s, 2); err != nil || old() != nil {
		t.Errorf("the end of the rotation: %v; the old key is still there: %v", err, old() != nil)
	}
}

// TestViewThatEndsEarly: one that never gets a snapshot is not waited for.
func TestViewThatEndsEarly(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	ctx, cancel := cancelled(t)
	defer cancel()
	if err := s.View(ctx, func(keystore.Reader) error { return nil }); err == nil {
		t.Error("a View with an ended context has no error")
	}
	put(t, s, name(1), []byte("v"))
	wantKnown(t, s)
}

// TestGenerations: each change is one, whatever batch it is in; State says what is on the disk.
func TestGenerations(t *testing.T) {
	t.Parallel()
	d := newDisk()
	s := create(t, d.store(t))
	var done sync.WaitGroup
	for w := range 64 {
		done.Go(func() { put(t, s, name(w), []byte("v")) })
	}
	done.Wait()
	state := s.State()
	again := open(t, d.store(t), theKeys).State()
	if fmt.Sprint(state) != fmt.Sprint(again) || state.Generation != 65 || state.Rows != 64 || state.Buckets != len(bucketNames(d.state.rows)) {
		t.Errorf("state %+v, opened again %+v", state, again)
	}
	if stored := d.state.rows[anchorName]; binary.BigEndian.Uint64(stored[24:]) != 65 {
		t.Errorf("the anchor row is %x", stored)
	}
}
