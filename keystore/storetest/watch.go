package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// change is one entry of what a Watch delivered.
type change struct {
	revision keystore.Revision
	name     keystore.Name
	deleted  bool
}

// follower is a Watch in the background.
type follower struct {
	cancel   context.CancelFunc
	caughtUp chan struct{}
	ended    chan error

	mu   sync.Mutex // guards what follows
	seen []change
	last keystore.Revision // of the youngest call
}

// follow starts a Watch and returns when it has caught up.
func follow(t *testing.T, s keystore.Store, after keystore.Revision) *follower {
	t.Helper()
	f := start(s, after)
	select {
	case <-f.caughtUp:
	case err := <-f.ended:
		t.Fatalf("Watch after %d ended: %v", after, err)
	}
	return f
}

// start starts a Watch and returns at once.
func start(s keystore.Store, after keystore.Revision) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{cancel: cancel, caughtUp: make(chan struct{}), ended: make(chan error, 1), last: after}
	go func() { f.ended <- s.Watch(ctx, after, f.note) }()
	return f
}

// note is the function of the Watch.
func (f *follower) note(r keystore.Revision, changes []keystore.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r < f.last || r == f.last && len(changes) > 0 {
		return fmt.Errorf("revision %d after %d", r, f.last)
	}
	f.last = r
	if len(changes) == 0 {
		close(f.caughtUp) // a second time panics: it is told once
		return nil
	}
	if !slices.IsSortedFunc(changes, func(a, b keystore.Change) int { return a.Name.Compare(b.Name) }) {
		return fmt.Errorf("revision %d is out of order: %v", r, changes)
	}
	for _, c := range changes {
		f.seen = append(f.seen, change{r, c.Name, c.Deleted})
	}
	return nil
}

// count returns how many changes were delivered.
func (f *follower) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

// stop ends the Watch.
func (f *follower) stop(t *testing.T) {
	t.Helper()
	f.cancel()
	wantError(t, "Watch", <-f.ended, context.Canceled)
}

// expect compares what a stopped follower has seen.
func (f *follower) expect(t *testing.T, want ...change) {
	t.Helper()
	if !slices.Equal(f.seen, want) {
		t.Errorf("watched %v, want %v", f.seen, want)
	}
}

// watchRunsBeforeUpdateReturns has several watchers, and writers that look at once for their own
// change in each.
func watchRunsBeforeUpdateReturns(t *testing.T, s keystore.Store) {
	var watchers []*follower
	for range 3 {
		watchers = append(watchers, follow(t, s, 0))
	}
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			r := put(t, s, row(w), "v")
			for _, f := range watchers {
				f.mu.Lock()
				if !slices.Contains(f.seen, change{r, row(w), false}) || f.last < r {
					t.Errorf("Update of revision %d returned before a watcher ran for it", r)
				}
				f.mu.Unlock()
			}
		})
	}
	done.Wait()
	for _, f := range watchers {
		f.stop(t)
		f.expect(t, watchers[0].seen...)
	}
	if len(watchers[0].seen) != writers {
		t.Errorf("%d changes, want %d", len(watchers[0].seen), writers)
	}
}

// watchBeginsAfter watches a past that is known from every revision in it.
func watchBeginsAfter(t *testing.T, s keystore.Store) {
	var all []change
	for i := range 6 {
		all = append(all, change{put(t, s, row(i%4), "v"), row(i % 4), false})
	}
	gone := update(t, s, func(tx keystore.Tx) error { return errors.Join(tx.Delete(row(1)), tx.Delete(row(2))) })
	all = append(all, change{gone, row(1), true}, change{gone, row(2), true})
	for i := range len(all) {
		after := keystore.Revision(0)
		if i > 0 {
			after = all[i-1].revision
		}
		if i > 0 && all[i].revision == after {
			continue
		}
		f := follow(t, s, after)
		f.stop(t)
		f.expect(t, all[i:]...)
	}
	f := follow(t, s, gone)
	f.stop(t)
	f.expect(t)
	if f.last != gone {
		t.Errorf("caught up with revision %d, want %d", f.last, gone)
	}
}

// watchMissesNothing starts Watches in the middle of a storm, each after a revision that was just
// read, and compares them with one that was there from the start.
func watchMissesNothing(t *testing.T, s keystore.Store) {
	whole := follow(t, s, 0)
	var storm, starts sync.WaitGroup
	late := make([]*follower, 8)
	after := make([]keystore.Revision, len(late))
	for i := range late {
		storm.Go(func() {
			for j := range 20 {
				put(t, s, row(100*i+j), "v")
			}
		})
		starts.Go(func() {
			for whole.count() < 10*i && whole.count() < 100 {
				put(t, s, row(0), "meanwhile")
			}
			view(t, s, func(r keystore.Reader) error { after[i] = r.Revision(); return nil })
			late[i] = follow(t, s, after[i])
		})
	}
	storm.Wait()
	starts.Wait()
	put(t, s, row(1), "the last")
	whole.stop(t)
	for i, f := range late {
		f.stop(t)
		rest := slices.IndexFunc(whole.seen, func(c change) bool { return c.revision > after[i] })
		f.expect(t, whole.seen[rest:]...)
	}
}

// watchMayView: what a watcher is told of can be read at once.
func watchMayView(t *testing.T, s keystore.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	ended, caughtUp := make(chan error, 1), make(chan struct{})
	var value atomic.Pointer[string]
	go func() {
		ended <- s.Watch(ctx, 0, func(rev keystore.Revision, changes []keystore.Change) error {
			if len(changes) == 0 {
				close(caughtUp)
				return nil
			}
			return s.View(ctx, func(r keystore.Reader) error {
				v, err := r.Get(changes[0].Name)
				if r.Revision() < rev {
					err = errors.Join(err, fmt.Errorf("read at %d while %d is delivered", r.Revision(), rev))
				}
				text := string(v)
				value.Store(&text)
				return err
			})
		})
	}()
	<-caughtUp
	for _, want := range []string{"one", "two", "three"} {
		put(t, s, row(1), want)
		if got := value.Load(); got == nil || *got != want {
			t.Errorf("the watcher read %v, want %q", got, want)
		}
	}
	cancel()
	wantError(t, "Watch", <-ended, context.Canceled)
}

// watchEndsWithContext: nobody waits for a Watch that has ended, or calls its function again.
func watchEndsWithContext(t *testing.T, s keystore.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.Watch(ctx, 0, func(keystore.Revision, []keystore.Change) error { return errors.New("called") })
	wantError(t, "Watch with an ended context", err, context.Canceled)

	f := follow(t, s, 0)
	first := put(t, s, row(1), "v")
	f.stop(t)
	put(t, s, row(1), "nobody waits for this")
	f.expect(t, change{first, row(1), false})
}

// watchEndsWithItsError also shows that a Watch which has ended holds up no Update.
func watchEndsWithItsError(t *testing.T, s keystore.Store) {
	enough := errors.New("enough")
	caughtUp, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.Watch(context.Background(), 0, func(_ keystore.Revision, changes []keystore.Change) error {
			if len(changes) == 0 {
				close(caughtUp)
				return nil
			}
			return enough
		})
	}()
	<-caughtUp
	put(t, s, row(1), "v")
	wantError(t, "Watch", <-ended, enough)
	put(t, s, row(1), "w")
	err := s.Watch(context.Background(), 0, func(keystore.Revision, []keystore.Change) error { return enough })
	wantError(t, "Watch of the past", err, enough)
}

// watchPanic: a panic of a watcher ends that Watch alone, in its own goroutine.
func watchPanic(t *testing.T, s keystore.Store) {
	caughtUp, reached := make(chan struct{}), make(chan any)
	go func() {
		defer func() { reached <- recover() }()
		s.Watch(context.Background(), 0, func(_ keystore.Revision, changes []keystore.Change) error {
			if len(changes) == 0 {
				close(caughtUp)
				return nil
			}
			panic("of the watcher")
		})
	}()
	<-caughtUp
	put(t, s, row(1), "v")
	if got := <-reached; got != "of the watcher" {
		t.Errorf("the caller of Watch got panic %v", got)
	}
	put(t, s, row(1), "w")
}

// watchOfUnknownRevision: a revision that this store never had may come from before a restore. The
// watcher must read everything again.
func watchOfUnknownRevision(t *testing.T, s keystore.Store) {
	newest := put(t, s, row(1), "v")
	err := s.Watch(context.Background(), newest+1, func(keystore.Revision, []keystore.Change) error { return errors.New("called") })
	wantError(t, "Watch after a revision that never was", err, keystore.ErrCompacted)
}
