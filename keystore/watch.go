package keystore

import (
	"context"
	"sync"
)

// Bounds of the history that a Watch can begin in.
const (
	historyEvents  = 1024
	historyChanges = 16 << 10
)

// event is what one revision changed. Watchers share the slice.
type event struct {
	revision Revision
	changes  []Change
}

// feed keeps the youngest events and hands each new one to all watchers before its batch is
// finished.
type feed struct {
	// mu guards what follows, and is not held while a watcher's function runs. Registering a
	// watcher and taking its share of the history, and appending an event and taking the list of
	// its receivers, are one step each: so no event is lost or doubled.
	mu       sync.Mutex
	last     Revision // of the newest event, or of the store when it was opened
	history  []event  // ascending; its changes are counted in changes
	changes  int
	watchers map[*watcher]struct{}

	watches gate          // Watches that run
	closing chan struct{} // closed when they are to end
	once    sync.Once
}

// watcher is a Watch that runs. An event is put into next, which is always free since the one
// before was acknowledged, and is acknowledged in done; gone is closed when the Watch ends.
type watcher struct {
	next chan event
	done chan struct{}
	gone chan struct{}
}

// start sets the revision of a store that was just opened; what came before is not in the history.
func (f *feed) start(r Revision) {
	f.last = r
	f.watchers = make(map[*watcher]struct{})
	f.closing = make(chan struct{})
}

func (f *feed) newest() Revision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// deliver returns when every watcher's function has returned for e, or its Watch has ended.
func (f *feed) deliver(e event) {
	for _, w := range f.append(e) {
		select {
		case <-w.done:
		case <-w.gone:
		}
	}
}

// append adds e to the history, drops what has become too old, and hands e to the watchers, which
// it returns.
func (f *feed) append(e event) []*watcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = e.revision
	f.history = append(f.history, e)
	f.changes += len(e.changes)
	for len(f.history) > historyEvents || f.changes > historyChanges {
		f.changes -= len(f.history[0].changes)
		f.history[0] = event{}
		f.history = f.history[1:]
	}
	list := make([]*watcher, 0, len(f.watchers))
	for w := range f.watchers {
		w.next <- e
		list = append(list, w)
	}
	return list
}

// watch registers a watcher and runs it. newest is the engine's revision, which may be one ahead of
// the feed's.
func (f *feed) watch(ctx context.Context, after, newest Revision, call func(Revision, []Change) error) error {
	if err := f.watches.enter(); err != nil {
		return err
	}
	defer f.watches.leave()
	w := &watcher{next: make(chan event, 1), done: make(chan struct{}, 1), gone: make(chan struct{})}
	old, err := f.register(w, after, newest)
	if err != nil {
		return err
	}
	defer f.remove(w)
	for _, e := range old {
		if err := f.ended(ctx); err != nil {
			return err
		}
		if err := call(e.revision, e.changes); err != nil {
			return err
		}
	}
	return f.follow(ctx, w, after, call)
}

// register adds w and returns the events after a revision, the last of which has no changes and
// says that these are all.
func (f *feed) register(w *watcher, after, newest Revision) ([]event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	oldest := f.last // the history has every event above it
	if len(f.history) > 0 {
		oldest = f.history[0].revision - 1
	}
	if after < oldest || after > max(newest, f.last) {
		return nil, ErrCompacted
	}
	var old []event
	for i, e := range f.history {
		if e.revision > after {
			old = append(old, f.history[i:]...)
			break
		}
	}
	f.watchers[w] = struct{}{}
	return append(old, event{revision: max(after, f.last)}), nil
}

func (f *feed) remove(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watchers, w)
	close(w.gone)
}

// follow calls for new events. One that is not above after was committed, but not yet delivered,
// when the Watch began.
func (f *feed) follow(ctx context.Context, w *watcher, after Revision, call func(Revision, []Change) error) error {
	for {
		if err := f.ended(ctx); err != nil {
			return err
		}
		select {
		case e := <-w.next:
			if e.revision > after {
				if err := call(e.revision, e.changes); err != nil {
					return err
				}
			}
			w.done <- struct{}{}
		case <-ctx.Done():
		case <-f.closing:
		}
	}
}

// ended returns why a Watch must end, or nil.
func (f *feed) ended(ctx context.Context) error {
	select {
	case <-f.closing:
		return ErrClosed
	default:
		return ctx.Err()
	}
}

// close ends the Watches and waits for them.
func (f *feed) close() {
	f.once.Do(func() { close(f.closing) })
	f.watches.close()
}
