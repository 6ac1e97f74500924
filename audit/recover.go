package audit

import (
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/internal/tlog"
)

// What a start may find behind the newest checkpoint, and what it makes of it:
//
//	a batch that is not whole, nothing behind it    a write that never ended; nobody was told
//	                                                of it: erased
//	the same, and a whole batch header behind it    damage: with durability "synced" no batch is
//	                                                written before the one before it is synced
//	a wrong MAC, where no checkpoint covers it      forgery
//	the log ends before the checkpoint does         refused: a checkpoint covers synced records
//	a header that does not parse, zeros behind it   a segment that was being begun: unused
//	the same, and anything behind it                damage: headers are synced first
//
// Segments before that of the checkpoint are not read, but for their headers: that is Verify's.

// recovery reads a log from its newest checkpoint to its end.
type recovery struct {
	*Log
	files   uint64           // segments, in use or not
	headers []*segmentHeader // of the segments in use
	uncut   []uint64         // of these, numbers of those that were never cut
	covered tlog.Checkpoint  // the newest checkpoint; zero if there is none
	macs    macCheck
	roots   map[uint64]tlog.Hash // of the tree at the checkpoint's size, once that is passed
	before  *segmentHeader       // the segment last walked, and
	end     *walker              // its end
}

// recover finds the end of the log and makes the files fit to go on: what an unfinished write
// left is erased, what no checkpoint covers is written once more and synced, files that hold
// nothing become spare. It returns the numbers of the segments in use whose files have the size
// that they were made with.
func (l *Log) recover() (uncut []uint64, err error) {
	note, err := readNote(l.cfg.Files)
	if err != nil {
		return nil, err
	}
	r := &recovery{Log: l}
	if note != nil {
		if r.covered, err = openNote(note, l.cfg.Origin, l.key); err != nil {
			return nil, err
		}
		l.notes.set(note, CheckpointState{Size: Position(r.covered.Size)})
	}
	if r.files, err = countSegments(l.cfg.Files); err != nil {
		return nil, err
	}
	if err := r.readHeaders(); err != nil {
		return nil, err
	}
	r.roots = map[uint64]tlog.Hash{r.covered.Size: {}}
	r.macs = macCheck{startKey: l.cfg.StartKey, nonce: r.nonce}
	defer r.macs.free()
	if err := r.walk(); err != nil {
		return nil, err
	}
	r.adopt()
	return r.uncut, r.spares()
}

// nonce is where macs finds the nonces of start keys.
func (r *recovery) nonce(number uint64) ([32]byte, error) { return r.headers[number].nonce, nil }

// readHeaders reads the headers of all segments in use, and checks that those behind them are
// not.
func (r *recovery) readHeaders() error {
	for n := range r.files {
		f, h, err := openSegment(r.cfg.Files, n, ReadOnly)
		if err != nil {
			return err
		}
		size, err := f.Size()
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if h == nil {
			continue
		}
		if err := r.place(h); err != nil {
			return err
		}
		if size == h.size {
			r.uncut = append(r.uncut, n)
		}
		r.headers = append(r.headers, h)
		r.index.add(h)
	}
	return nil
}

// place checks that a segment can stand where it does. Its tag was checked with its header, and
// chains it to the one before.
func (r *recovery) place(h *segmentHeader) error {
	bad := func(what string) error { return damageAt(h.number, h.first(), what) }
	switch n := uint64(len(r.headers)); {
	case h.number != n:
		return damageAt(n, h.first(), "header is damaged")
	case h.origin != r.origin:
		return bad("segment is of another log")
	case h.previous != r.index.lastTag(n):
		return bad("segment does not follow the one before it")
	case n > 0 && h.first() < r.headers[n-1].first():
		return bad("segment begins before the one before it")
	}
	return nil
}

// walk reads everything from the segment in which the checkpoint ends.
func (r *recovery) walk() error {
	if len(r.headers) == 0 {
		return r.reached(0)
	}
	for n := r.index.find(Position(r.covered.Size)); n < uint64(len(r.headers)); n++ {
		if err := r.walkSegment(n); err != nil {
			return err
		}
	}
	return nil
}

// reached refuses a log that ends before its checkpoint does.
func (r *recovery) reached(end Position) error {
	if covered := Position(r.covered.Size); end < covered {
		return &Damage{Segment: uint64(max(len(r.headers), 1) - 1), Batch: -1, First: end, Last: covered,
			What: fmt.Sprintf("log ends here, its checkpoint covers %d records", covered), kind: ErrTruncated}
	}
	return nil
}

// walkSegment reads one segment, and repairs it if it is the last.
func (r *recovery) walkSegment(n uint64) error {
	last, mode := n+1 == uint64(len(r.headers)), ReadOnly
	if last {
		mode = ReadWrite
	}
	f, h, err := openSegment(r.cfg.Files, n, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	w := newWalker(f, h, r.roots)
	if r.end != nil {
		if err := h.follows(r.before, r.end); err != nil {
			return err
		}
	}
	if err := r.macs.enter(h); err != nil {
		return err
	}
	tailAt, err := r.walkBatches(w)
	if err == nil {
		err = r.finish(w, last, tailAt)
	}
	r.before, r.end = h, w
	return err
}

// walkBatches reads a segment's batches and returns where the first stands that the checkpoint
// does not cover. A batch that is not whole ends the walk like none: whether it is damaged, the
// caller judges.
func (r *recovery) walkBatches(w *walker) (tailAt int64, err error) {
	for {
		b, found, err := w.step()
		if err != nil {
			return 0, err
		}
		if !found {
			return tailAt, nil
		}
		if err := r.count(w, &b, &tailAt); err != nil {
			return 0, err
		}
	}
}

// count checks a batch's MAC and counts what no checkpoint covers.
func (r *recovery) count(w *walker, b *batch, tailAt *int64) error {
	checked, ok := r.macs.check(&b.batchHeader)
	if uint64(b.end()) <= r.covered.Size { // signed, whatever key made the MAC
		return nil
	}
	if !ok {
		return b.damage(w.header, b.first, b.end(), "MAC of the batch is wrong")
	}
	if *tailAt == 0 {
		*tailAt = b.at
	}
	r.notes.recovered.Records += uint64(b.count)
	if !checked {
		r.notes.recovered.Unchecked += uint64(b.count)
	}
	return nil
}

// finish looks at what stands behind a segment's last whole batch, and repairs the last
// segment.
func (r *recovery) finish(w *walker, last bool, tailAt int64) error {
	t, err := w.tail()
	if err != nil {
		return err
	}
	lost := t.later != 0 && w.header.mode&modeWritten == 0
	covered := w.broken != nil && uint64(w.next) < r.covered.Size
	switch {
	case !last && !t.clean(), lost, covered:
		if w.broken != nil {
			return w.broken
		}
		return w.damage(w.next, w.next, "batch is damaged, and the log goes on behind it")
	}
	if err := w.cutRight(); err != nil || !last {
		return err
	}
	if err := r.compare(w); err != nil {
		return err
	}
	if err := repair(w, t, tailAt); err != nil {
		return err
	}
	r.notes.recovered.Dropped = t.to - t.from
	return nil
}

// compare holds the log against its checkpoint, before anything is changed on disk. A log's
// first checkpoint is older than its first record, so one without any has lost it.
func (r *recovery) compare(w *walker) error {
	if err := r.reached(w.next); err != nil {
		return err
	}
	if r.covered.Origin == "" && w.next > 0 {
		return fmt.Errorf("%w: there is none, but there are %d records", ErrCheckpoint, w.next)
	}
	if size := r.covered.Size; size > 0 && r.roots[size] != r.covered.Root {
		return &Damage{Segment: r.index.find(Position(size - 1)), Batch: -1, Last: Position(size), What: "records are not those of the checkpoint", kind: ErrForked}
	}
	return nil
}

// repair erases the remains of an unfinished write. What no checkpoint covers it writes once
// more, the same bytes in the same place: a kernel that could not write a page may hold it as
// written since, and the next sync would say nothing.
func repair(w *walker, t tail, tailAt int64) error {
	if err := eraseRange(w.file, t.from, t.to); err != nil {
		return err
	}
	if tailAt != 0 {
		if err := rewrite(w.file, tailAt, w.at); err != nil {
			return err
		}
	}
	return w.file.Sync()
}

// rewrite writes a range of a file as it reads.
func rewrite(f File, from, to int64) error {
	chunk := make([]byte, min(to-from, maxBatch))
	for from < to {
		chunk = chunk[:min(int64(len(chunk)), to-from)]
		if _, err := f.ReadAt(chunk, from); err != nil {
			return err
		}
		if _, err := f.WriteAt(chunk, from); err != nil {
			return err
		}
		from += int64(len(chunk))
	}
	return nil
}

// adopt makes the end that was found the log's own. A segment that was begun and never written
// to is begun anew: it counts as a file that holds nothing.
func (r *recovery) adopt() {
	l := r.Log
	if r.end != nil {
		l.tree = r.end.tree
	}
	l.accepted = Position(l.tree.Size())
	l.durable.Store(l.tree.Size())
	l.pub.tip = tip{size: l.accepted, root: l.tree.Root()}
	l.ahead.size = l.cfg.SegmentBytes - headerBytes
	l.ahead.next = uint64(len(r.headers))
	if r.end != nil && r.end.number == 0 {
		l.ahead.next--
	}
}

// spares keeps the files that hold nothing, and removes those of another size: the last first,
// and durably one by one, so that no gap can be left.
func (r *recovery) spares() error {
	kept := true
	var remove []uint64
	for n := r.ahead.next; n < r.files; n++ {
		if kept {
			var err error
			if kept, err = r.keep(n); err != nil {
				return err
			}
		}
		if !kept {
			remove = append([]uint64{n}, remove...)
		}
	}
	for _, n := range remove {
		if err := r.cfg.Files.Remove(segmentName(n)); err != nil {
			return err
		}
		if err := r.cfg.Files.SyncDir(); err != nil {
			return err
		}
	}
	return nil
}

// keep makes a file spare if it has the right size; false if not. The process that made it may
// have died before its name was durable.
func (r *recovery) keep(n uint64) (bool, error) {
	f, err := r.cfg.Files.Open(segmentName(n), ReadWrite)
	if err != nil {
		return false, err
	}
	if size, err := f.Size(); err != nil || size != r.cfg.SegmentBytes {
		return false, errors.Join(err, f.Close())
	}
	if err := r.syncNew(f); err != nil {
		return false, errors.Join(err, f.Close())
	}
	r.ahead.made(f, nil)
	return true, nil
}
