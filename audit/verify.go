package audit

import (
	"bytes"
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
	// Expect are checkpoints that were kept elsewhere, signed by one of Keys. The log must extend each of them.
	Expect [][]byte
	// StartKey, if not nil, is the log's [Config.StartKey], and the MACs of all batches are checked too.
	StartKey func(nonce [32]byte) (*securemem.Buffer, error)
}

// Report is what [Verify] found.
type Report struct {
	Origin   string
	Segments int       // files that hold records or were begun
	Batches  uint64    // of records, whole
	Size     Position  // records, whole and in order from the first
	Root     tlog.Hash // of their tree
	// Covered is how many of them the newest checkpoint covers. Of those behind it, it is shown only that they are whole.
	Covered Position
	// Keyed is how many of them stand in batches with a MAC, and Checked how many of those MACs were checked.
	Keyed, Checked uint64
	// Unfinished says that the last batch or segment was being written, or that a power cut ended that: at the end of a log in use this is as it should
	// be.
	Unfinished bool
}

// Verify proves from the files alone that they are one consistent log up to the newest signed checkpoint, and that the log extends each checkpoint
// expected. It recomputes every hash and reads every byte; it writes nothing and needs no more than a few MB of memory. The appliance may be
// running: records behind the checkpoint are then not yet covered.
//
// The first thing found wrong ends it: a [Damage] that says where, an error that wraps [ErrCheckpoint] for a note that is missing, of another log, or not
// signed by one of the keys, or an error of Files. The report then tells how far it came.
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
}

// readNotes opens the newest checkpoint and those expected.
func (v *verifier) readNotes() error {
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
	slices.SortStableFunc(v.notes, func(a, b tlog.Checkpoint) int { return int(min(max(int64(a.Size-b.Size), -1), 1)) })
	for _, c := range v.notes {
		v.roots[c.Size] = tlog.Hash{}
	}
	if _, wanted := v.roots[0]; wanted {
		v.roots[0] = tlog.EmptyRoot
	}
	return nil
}

func (v *verifier) nonce(number uint64) ([32]byte, error) {
	f, h, err := openSegment(v.files, number, ReadOnly)
	if err != nil {
		return [32]byte{}, err
	}
	f.Close()
	if h == nil {
		return [32]byte{}, &Damage{Segment: number, Batch: -1, What: "header is damaged"}
	}
	return h.nonce, nil
}

// readSegments walks all segments in use, and looks that nothing stands in those behind them.
func (v *verifier) readSegments() (err error) {
	if v.count, err = countSegments(v.files); err != nil {
		return err
	}
	for n := range v.count {
		used, err := v.readSegment(n)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if used, err = v.used(n + 1); err == nil && used { // begun since we looked, like the one before it
			used, err = v.readSegment(n)
			if err == nil && !used {
				err = &Damage{Segment: n, Batch: -1, First: v.report.Size, Last: v.report.Size, What: "header is damaged"}
			}
		}
		if err != nil {
			return err
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

// readSegment walks one segment; false if it is not in use.
func (v *verifier) readSegment(n uint64) (used bool, err error) {
	f, h, err := openSegment(v.files, n, ReadOnly)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if h == nil {
		return false, v.readBlank(n, f)
	}
	if err := v.place(h); err != nil {
		return true, err
	}
	if err := v.macs.enter(h); err != nil {
		return true, err
	}
	w := newWalker(f, h, v.roots)
	v.report.Segments++
	err = v.readBatches(w)
	v.before, v.end = h, w
	return true, err
}

// place checks that a segment goes on where the one before it ended.
func (v *verifier) place(h *segmentHeader) error {
	switch {
	case h.origin != sha256.Sum256([]byte(v.report.Origin)):
		return &Damage{Segment: h.number, Batch: -1, First: h.first(), Last: h.first(), What: "segment is of another log"}
	case v.end != nil:
		return h.follows(v.before, v.end)
	case h.first() != 0 || h.previous != tag{}:
		return &Damage{Segment: h.number, Batch: -1, Last: h.first(), What: "log does not begin here"}
	}
	return nil
}

// readBlank looks at a segment without a header: it holds nothing, or the first part of a header that is being written.
func (v *verifier) readBlank(n uint64, f File) error {
	b := make([]byte, headerBytes)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	switch {
	case zero(b):
		return nil
	case !bytes.HasPrefix(b, []byte(segmentMagic)):
		return &Damage{Segment: n, Batch: -1, First: v.report.Size, Last: v.report.Size, What: "bytes in a segment that was never used"}
	}
	v.report.Unfinished = true
	return nil
}

// readBatches walks to the end of a segment. A log in use may grow meanwhile, so it looks again while that brings more.
func (v *verifier) readBatches(w *walker) error {
	sealed := false
	for {
		before := w.next
		if err := v.walk(w); err != nil {
			return err
		}
		if used, err := v.used(w.header.number + 1); err != nil {
			return err
		} else if used && !sealed {
			sealed = true
			continue
		}
		t, err := w.tail()
		switch {
		case err != nil:
			return err
		case t.clean():
			return nil
		case w.next == before:
			return v.judge(w, t, sealed)
		}
	}
}

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
	}
}

// judge says what bytes behind the last whole batch of a segment mean.
func (v *verifier) judge(w *walker, t tail, sealed bool) error {
	lost := t.later != 0 && w.header.mode&modeWritten == 0
	covered := v.notes[len(v.notes)-1].Size > uint64(w.next)
	switch {
	case w.broken != nil && (sealed || lost || covered):
		return w.broken
	case sealed || lost || !t.begun && t.later == 0:
		return w.damage(w.next, w.next, "bytes that are no batch")
	}
	v.report.Unfinished = true
	return nil
}

// compare holds the tree against the notes.
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
