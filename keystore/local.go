package keystore

import (
	"context"
	"iter"
	"sync"
)

// Local is a [Store] inside this process over an [Engine]: it serializes transactions, commits them
// in groups, holds them to their limits and feeds the watchers. What differs between engines is
// only where rows rest.
type Local struct {
	engine Engine
	calls  gate // Views and Updates that run
	feed   feed

	// turn is held by the Update whose function runs; its transaction reads what all Updates before
	// it wrote.
	turn chan struct{}
	// committer is held by the goroutine that commits a batch. Whoever holds turn may wait for
	// committer, never the reverse.
	committer chan struct{}

	// mu guards the rest; it is held for a few instructions only. open is the batch that takes
	// finished transactions and is written only by the holder of turn; committing is the one before
	// it, or nil, and no longer changes. failures counts the batches that the engine refused, each
	// of which took away rows that a later transaction may have read.
	mu         sync.Mutex
	open       *batch
	committing *batch
	failures   int
}

// NewLocal returns a store over the engine, which it owns from then on. It returns the error of the
// engine's first Snapshot.
func NewLocal(e Engine) (*Local, error) {
	s, err := e.Snapshot()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	l := &Local{engine: e, open: newBatch(), turn: make(chan struct{}, 1), committer: make(chan struct{}, 1)}
	l.feed.start(s.Revision())
	return l, nil
}

// View implements [Store].
func (l *Local) View(ctx context.Context, f func(Reader) error) error {
	if err := l.calls.enter(); err != nil {
		return err
	}
	defer l.calls.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := l.engine.Snapshot()
	if err != nil {
		return err
	}
	v := &view{ctx: ctx, snapshot: s}
	defer v.close()
	return f(v)
}

// Watch implements [Store].
func (l *Local) Watch(ctx context.Context, after Revision, f func(Revision, []Change) error) error {
	newest, err := l.newest()
	if err != nil {
		return err
	}
	return l.feed.watch(ctx, after, newest, f)
}

// newest returns the engine's revision.
func (l *Local) newest() (Revision, error) {
	if err := l.calls.enter(); err != nil {
		return 0, err
	}
	defer l.calls.leave()
	s, err := l.engine.Snapshot()
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return s.Revision(), nil
}

// Close implements [Store]. Updates that run still reach their watchers.
func (l *Local) Close() error {
	if !l.calls.close() {
		l.feed.close()
		return nil
	}
	l.feed.close()
	return l.engine.Close()
}

// view is the Reader of one View.
type view struct {
	ctx      context.Context
	snapshot Snapshot
	over     bool
}

func (v *view) close() {
	v.over = true
	v.snapshot.Close()
}

// usable guards the engine against a Reader that was kept.
func (v *view) usable() error {
	if v.over {
		return ErrClosed
	}
	return v.ctx.Err()
}

func (v *view) Get(n Name) ([]byte, error) {
	if err := v.usable(); err != nil {
		return nil, err
	}
	if !n.Valid() {
		return nil, ErrName
	}
	return v.snapshot.Get(n)
}

func (v *view) Scan(lo, hi Name) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := v.usable(); err != nil {
			yield(Entry{}, err)
			return
		}
		for e, err := range v.snapshot.Scan(lo, hi) {
			if err == nil {
				err = v.usable()
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (v *view) Revision() Revision { return v.snapshot.Revision() }

// gate counts the calls inside and lets none in once it is closed. The zero value is open.
type gate struct {
	mu     sync.RWMutex // guards closed; an enter is either before close or refused
	closed bool
	inside sync.WaitGroup
}

func (g *gate) enter() error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return ErrClosed
	}
	g.inside.Add(1)
	return nil
}

func (g *gate) leave() { g.inside.Done() }

// close waits until all who entered have left, and reports whether this call was the one that
// closed the gate.
func (g *gate) close() (first bool) {
	g.mu.Lock()
	first = !g.closed
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
	return first
}
