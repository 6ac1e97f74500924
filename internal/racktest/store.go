package racktest

import (
	"context"
	"sync"

	"github.com/keyrack/keyrack/keystore"
)

// Gated is a store whose reads can be held up, to see who waits for them and
// what a late answer may do. Safe for concurrent use.
type Gated struct {
	keystore.Store
	mu     sync.Mutex
	open   chan struct{} // guarded by mu; closed when reads may go on; nil = they always may
	inside chan struct{} // gets one for every read that waits
}

// NewGated returns an open gate around a store in memory.
func NewGated() *Gated { return &Gated{Store: keystore.NewMemory(), inside: make(chan struct{}, 1024)} }

// Hold makes every later View wait, after it has read, until release is called.
// waiting gets a value for each that does.
func (g *Gated) Hold() (waiting <-chan struct{}, release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := make(chan struct{})
	g.open = open
	return g.inside, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open == open {
			g.open = nil
			close(open)
		}
	}
}

// View reads, and waits at the gate with what it read.
func (g *Gated) View(ctx context.Context, f func(keystore.Reader) error) error {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	err := g.Store.View(ctx, f)
	if open == nil {
		return err
	}
	g.inside <- struct{}{}
	select {
	case <-open:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
