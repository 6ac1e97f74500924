package audit

import (
	"context"
	"errors"
)

// A finished segment, one that another follows, is cut behind its last batch: each start and each
// unlock begins a segment, and would else leave most of one behind. Three cut:
//
//	begin     the segment before the one it began
//	Close     the last one: the next start begins another
//	trimming  what earlier processes did not live to cut, in the background of a start
//
// Only zeros are cut off, and nothing is answered that rests on it, so a cut is neither synced nor
// missed: whatever a crash leaves, whole or cut, is the same log, and the next start tries again.

// worthCutting is how many bytes must be left for a cut: fewer take no block of a file system.
const worthCutting = 4096

// cut gives back what is left behind the last batch. Nothing may be written to the segment any
// more, and all in it is synced. Without a batch it stays whole, for another beginning.
func (s *segment) cut() {
	if s.number > 0 && s.left() >= worthCutting {
		_ = s.file.Truncate(s.at) // the next start sees that it was not cut
	}
}

// trim cuts finished segments. The context ends it between two batches. Who cannot be read stays
// as it is: that is Verify's to say.
func (l *Log) trim(ctx context.Context, segments []uint64) {
	for _, n := range segments {
		if ctx.Err() != nil {
			return
		}
		_ = l.trimOne(ctx, n)
	}
}

// trimOne cuts one finished segment, if what stands behind its last batch is zero and its batches
// lead to the segment behind it.
func (l *Log) trimOne(ctx context.Context, number uint64) error {
	f, h, err := openSegment(l.cfg.Files, number, ReadWrite)
	if err != nil {
		return err
	}
	defer f.Close()
	end := make([]byte, worthCutting)
	if _, err := f.ReadAt(end, h.size-worthCutting); err != nil || !zero(end) {
		return err
	}
	r := newReader(f, h)
	for found := true; found && err == nil; {
		_, found, err = r.read()
		err = errors.Join(err, ctx.Err())
	}
	if err != nil || r.number == 0 || !l.index.ends(number, r.next) {
		return err
	}
	if t, err := r.tail(); err != nil || !t.clean() {
		return err
	}
	return f.Truncate(r.at)
}
