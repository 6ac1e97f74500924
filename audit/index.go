package audit

import (
	"sort"
	"sync"
)

// index says which records stand in which segment: 40 bytes of memory for each file.
type index struct {
	mu   sync.RWMutex // guards segs; never held across a file operation
	segs []place      // by number
}

// place is the beginning of a segment.
type place struct {
	first Position
	tag   tag
}

// add notes that a segment was begun: the next one, or the last one anew.
func (x *index) add(h *segmentHeader) {
	x.mu.Lock()
	x.segs = append(x.segs[:h.number], place{h.first(), h.tag})
	x.mu.Unlock()
}

// lastTag returns the tag of the segment before that number; zero for the first.
func (x *index) lastTag(number uint64) tag {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if number == 0 {
		return tag{}
	}
	return x.segs[number-1].tag
}

// len returns the number of segments in use.
func (x *index) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.segs)
}

// find returns the number of the segment in which the record behind p stands or will stand.
func (x *index) find(p Position) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	after := sort.Search(len(x.segs), func(i int) bool { return x.segs[i].first > p })
	return uint64(max(after, 1) - 1)
}

// first returns the first record of a segment.
func (x *index) first(number uint64) Position {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.segs[number].first
}

// ends reports whether a segment that was read up to p has nothing more: the next one begins
// there.
func (x *index) ends(number uint64, p Position) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return number+1 < uint64(len(x.segs)) && x.segs[number+1].first == p
}

// from returns the number of the first segment that begins at p or later, and where it begins.
func (x *index) from(p Position) (number uint64, first Position, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	i := sort.Search(len(x.segs), func(i int) bool { return x.segs[i].first >= p })
	if i == len(x.segs) {
		return 0, 0, false
	}
	return uint64(i), x.segs[i].first, true
}
