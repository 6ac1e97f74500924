package securemem

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"sync"
)

const (
	smallest = 32       // bytes of the smallest size class; most secrets are 32-byte keys
	largest  = 4096     // bytes of the largest; longer buffers have pages of their own
	classes  = 8        // smallest, twice that, and so on up to largest
	perSlab  = 16 << 10 // bytes of pages that buffers of one class share, or one page where pages are larger
	maxArena = 64 << 20 // bytes: bounds the arena where the kernel does not
)

// arena hands out buffers from locked pages. Buffers of one size class share slabs. One empty slab of a class is kept,
// so that a secret that comes and goes costs no system call; it is given up when another class needs the room.
type arena struct {
	limit int
	lock  func(pages []byte) error // keeps pages in memory
	hide  func(pages []byte) error // keeps pages out of dumps and of forked children

	// mu guards all below and the slabs' bitmaps. It is held across mmap and mlock: buffers are made when secrets are
	// loaded, never per message.
	mu      sync.Mutex
	open    [classes][]*slab // slabs with a free slot
	inUse   int
	allow   bool
	swapped error // why some page is not locked; nil while all are
	dumped  error // why some page can be dumped; nil while none can
}

// slab is a run of pages between two guard pages, cut into slots of one size.
type slab struct {
	arena   *arena
	mapping []byte   // guard, pages, guard
	pages   []byte   // the part that may be touched
	size    int      // bytes of a slot
	class   int      // index into arena.open, or ownPages
	used    []uint64 // bit i: slot i is taken
	free    int      // slots not taken
}

// ownPages is the class of a slab with a single slot, for a buffer longer than largest.
const ownPages = -1

// newArena returns an empty arena; it asks nothing of the kernel yet.
func newArena(limit int, lock, hide func([]byte) error) *arena {
	return &arena{limit: limit, lock: lock, hide: hide}
}

// new returns a zeroed buffer: fresh pages are zero, and release zeroes what it takes back.
func (a *arena) new(n int) (*Buffer, error) {
	if n < 1 {
		return nil, ErrSize
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.slabFor(n)
	if err != nil {
		return nil, err
	}
	slot := s.take()
	if s.free == 0 {
		a.close(s)
	}
	at := slot * s.size
	return &Buffer{mem: s.pages[at : at+n : at+n], home: s, slot: slot}, nil
}

// slabFor returns a slab with a free slot of at least n bytes.
func (a *arena) slabFor(n int) (*slab, error) {
	page := os.Getpagesize()
	if n > a.limit {
		return nil, fmt.Errorf("%w: %d bytes asked, the limit is %d", ErrFull, n, a.limit)
	}
	if n > largest {
		return a.grow(roundUp(n, page), 1, ownPages)
	}
	class := classOf(n)
	if open := a.open[class]; len(open) > 0 {
		return open[len(open)-1], nil
	}
	size := max(perSlab, page)
	s, err := a.grow(size, size/(smallest<<class), class)
	if err == nil {
		a.open[class] = append(a.open[class], s)
	}
	return s, err
}

// grow maps a slab of size bytes. The limit is checked before any memory is asked for.
func (a *arena) grow(size, slots, class int) (*slab, error) {
	if size > a.limit-a.inUse {
		a.reclaim() // one class may sit on an empty slab that another needs
	}
	if size > a.limit-a.inUse {
		return nil, fmt.Errorf("%w: %d of %d bytes in use, %d more needed", ErrFull, a.inUse, a.limit, size)
	}
	mapping, pages, err := mapGuarded(size)
	if err != nil {
		return nil, fmt.Errorf("securemem: map %d bytes: %w", size, err)
	}
	// Before the first secret is in them: a page that was dumped or swapped once cannot be called back.
	if err := a.secure(pages); err != nil {
		return nil, errors.Join(err, unmap(mapping))
	}
	a.inUse += size
	return &slab{
		arena: a, mapping: mapping, pages: pages, size: size / slots, class: class,
		used: make([]uint64, (slots+63)/64), free: slots,
	}, nil
}

// secure locks and hides pages, or notes what the kernel refused where that is allowed.
func (a *arena) secure(pages []byte) error {
	swapped, dumped := a.lock(pages), a.hide(pages)
	if swapped == nil && dumped == nil {
		return nil
	}
	if !a.allow {
		return fmt.Errorf("%w: %w", ErrNotLocked, errors.Join(swapped, dumped))
	}
	a.swapped, a.dumped = first(a.swapped, swapped), first(a.dumped, dumped)
	return nil
}

// release wipes b's slot and frees it. The wipe comes before the lock: until the slot is given back it is b's alone.
func (a *arena) release(b *Buffer) {
	Wipe(b.mem)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := b.home
	s.give(b.slot)
	if s.class == ownPages {
		a.unmap(s)
		return
	}
	if s.free == 1 {
		a.open[s.class] = append(a.open[s.class], s)
	}
	if s.empty() && len(a.open[s.class]) > 1 {
		a.close(s)
		a.unmap(s)
	}
}

// reclaim unmaps the empty slabs that release kept.
func (a *arena) reclaim() {
	for class := range a.open {
		for _, s := range slices.Clone(a.open[class]) {
			if s.empty() {
				a.close(s)
				a.unmap(s)
			}
		}
	}
}

// close takes s off the list of slabs with a free slot.
func (a *arena) close(s *slab) {
	if s.class == ownPages {
		return
	}
	i := slices.Index(a.open[s.class], s)
	a.open[s.class] = slices.Delete(a.open[s.class], i, i+1)
}

// unmap gives the pages of s back. Should the kernel refuse, they stay counted: they are wiped, and the bound holds.
func (a *arena) unmap(s *slab) {
	if unmap(s.mapping) == nil {
		a.inUse -= len(s.pages)
	}
}

// allowUnlocked implements AllowUnlocked. Pages that were let in unlocked stay so and keep showing in the status.
func (a *arena) allowUnlocked(allow bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allow = allow
}

// status reports what the kernel granted for all pages so far, or its refusal of the first.
func (a *arena) status() State {
	refused := a.probe()
	a.mu.Lock()
	defer a.mu.Unlock()
	swapped, dumped := first(a.swapped, refused), first(a.dumped, refused)
	s := State{Locked: swapped == nil, DontDump: dumped == nil, Secret: erases, InUse: a.inUse, Limit: a.limit}
	if err := first(swapped, dumped); err != nil {
		s.Reason = err.Error()
	}
	return s
}

// probe asks the kernel for one buffer when the arena has no page yet, and returns its refusal.
func (a *arena) probe() error {
	a.mu.Lock()
	empty := a.inUse == 0
	a.mu.Unlock()
	if !empty {
		return nil
	}
	b, err := a.new(1)
	if err == nil {
		b.Free()
	}
	return err
}

// take marks the first free slot and returns its index; slabs without one are not open.
func (s *slab) take() int {
	w := 0
	for s.used[w] == ^uint64(0) {
		w++
	}
	bit := bits.TrailingZeros64(^s.used[w])
	s.used[w] |= 1 << bit
	s.free--
	return w*64 + bit
}

// give marks a slot free.
func (s *slab) give(slot int) {
	s.used[slot/64] &^= 1 << (slot % 64)
	s.free++
}

func (s *slab) empty() bool { return s.free == len(s.pages)/s.size }

// classOf returns the index of the smallest class of at least n bytes.
func classOf(n int) int { return max(0, bits.Len(uint(n-1))-bits.Len(uint(smallest-1))) }

// first returns a, or b when a is nil.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// roundUp returns the next multiple of to.
func roundUp(n, to int) int { return (n + to - 1) / to * to }
