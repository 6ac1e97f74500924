package kms

import (
	"fmt"
	"sync"
	"time"
	"weak"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
)

// expanded is a secret in the form that the standard library works with, on the Go
// heap. It lives as long as a message key and is then made anew from the material,
// which is checked first: a bit that flips in it does no harm for longer.
type expanded struct {
	as    any // what the spec's expand returned
	until time.Time
}

// use returns what m is expanded to, made anew if there is nothing or its time is over.
// The result is shared: it is not to be changed.
func (e *expansions) use(m *material, key api.KeyID, row *spec, now time.Time) (any, error) {
	if x := m.expanded.Load(); x != nil && now.Before(x.until) {
		m.hot.Store(true)
		return x.as, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.expanded.Load(); x != nil && now.Before(x.until) {
		return x.as, nil
	}
	if !m.intact(key) {
		return nil, errMaterialChanged
	}
	x := &expanded{until: now.Add(api.MessageKeyLife)}
	var err error
	securemem.Do(func() { x.as, err = row.expand(m.secret.Bytes()) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMaterialChanged, err)
	}
	m.expanded.Store(x)
	e.keep(m)
	return x.as, nil
}

// expansions bounds how many materials are expanded, by the CLOCK algorithm. It
// keeps none of them alive. Safe for concurrent use.
type expansions struct {
	most int

	mu   sync.Mutex               // taken after a material's
	ring []weak.Pointer[material] // guarded by mu; at most most
	hand int                      // guarded by mu
}

// keep counts m, once, at the expense of one that was not used since the hand last passed.
func (e *expansions) keep(m *material) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.counted {
		return
	}
	m.counted = true
	if len(e.ring) < e.most {
		e.ring = append(e.ring, weak.Make(m))
		return
	}
	for {
		e.hand = (e.hand + 1) % len(e.ring)
		old := e.ring[e.hand].Value() // nil once nobody uses it
		if old != nil && old.expanded.Load() != nil && old.hot.Swap(false) {
			continue
		}
		if old != nil {
			old.expanded.Store(nil)
			old.counted = false
		}
		e.ring[e.hand] = weak.Make(m)
		return
	}
}
