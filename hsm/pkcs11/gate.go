package pkcs11

import (
	"context"
	"sync"
)

// gate is a readers-writer lock whose waiting ends with a context: a call into a module may never return, and must not take
// those with it that only wait for it. The zero gate is open.
type gate struct {
	mu      sync.Mutex    // guards all below
	inside  int           // calls that run beside each other
	alone   bool          // one call runs alone, or waits to: nobody enters meanwhile
	changed chan struct{} // closed at the next change that somebody waits for; nil while nobody does
}

// enter waits until no call runs alone, and joins those that run. It returns ctx's error.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.alone {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	g.inside++
	return nil
}

// leave ends what enter began.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.tell()
}

// lock waits until no other call runs, and keeps them out. It returns ctx's error, and then they may go on.
func (g *gate) lock(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.alone {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	g.alone = true
	for g.inside > 0 {
		if err := g.wait(ctx); err != nil {
			g.alone = false
			g.tell()
			return err
		}
	}
	return nil
}

// unlock ends what lock began.
func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.alone = false
	g.tell()
}

// wait gives mu up until something has changed. The caller holds mu.
func (g *gate) wait(ctx context.Context) error {
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	changed := g.changed
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tell wakes those that wait. The caller holds mu.
func (g *gate) tell() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
