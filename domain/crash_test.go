package domain_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/keystore"
)

// liveToken knows which keys it has.
type liveToken struct {
	hsm.Provider
	mu   sync.Mutex
	live map[string]bool // by blob
}

func (t *liveToken) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	k, blob, err := t.Provider.Generate(ctx, spec)
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.live[string(blob)] = true
	}
	return k, blob, err
}

func (t *liveToken) Destroy(ctx context.Context, blob []byte) error {
	err := t.Provider.Destroy(ctx, blob)
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.live, string(blob))
	}
	return err
}

func (t *liveToken) blobs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.live))
}

var errCrash = errors.New("the machine stopped")

// crasher stops a machine at one of its calls of store and token: before the call has an effect, or after it had one. From then on
// nothing goes through.
type crasher struct {
	only  string // kind of the calls that count; all, when empty
	at    int    // which of them, from 1
	after bool
	once  bool // only this call fails

	mu   sync.Mutex
	n    int
	ran  []string // kinds of the calls before
	last string   // kind of the call at which it stopped; empty while it runs
}

func (c *crasher) call(kind string, f func() error) error {
	c.mu.Lock()
	if c.last != "" && !c.once {
		c.mu.Unlock()
		return errCrash
	}
	stop := false
	if c.only == "" || c.only == kind {
		c.n++
		stop = c.n == c.at
	}
	if stop {
		c.last = kind
	} else if c.last == "" {
		c.ran = append(c.ran, kind)
	}
	c.mu.Unlock()
	if !stop {
		return f()
	}
	if c.after {
		return errors.Join(errCrash, f())
	}
	return errCrash
}

// crashStore is a store under a crasher.
type crashStore struct {
	keystore.Store
	c *crasher
}

func (s crashStore) View(ctx context.Context, f func(keystore.Reader) error) error {
	return s.c.call("View", func() error { return s.Store.View(ctx, f) })
}

func (s crashStore) Update(ctx context.Context, f func(keystore.Tx) error) (r keystore.Revision, err error) {
	err = s.c.call("Update", func() (err error) {
		r, err = s.Store.Update(ctx, f)
		return err
	})
	return r, err
}

// crashToken is a token under a crasher.
type crashToken struct {
	hsm.Provider
	c *crasher
}

func (t crashToken) Generate(ctx context.Context, spec hsm.Spec) (k hsm.Key, blob []byte, err error) {
	err = t.c.call("Generate", func() (err error) {
		k, blob, err = t.Provider.Generate(ctx, spec)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return crashRoot{k, k.(hsm.PRF), t.c}, blob, nil
}

func (t crashToken) Load(ctx context.Context, blob []byte) (k hsm.Key, err error) {
	err = t.c.call("Load", func() (err error) {
		k, err = t.Provider.Load(ctx, blob)
		return err
	})
	if err != nil {
		return nil, err
	}
	return crashRoot{k, k.(hsm.PRF), t.c}, nil
}

func (t crashToken) Destroy(ctx context.Context, blob []byte) error {
	return t.c.call("Destroy", func() error { return t.Provider.Destroy(ctx, blob) })
}

type crashRoot struct {
	hsm.Key
	prf hsm.PRF
	c   *crasher
}

func (k crashRoot) PRF(ctx context.Context, dst, input []byte) (out []byte, err error) {
	err = k.c.call("PRF", func() (err error) {
		out, err = k.prf.PRF(ctx, dst, input)
		return err
	})
	return out, err
}

// crashing returns r as it runs on a machine that c stops.
func (r *rack) crashing(t *testing.T, c *crasher) *rack {
	t.Helper()
	at := c.at
	c.at = 0 // not while it starts
	var token hsm.Provider = crashToken{r.token, c}
	if planner, ok := r.token.(hsm.Planner); ok {
		token = crashPlanner{crashToken{r.token, c}, planner}
	}
	r = unlockRack(t, crashStore{r.store, c}, token)
	c.at, c.n, c.ran = at, 0, nil
	return r
}

// A machine that stops at any call of store or token comes up again with all its records, and brings the rotation to an end or back to
// where it began. Whatever way, the token keeps no root but the one in use.
func TestCrashesOfARotation(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		calls := map[string]int{}
		for at := 1; ; at++ {
			r := newRack(t)
			c := &crasher{at: at, after: after}
			if crashOnce(t, r, c, (*rack).rotateAndFinish) == nil {
				break // more calls than there are
			}
			calls[c.last]++
			t.Run(fmt.Sprintf("call %d, %s, after its effect %t", at, c.last, after), func(t *testing.T) { r.recover(t, c) })
		}
		for kind, least := range map[string]int{"Update": 7, "View": 3, "Generate": 1, "Load": 3, "PRF": 3, "Destroy": 1} {
			if calls[kind] < least {
				t.Errorf("stopped at %d calls of %s, want %d: %v", calls[kind], kind, least, calls)
			}
		}
	}
}

func (r *rack) rotateAndFinish(ctx context.Context) error {
	if err := r.Rotate(ctx, r.records); err != nil {
		return err
	}
	return r.Continue(ctx, r.records)
}

// crashOnce runs f on a machine that c stops and returns its error, which is nil when c did not come to it.
func crashOnce(t *testing.T, r *rack, c *crasher, f func(*rack, context.Context) error) error {
	t.Helper()
	err := f(r.crashing(t, c), t.Context())
	if (err == nil) != (c.last == "") || err != nil && !errors.Is(err, errCrash) {
		t.Fatalf("stopped at %q, returned %v", c.last, err)
	}
	return err
}

// recover starts a machine that c has stopped and checks that it is whole.
func (r *rack) recover(t *testing.T, c *crasher) {
	want := deriveAt(t, r.Keyring, 1) // r itself has not seen the rotation
	again := r.reopen(t)
	again.readAll(t)
	if versions := again.Versions(); versions[0] == 1 && deriveAt(t, again.Keyring, 1) != want {
		t.Error("version 1 is another")
	}
	again.finish(t)
	if len(again.Versions()) != 1 || again.Rotating() {
		t.Errorf("not finished: versions %v", again.Versions())
	}
	again.readAll(t)
	if rows := rawRows(t, r.store); len(rows) != 2 {
		t.Errorf("%d rows are left", len(rows))
	}
	used, _ := blobs(t, r.store)
	live := r.token.(*liveToken).blobs()
	orphaned := len(live) == 2 && (c.last == "Generate" && c.after || c.ran[len(c.ran)-1] == "Generate" && !c.after) // FORMAT.md
	if !slices.Contains(live, used[0]) || len(live) > 1 && !orphaned {
		t.Errorf("the token has %d roots", len(live))
	}
	if err := again.rotateAndFinish(t.Context()); err != nil {
		t.Errorf("the next rotation: %v", err)
	}
	r.reopen(t).readAll(t)
}

// The same with a second crash while the first one is recovered from.
func TestCrashesOfARecovery(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		r := newRack(t)
		if crashOnce(t, r, &crasher{at: at, after: true}, (*rack).rotateAndFinish) == nil {
			break
		}
		if !r.reopen(t).Rotating() {
			continue
		}
		for again, more := 1, true; more; again++ {
			more = crashOnce(t, r, &crasher{at: again}, (*rack).resume) != nil
		}
		if again := r.reopen(t); again.Rotating() || len(r.token.(*liveToken).blobs()) > 1 {
			t.Errorf("first crash at call %d: not recovered", at)
		} else {
			again.readAll(t)
		}
	}
}

// A commit that a process reads after a crash may not have reached the disk yet. Before a root is ended, the process commits something of
// its own, which carries the earlier one with it, and then opens what the store holds.
func TestACommitComesBeforeTheEndOfARoot(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	first := &crasher{only: "Update", at: 2, after: true} // the rotation itself
	if crashOnce(t, r, first, (*rack).rotateAndFinish) == nil {
		t.Fatal("no crash")
	}
	second := &crasher{only: "Destroy", at: 1}
	if crashOnce(t, r, second, (*rack).resume) == nil {
		t.Fatal("no root was ended")
	}
	commit := slices.Index(second.ran, "Update")
	if commit < 0 || !slices.Contains(second.ran[commit:], "Load") {
		t.Errorf("before a root was ended: %v", second.ran)
	}
}

func (r *rack) resume(ctx context.Context) error { return r.Continue(ctx, r.records) }

// A commit that the store reports as failed though it is there: nothing that a slot needs is destroyed.
func TestCommitsInDoubt(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		r := newRack(t)
		doubt := &doubtful{Store: r.store, at: at}
		k := open(t, doubt, r.token)
		if err := k.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		records := openRecords(t, doubt, k)
		err := k.Rotate(t.Context(), records)
		if doubt.n < at {
			break
		}
		if err == nil {
			t.Errorf("commit %d: no error", at)
		}
		again := r.reopen(t)
		again.finish(t)
		again.readAll(t)
		if live := r.token.(*liveToken).blobs(); len(live) != 1 {
			t.Errorf("commit %d: %d roots in the token", at, len(live))
		}
	}
}

// doubtful is a store that loses the answer of one commit.
type doubtful struct {
	keystore.Store
	n, at int
}

func (s *doubtful) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	r, err := s.Store.Update(ctx, f)
	s.n++
	if s.n == s.at && err == nil {
		return 0, errCrash
	}
	return r, err
}

// What fails without a crash is taken back at once: no root stays, and the next attempt goes through.
func TestFailuresAreTakenBack(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		kind string
		at   int
	}{{"Generate", 1}, {"Update", 1}, {"PRF", 1}, {"Load", 2}, {"PRF", 2}, {"Update", 2}} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			t.Parallel()
			r := newRack(t)
			c := &crasher{only: fault.kind, at: fault.at}
			faulty := r.crashing(t, c)
			c.once = true
			if err := faulty.Rotate(t.Context(), faulty.records); !errors.Is(err, errCrash) {
				t.Fatalf("Rotate returned %v", err)
			}
			if live := r.token.(*liveToken).blobs(); len(live) != 1 || faulty.Rotating() || len(rawRows(t, r.store)) != 2 {
				t.Errorf("%d roots, rotating %t, %d rows", len(live), faulty.Rotating(), len(rawRows(t, r.store)))
			}
			if err := faulty.rotateAndFinish(t.Context()); err != nil {
				t.Errorf("the next attempt: %v", err)
			}
			r.reopen(t).readAll(t)
		})
	}
}
