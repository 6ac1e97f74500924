package audit

import "github.com/keyrack/keyrack/internal/tlog"

// Trail gathers the records of one burst, encoded and hashed on the goroutine that made them,
// until [Log.Append] takes them all under one lock. Its memory is kept and used again. The zero
// value is ready. It is for one goroutine at a time.
type Trail struct {
	frames []byte      // frame ‖ record, one after the other, as they will stand in the file
	leaves []tlog.Hash // of the records, in the same order
	most   int         // length of the longest record
}

// Add encodes a record into the trail and hashes it. It keeps nothing of r and does not
// allocate once the trail has grown to its usual size.
func (t *Trail) Add(r *Record) {
	at := t.open()
	t.frames = AppendRecord(t.frames, r)
	t.close(at)
}

// AddEncoded adds a record that [AppendRecord] wrote earlier; the bytes are copied and not
// looked into.
func (t *Trail) AddEncoded(record []byte) {
	at := t.open()
	t.frames = append(t.frames, record...)
	t.close(at)
}

// Len returns the number of records.
func (t *Trail) Len() int { return len(t.leaves) }

// Reset empties the trail, wipes what was in it and keeps the memory. [Log.Append] resets the
// trails that it takes.
func (t *Trail) Reset() {
	clear(t.frames)
	t.frames, t.leaves, t.most = t.frames[:0], t.leaves[:0], 0
}

// open leaves room for a frame and returns where it is.
func (t *Trail) open() int {
	at := len(t.frames)
	t.frames = append(t.frames, make([]byte, frameBytes)...)
	return at
}

// close fills in the frame of the record that reaches from it to the end.
func (t *Trail) close(at int) {
	record := t.frames[at+frameBytes:]
	leaf := tlog.LeafHash(record)
	putFrame(t.frames[at:], len(record), &leaf)
	t.leaves = append(t.leaves, leaf)
	t.most = max(t.most, len(record))
}
