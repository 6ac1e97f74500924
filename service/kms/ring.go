package kms

import (
	"sync"
	"weak"
)

// ring bounds how much is kept in memory of what can be made anew, by the CLOCK
// algorithm. It keeps none of it alive. Safe for concurrent use.
type ring[T any, P interface {
	*T
	ringed
}] struct {
	most int // at least 1

	mu   sync.Mutex        // taken after that of what is kept
	all  []weak.Pointer[T] // guarded by mu; at most most
	hand int               // guarded by mu
}

// ringed is what a ring can keep.
type ringed interface {
	counted() *bool // whether it is in the ring, guarded by the ring's mu
	used() bool     // whether it was used since used was last asked
	evict()         // lets go of what takes the memory
}

// keep counts v, once, at the expense of one that was not used since the hand last passed.
func (r *ring[T, P]) keep(v P) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *v.counted() {
		return
	}
	*v.counted() = true
	if len(r.all) < r.most {
		r.all = append(r.all, weak.Make((*T)(v)))
		return
	}
	for {
		r.hand = (r.hand + 1) % len(r.all)
		old := P(r.all[r.hand].Value()) // nil once nobody uses it
		if old != nil && old.used() {
			continue
		}
		if old != nil {
			old.evict()
			*old.counted() = false
		}
		r.all[r.hand] = weak.Make((*T)(v))
		return
	}
}

// shed lets go of everything.
func (r *ring[T, P]) shed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.all {
		if old := P(w.Value()); old != nil {
			old.evict()
			*old.counted() = false
		}
	}
	r.all, r.hand = nil, 0
}
