package audit

import (
	"encoding/binary"

	"github.com/keyrack/keyrack/internal/tlog"
)

// queue is records on their way to the file, in order.
type queue struct {
	frames []byte      // as in a Trail
	leaves []tlog.Hash // one for each
	frame  int         // bytes of frames, and
	leaf   int         // leaves, that were taken off the front
}

// add copies a trail's records to the end.
func (q *queue) add(t *Trail) {
	q.frames = append(q.frames, t.frames...)
	q.leaves = append(q.leaves, t.leaves...)
}

// empty reports whether all were taken.
func (q *queue) empty() bool { return q.leaf == len(q.leaves) }

// reset forgets all and keeps the memory.
func (q *queue) reset() { q.frames, q.leaves, q.frame, q.leaf = q.frames[:0], q.leaves[:0], 0, 0 }

// next takes as many records off the front as fit into limit bytes; perhaps none. They are
// valid until reset.
func (q *queue) next(limit int) (frames []byte, leaves []tlog.Hash) {
	frames, leaves = q.frames[q.frame:], q.leaves[q.leaf:]
	if len(frames) > limit {
		n, records := fit(frames, limit)
		frames, leaves = frames[:n], leaves[:records]
	}
	q.frame += len(frames)
	q.leaf += len(leaves)
	return frames, leaves
}

// fit returns how many bytes and records of frames, which are longer than limit, fit into it.
func fit(frames []byte, limit int) (n, records int) {
	for {
		end := n + frameBytes + int(binary.BigEndian.Uint32(frames[n:]))
		if end > limit {
			return n, records
		}
		n, records = end, records+1
	}
}
