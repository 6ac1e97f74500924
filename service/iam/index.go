package iam

import (
	"cmp"
	"slices"
	"sync"

	"github.com/keyrack/keyrack/access/identity"
)

// index is the principals that may call, by key and by name. Its one writer is
// the feed; safe for concurrent use.
type index struct {
	mu    sync.RWMutex
	byKey map[identity.KeyHash]*principal // guarded by mu
	names []*principal                    // guarded by mu; in the order of names
}

// replace puts all in the place of what there was.
func (x *index) replace(all map[identity.KeyHash]*principal) {
	names := make([]*principal, 0, len(all))
	for _, p := range all {
		names = append(names, p)
	}
	slices.SortFunc(names, byName)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byKey, x.names = all, names
}

// set says whose a key is; nil is nobody's.
func (x *index) set(h identity.KeyHash, p *principal) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.byKey[h]; old != nil {
		at, _ := x.find(old.name)
		for x.names[at] != old { // damaged rows may give a name twice
			at++
		}
		x.names = slices.Delete(x.names, at, at+1)
		delete(x.byKey, h)
	}
	if p != nil {
		at, _ := x.find(p.name)
		x.names = slices.Insert(x.names, at, p)
		x.byKey[h] = p
	}
}

// find returns the place of a name, with mu held.
func (x *index) find(name string) (at int, found bool) {
	return slices.BinarySearchFunc(x.names, name, func(p *principal, name string) int { return cmp.Compare(p.name, name) })
}

// named returns the keys of the principals that have a name.
func (x *index) named(name string) (keys []identity.KeyHash) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for at, _ := x.find(name); at < len(x.names) && x.names[at].name == name; at++ {
		keys = append(keys, x.names[at].key)
	}
	return keys
}

// page returns at most limit principals behind a name, and whether there are more.
func (x *index) page(behind string, limit int) (page []*principal, more bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	at, found := x.find(behind)
	if found {
		at++
	}
	rest := x.names[at:]
	return slices.Clone(rest[:min(limit, len(rest))]), len(rest) > limit
}

// all returns every principal in the order of names.
func (x *index) all() []*principal {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.names)
}

func (x *index) size() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.names)
}
