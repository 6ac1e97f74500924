package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/tlog"
)

// VerifyOptions is what [Verify] holds a log against.
type VerifyOptions struct {
	// Keys are those that may have signed the checkpoints, under the log's origin as name.
	Keys []tlog.Verifier
	// Origin is the log's name; empty takes the name in the newest checkpoint.
	Origin string
	// Expect are checkpoints that were kept elsewhere, signed by one of Keys. The log must
	// extend each of them.
	Expect [][]byte
	// StartKey, if not nil, is the log's [Config.StartKey], and the MACs of all batches are
	// checked too.
	StartKey func(nonce [32]byte) (*securemem.Buffer, error)
	// Progress, if not nil, is told after each batch how many records there are so far, and how
	// many the newest checkpoint covers. An error ends the work and is returned.
	Progress func(done, covered Position) error
}

// Report is what [Verify] found.
type Report struct {
	Origin   string
	Segments int       // files that hold records or were begun
	Batches  uint64    // of records, whole
	Size     Position  // records, whole and in order from the first
	Root     tlog.Hash // of their tree
	// Covered is how many of them the newest checkpoint covers. Of those behind it, it is shown
	// only that they are whole.
	Covered Position
	// Keyed is how many of them stand in batches with a MAC, and Checked how many of those MACs
	// were checked.
	Keyed, Checked uint64
	// Unfinished says that the last batch or segment was being written, or that a power cut
	// ended that: at the end of a log in use this is as it should be.
	Unfinished bool
}

// Verify proves from the files alone that they are one consistent log up to the newest signed
// checkpoint, and that the log extends each checkpoint expected. It recomputes every hash and
// reads every byte; it writes nothing and needs no more than a few MB of memory. The appliance
// may be running: records behind the checkpoint are then not yet covered.
//
// The first thing found wrong ends it: a [Damage] that says where, an error that wraps
// [ErrCheckpoint] for a note that is missing, of another log, or not signed by one of the keys,
// or an error of Files. The report then tells how far it came.
func Verify(files Files, opts VerifyOptions) (Report, error) {
	v := &verifier{files: files, opts: opts, roots: make(map[uint64]tlog.Hash)}
	v.macs = macCheck{startKey: opts.StartKey, nonce: v.nonce}
	defer v.macs.free()
	err := v.readNotes()
	if err == nil {
		err = v.readSegments()
	}
	if err == nil {
		err = v.compare()
	}
	return v.report, err
}

// verifier reads a log that may be in use. It takes no lock, so it may see any state of the
// files that the log passes through: nothing it finds is held against the log before it looked
// again, in an order in which a log that only grew could not show it.
type verifier struct {
	files  Files
	opts   VerifyOptions
	notes  []tlog.Checkpoint // all that the log must extend, ascending
	roots  map[uint64]tlog.Hash
	count  uint64 // segment files
	macs   macCheck
	before *segmentHeader // the segment read last, and
	end    *walker        // its end
	report Report

	unsigned bool                                  // there are no notes: a search without keys
	begin    uint64                                // the segment that was read first
	each     func(p Position, record []byte) error // for each record with its number; nil but for a search
}

// readNotes opens the newest checkpoint and those expected.
func (v *verifier) readNotes() error {
	if v.unsigned {
		return nil
	}
	note, err := readNote(v.files)
	if err != nil {
		return err
	}
	if note == nil {
		return fmt.Errorf("%w: there is none", ErrCheckpoint)
	}
	c, err := openNote(note, v.opts.Origin, v.opts.Keys...)
	if err != nil {
		return err
	}
	v.report.Origin, v.report.Covered = c.Origin, Position(c.Size)
	v.notes = append(v.notes, c)
	for i, note := range v.opts.Expect {
		c, err := openNote(note, c.Origin, v.opts.Keys...)
		if err != nil {
			return fmt.Errorf("expected checkpoint %d: %w", i+1, err)
		}
		v.notes = append(v.notes, c)
	}
	slices.SortStableFunc(v.notes, func(a, b tlog.Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	for _, c := range v.notes {
		v.roots[c.Size] = tlog.Hash{}
	}
	if _, wanted := v.roots[0]; wanted {
		v.roots[0] = tlog.EmptyRoot
	}
	return nil
}

// nonce is where macs finds the nonces of start keys.
func (v *verifier) nonce(number uint64) ([32]byte, error) {
	f, h, err := openSegment(v.files, number, ReadOnly)
	if err != nil {
		return [32]byte{}, err
	}
	f.Close()
	if h == nil {
		return [32]byte{}, damageAt(number, 0, "header is damaged")
	}
	return h.nonce, nil
}

// readSegments walks the segments in use, and looks that nothing stands in those behind them.
func (v *verifier) readSegments() (err error) {
	if v.count, err = countSegments(v.files); err != nil {
		return err
	}
	return v.readFrom(0)
}

// readFrom reads the segments from number n on.
func (v *verifier) readFrom(n uint64) (err error) {
	for more := v.count > n; more; n++ {
		if more, err = v.readSegment(n); err != nil {
			return err
		}
	}
	for ; n < v.count; n++ {
		used, err := v.readBlank(n)
		if err != nil {
			return err
		}
		// A log in use may have begun this one since. Then it began the one before it too.
		if before, err := v.used(n - 1); err != nil {
			return err
		} else if used && !before {
			return damageAt(n-1, v.report.Size, "header is damaged")
		}
	}
	return nil
}

// used reports whether a segment exists and was begun.
func (v *verifier) used(n uint64) (bool, error) {
	if n >= v.count {
		return false, nil
	}
	f, h, err := openSegment(v.files, n, ReadOnly)
	if err != nil {
		return false, err
	}
	return h != nil, f.Close()
}

// readSegment walks one segment and reports whether the next one is in use.
func (v *verifier) readSegment(n uint64) (more bool, err error) {
	f, h, err := openSegment(v.files, n, ReadOnly)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if h == nil {
		_, err := v.readBlank(n)
		return false, err
	}
	for {
		w, more, err := v.readUsed(f, h)
		if err == nil {
			v.report.Segments++
			v.before, v.end = h, w
			return more, nil
		}
		// A segment that held no batch may have been begun anew since its header was read.
		now, again := readHeader(f, n)
		if again != nil || now == nil || now.tag == h.tag {
			return false, err
		}
		h = now
	}
}

// readUsed walks a segment from its header on.
func (v *verifier) readUsed(f File, h *segmentHeader) (w *walker, more bool, err error) {
	if err := v.place(h); err != nil {
		return nil, false, err
	}
	if err := v.macs.enter(h); err != nil {
		return nil, false, err
	}
	w = newWalker(f, h, v.roots)
	more, err = v.readBatches(w)
	return w, more, err
}

// place checks that a segment goes on where the one before it ended.
func (v *verifier) place(h *segmentHeader) error {
	switch {
	case !v.unsigned && h.origin != sha256.Sum256([]byte(v.report.Origin)):
		return damageAt(h.number, h.first(), "segment is of another log")
	case v.end != nil:
		return h.follows(v.before, v.end)
	case v.begin > 0: // what it is over, the notes say
		v.report.Size, v.report.Root = h.first(), h.tree.Root()
	case h.first() != 0 || h.previous != tag{}:
		return damageAt(h.number, h.first(), "log does not begin here")
	}
	return nil
}

// readBlank looks at a segment that should hold nothing, or the first part of a header that is
// being written. It reports whether it is in use after all.
func (v *verifier) readBlank(n uint64) (used bool, err error) {
	f, h, err := openSegment(v.files, n, ReadOnly)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, headerBytes)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return false, err
	}
	switch {
	case h != nil:
		return true, nil
	case zero(b):
		return false, nil
	case !bytes.HasPrefix(b, []byte(segmentMagic)):
		return false, damageAt(n, v.report.Size, "bytes in a segment that was never used")
	}
	v.report.Unfinished = true
	return false, nil
}

// readBatches walks to the end of a segment and reports whether the next one is in use. A log
// in use may grow meanwhile: whatever is seen behind the last batch is judged only after
// looking for batches once more.
func (v *verifier) readBatches(w *walker) (sealed bool, err error) {
	for {
		if err := v.walk(w); err != nil {
			return sealed, err
		}
		if !sealed {
			if sealed, err = v.used(w.header.number + 1); err != nil {
				return sealed, err
			}
			if sealed {
				continue // nothing is written here any more
			}
		}
		t, err := w.tail()
		if err != nil {
			return sealed, err
		}
		wrong := w.cutRight()
		if t.clean() && wrong == nil {
			return sealed, nil
		}
		end := w.next
		if err := v.walk(w); err != nil {
			return sealed, err
		}
		if w.next == end {
			return sealed, v.judge(w, t, sealed, wrong)
		}
	}
}

// walk reads batches while there are whole ones.
func (v *verifier) walk(w *walker) error {
	for {
		b, found, err := w.step()
		if err != nil || !found {
			return err
		}
		checked, ok := v.macs.check(&b.batchHeader)
		if !ok {
			return b.damage(w.header, b.first, b.end(), "MAC of the batch is wrong")
		}
		v.report.Batches++
		v.report.Size, v.report.Root = b.end(), b.root
		if !b.locked {
			v.report.Keyed += uint64(b.count)
		}
		if checked {
			v.report.Checked += uint64(b.count)
		}
		if err := v.show(&b); err != nil {
			return err
		}
	}
}

// show gives the records of a batch to who looks for some, and says how far the work is.
func (v *verifier) show(b *batch) error {
	if v.each != nil {
		rest := b.frames
		for at := b.first; at < b.end(); at++ {
			_, record, more, _ := nextFrame(rest)
			if err := v.each(at, record); err != nil {
				return err
			}
			rest = more
		}
	}
	if v.opts.Progress == nil {
		return nil
	}
	return v.opts.Progress(b.end(), v.report.Covered)
}

// judge says what bytes behind the last whole batch of a segment mean: the write of a batch
// that is under way or was cut off, or damage. wrong says that the file has no length it can have.
func (v *verifier) judge(w *walker, t tail, sealed bool, wrong error) error {
	lost := t.later != 0 && w.header.mode&modeWritten == 0
	covered := !v.unsigned && v.notes[len(v.notes)-1].Size > uint64(w.next)
	switch {
	case w.broken != nil && (sealed || lost || covered):
		return w.broken
	case !t.clean() && (sealed || lost || w.broken == nil && t.later == 0):
		return w.damage(w.next, w.next, "bytes that are no batch, nor the beginning of one")
	case wrong != nil:
		return wrong
	}
	v.report.Unfinished = true
	return nil
}

// compare holds the tree against the notes, the shortest first: the fork lies between the last
// one that holds and the first that does not.
func (v *verifier) compare() error {
	if v.end == nil {
		v.report.Root = tlog.EmptyRoot
	}
	var good, same uint64 // sizes of the checkpoints that hold: of the last one, and of the last shorter one
	for _, c := range v.notes {
		if c.Size > same {
			good, same = same, c.Size
		}
		d := &Damage{Segment: uint64(max(v.report.Segments, 1) - 1), Batch: -1, First: v.report.Size, Last: Position(c.Size)}
		switch {
		case c.Size > uint64(v.report.Size):
			d.What, d.kind = fmt.Sprintf("log ends here, a checkpoint covers %d records", c.Size), ErrTruncated
			return d
		case v.roots[c.Size] != c.Root:
			d.Segment, d.First = 0, Position(good)
			d.What, d.kind = fmt.Sprintf("records are not those of the checkpoint of %d records", c.Size), ErrForked
			return d
		}
	}
	return nil
}
