package kms

import (
	"fmt"
	"time"

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

// expansions bounds how many materials are expanded. Safe for concurrent use.
type expansions struct{ ring[material, *material] }

func (m *material) counted() *bool { return &m.inRing }

func (m *material) used() bool { return m.expanded.Load() != nil && m.hot.Swap(false) }

func (m *material) evict() { m.expanded.Store(nil) }
