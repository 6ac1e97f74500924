package storetest

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// contextEndsUpdate: an end before, in and after the last use of the Tx, each without a trace in
// the store.
func contextEndsUpdate(t *testing.T, s keystore.Store) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Update(ended, func(keystore.Tx) error { t.Error("ran with an ended context"); return nil })
	wantError(t, "Update", err, context.Canceled)

	ctx, cancel := context.WithCancel(context.Background())
	_, err = s.Update(ctx, func(tx keystore.Tx) error {
		err := tx.Put(row(1), []byte("half"))
		cancel()
		return err
	})
	wantError(t, "Update whose context ended after its last write", err, context.Canceled)

	ctx, cancel = context.WithCancel(context.Background())
	_, err = s.Update(ctx, func(tx keystore.Tx) error {
		cancel()
		_, err := tx.Get(row(1))
		wantError(t, "Get in it", err, context.Canceled)
		return nil
	})
	wantError(t, "Update whose context ended in it", err, context.Canceled)
	expectRow(t, s, row(1), "-")
}

// contextEndsView: a long Scan stops soon after its context has ended.
func contextEndsView(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "v")
	put(t, s, row(2), "v")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.View(ended, func(keystore.Reader) error { t.Error("ran with an ended context"); return nil })
	wantError(t, "View", err, context.Canceled)

	ctx, cancel := context.WithCancel(context.Background())
	err = s.View(ctx, func(r keystore.Reader) error {
		steps := 0
		for _, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			cancel()
			if steps++; steps == 2 {
				wantError(t, "second step of a Scan", err, context.Canceled)
			}
		}
		if steps != 2 {
			t.Errorf("%d steps, want one row and one error", steps)
		}
		_, err := r.Get(row(1))
		return err
	})
	wantError(t, "Get in a View whose context has ended", err, context.Canceled)
}

// keptReaderIsClosed: what outlives its function is refused, not answered from somewhere.
func keptReaderIsClosed(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "v")
	var reader keystore.Reader
	var tx keystore.Tx
	view(t, s, func(r keystore.Reader) error { reader = r; return nil })
	update(t, s, func(t keystore.Tx) error { tx = t; return t.Put(row(1), []byte("w")) })
	_, err := reader.Get(row(1))
	wantError(t, "Reader.Get", err, keystore.ErrClosed)
	for _, err := range reader.Scan(row(0), row(9)) {
		wantError(t, "Reader.Scan", err, keystore.ErrClosed)
	}
	_, err = tx.Get(row(1))
	wantError(t, "Tx.Get", err, keystore.ErrClosed)
	wantError(t, "Tx.Put", tx.Put(row(1), []byte("late")), keystore.ErrClosed)
	wantError(t, "Tx.Delete", tx.Delete(row(1)), keystore.ErrClosed)
	expectRow(t, s, row(1), "w")
}

// closedStoreRefuses: no function is called any more, and a second Close is no error.
func closedStoreRefuses(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "v")
	closeStore(t, s)
	called := errors.New("called")
	ctx := context.Background()
	_, err := s.Update(ctx, func(keystore.Tx) error { return called })
	wantError(t, "Update", err, keystore.ErrClosed)
	wantError(t, "View", s.View(ctx, func(keystore.Reader) error { return called }), keystore.ErrClosed)
	wantError(t, "Watch", s.Watch(ctx, 0, func(keystore.Revision, []keystore.Change) error { return called }), keystore.ErrClosed)
	closeStore(t, s)
}

// closing closes s in the background while call, which has entered a method of s, stays inside
// until release is closed. It returns once Close has begun, which other calls notice by being
// refused.
func closing(t *testing.T, s keystore.Store, call func(enter func())) {
	entered, release := make(chan struct{}), make(chan struct{})
	var left atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		call(func() {
			close(entered)
			<-release
			left.Store(true)
		})
	})
	<-entered
	done.Go(func() {
		closeStore(t, s)
		if !left.Load() {
			t.Error("Close returned while a call was inside")
		}
	})
	for s.View(context.Background(), func(keystore.Reader) error { return nil }) == nil {
		runtime.Gosched()
	}
	close(release)
	done.Wait()
}

// closeWaitsForViews: what a View reads is there until it has returned.
func closeWaitsForViews(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "v")
	closing(t, s, func(enter func()) {
		view(t, s, func(r keystore.Reader) error { enter(); return expect(r, row(1), "v") })
	})
}

// closeWaitsForUpdates: an Update that had begun still commits, and reaches the watchers.
func closeWaitsForUpdates(t *testing.T, s keystore.Store) {
	f := follow(t, s, 0)
	var r keystore.Revision
	closing(t, s, func(enter func()) {
		r = update(t, s, func(tx keystore.Tx) error { enter(); return tx.Put(row(1), []byte("v")) })
	})
	wantError(t, "Watch", <-f.ended, keystore.ErrClosed)
	f.expect(t, change{r, row(1), false})
}

// closeEndsWatches: without it, Close would wait for them for ever.
func closeEndsWatches(t *testing.T, s keystore.Store) {
	watchers := []*follower{follow(t, s, 0), follow(t, s, 0)}
	closeStore(t, s)
	for _, f := range watchers {
		wantError(t, "Watch", <-f.ended, keystore.ErrClosed)
	}
}
