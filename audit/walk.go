package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/keyrack/keyrack/internal/tlog"
)

// batch is a batch as it was read: its frames are whole and in order, but not yet compared with
// the tree.
type batch struct {
	batchHeader
	at     int64  // in the file
	frames []byte // valid until the next read
}

// reader reads the batches of one segment one after the other. It trusts nothing: every length
// is checked before memory is spent on it, and no batch needs more than maxBatch.
type reader struct {
	file   File
	header *segmentHeader
	at     int64    // where the next batch would be
	number uint64   // its number
	next   Position // before its first record
	buf    []byte
}

// newReader begins at the first batch of a segment.
func newReader(f File, h *segmentHeader) *reader {
	return &reader{file: f, header: h, at: headerBytes, next: h.first()}
}

// read returns the next batch. Without one there (found is false and err nil) it stays where it
// is. A batch that begins there and is not whole is a [Damage].
func (r *reader) read() (b batch, found bool, err error) {
	if r.at+sector > r.header.size {
		return b, false, nil
	}
	head := r.grow(sector)
	if err := r.fill(head, r.at); err != nil {
		return b, false, err
	}
	h, ok := parseBatchHeader(head, r.header.tag)
	if !ok {
		if startsBatch(head, r.header.tag) {
			return b, false, r.damage(r.next, r.next, "header of the batch is damaged")
		}
		return b, false, nil
	}
	if what := r.check(&h); what != "" {
		return b, false, r.damage(r.next, r.next, what)
	}
	body := r.grow(int(h.span()))
	if err := r.fill(body[sector:], r.at+sector); err != nil {
		return b, false, err
	}
	b = batch{batchHeader: h, at: r.at, frames: body[batchBytes : batchBytes+int(h.length)]}
	if err := r.checkBody(&b, body[batchBytes+int(h.length):]); err != nil {
		return b, false, err
	}
	r.at, r.number, r.next = r.at+h.span(), r.number+1, h.end()
	return b, true, nil
}

// fill reads b from a place in the file. What a finished segment was cut of reads as zeros, as it
// did before: so a reader need not know when the cut came.
func (r *reader) fill(b []byte, at int64) error {
	n, err := r.file.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		clear(b[n:])
		return nil
	}
	return err
}

// cutRight returns a [Damage] if the file is shorter than it was made, and does not end right behind
// the last batch, where the reader must stand.
func (r *reader) cutRight() error {
	size, err := r.file.Size()
	if err != nil || size == r.header.size || size == r.at && r.number > 0 {
		return err
	}
	return damageAt(r.header.number, r.next, wrongSize(size, r.header.size))
}

// check compares a batch's header with where it stands; empty if it can stand there. Everything
// the reader allocates or skips by is bounded here.
func (r *reader) check(h *batchHeader) string {
	switch {
	case h.number != r.number:
		return fmt.Sprintf("found batch %d here", h.number)
	case h.first != r.next:
		return fmt.Sprintf("batch begins with record %d", h.first)
	case h.count == 0 || h.length > maxBatch || uint64(h.length) < frameBytes*uint64(h.count) || h.span() > r.header.size-r.at:
		return "length of the batch cannot be"
	case h.locked == (r.header.mode&modeKeyed != 0):
		return "batch and segment do not agree whether there is a MAC"
	case h.locked && h.mac != [32]byte{}:
		return "batch without a MAC has one"
	}
	return ""
}

// checkBody checks that the frames are whole and that the rest up to the next sector is zero.
func (r *reader) checkBody(b *batch, padding []byte) error {
	rest := b.frames
	for i := range b.count {
		var ok bool
		if _, _, rest, ok = nextFrame(rest); !ok {
			at := b.first + Position(i)
			return r.damage(at, at+1, "length of the record cannot be")
		}
	}
	if len(rest) > 0 || !zero(padding) {
		return r.damage(b.end(), b.end(), "bytes behind the last record of the batch")
	}
	return nil
}

// damage is about records of the batch.
func (b *batch) damage(h *segmentHeader, first, last Position, what string) *Damage {
	return &Damage{Segment: h.number, Batch: int64(b.number), First: first, Last: last, What: what}
}

// damage is at the place where the next batch would be.
func (r *reader) damage(first, last Position, what string) *Damage {
	return &Damage{Segment: r.header.number, Batch: int64(r.number), First: first, Last: last, What: what}
}

// grow returns n bytes of the reader's buffer, whose first bytes stay what they were.
func (r *reader) grow(n int) []byte {
	if len(r.buf) < n {
		r.buf = append(r.buf, make([]byte, max(n, 64<<10)-len(r.buf))...)
	}
	return r.buf[:n]
}

// walker reads a segment and grows the tree over it: what it passes is what was written,
// provided that the tree's root is the right one in the end.
type walker struct {
	reader
	tree   tlog.Frontier        // of all records before the next batch
	roots  map[uint64]tlog.Hash // the tree's root at each size that is a key here is put down when it is passed
	broken *Damage              // what ended the walk, if a batch begins there that is not whole
}

// newWalker begins at the start of a segment. roots may be shared with the walkers of other
// segments.
func newWalker(f File, h *segmentHeader, roots map[uint64]tlog.Hash) *walker {
	w := &walker{reader: *newReader(f, h), tree: h.tree, roots: roots}
	w.pass(h.tree.Size(), h.tree.Root())
	return w
}

// pass puts a root down if it is wanted.
func (w *walker) pass(size uint64, root tlog.Hash) {
	if _, wanted := w.roots[size]; wanted {
		w.roots[size] = root
	}
}

// step reads the next batch, and compares every record with its frame and the tree with the
// batch's root. Without a whole batch there, found is false and the walker stays where it is;
// broken says whether one begins there.
func (w *walker) step() (b batch, found bool, err error) {
	at, number, next := w.at, w.number, w.next
	w.broken = nil
	b, found, err = w.read()
	if err == nil && found {
		err = w.join(&b)
	}
	if errors.As(err, &w.broken) {
		err = nil
	} else if err == nil && found {
		return b, true, nil
	}
	w.at, w.number, w.next = at, number, next
	return b, false, err
}

// join adds the batch's records to the tree, if they are what its root says. The tree of a
// batch that does not fit is thrown away.
func (w *walker) join(b *batch) error {
	tree, rest := w.tree, b.frames
	var passed []*tlog.Frontier
	for at := b.first; at < b.end(); at++ {
		check, record, more, _ := nextFrame(rest)
		leaf := tlog.LeafHash(record)
		if !bytes.Equal(check, leaf[:len(check)]) {
			return b.damage(w.header, at, at+1, "record is not what was written")
		}
		tree.Append(leaf)
		if _, wanted := w.roots[tree.Size()]; wanted {
			snapshot := tree
			passed = append(passed, &snapshot)
		}
		rest = more
	}
	if tree.Root() != b.root {
		return b.damage(w.header, b.first, b.end(), "records are not those that were written, or not in that order")
	}
	for _, t := range passed {
		w.pass(t.Size(), t.Root())
	}
	w.tree = tree
	return nil
}

// tail is what stands in a segment behind its last whole batch.
type tail struct {
	later int64 // where a whole batch header of this segment stands behind that, or 0
	from  int64 // first and last byte that are not zero, rounded to sectors; equal if all is zero
	to    int64
}

// clean reports whether nothing stands there.
func (t tail) clean() bool { return t.from == t.to }

// tail looks at every sector behind the last batch: a log's end is zero to the end of the file,
// or something happened there.
func (r *reader) tail() (t tail, err error) {
	size, err := r.file.Size() // less than the header's if it was cut, and never more again
	if err != nil {
		return t, err
	}
	chunk := r.grow(int(min(size-headerBytes, 1<<20)))
	for at := r.at; at < size; at += int64(len(chunk)) {
		chunk = chunk[:min(int64(len(chunk)), size-at)]
		if err := r.fill(chunk, at); err != nil {
			return t, err
		}
		for i := 0; i < len(chunk); i += sector {
			r.look(&t, chunk[i:i+sector], at+int64(i))
		}
	}
	return t, nil
}

// look takes one sector into account.
func (r *reader) look(t *tail, src []byte, at int64) {
	if zero(src) {
		return
	}
	if t.to == 0 {
		t.from = at
	}
	t.to = at + sector
	if _, ok := parseBatchHeader(src, r.header.tag); ok && at > r.at && t.later == 0 {
		t.later = at
	}
}

var zeros [64 << 10]byte

// zero reports whether b holds nothing but zeros.
func zero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// eraseRange writes zeros over a range of a file.
func eraseRange(f File, from, to int64) error {
	for from < to {
		n := min(to-from, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}
