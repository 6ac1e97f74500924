package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/keyrack/keyrack/internal/tlog"
)

// searchSlack is how far a record's time may be from those of the records around it: a call is
// stamped when it begins and recorded when it ends. Segments further from the window than that
// are not read.
const searchSlack = 10 * time.Minute

// Searched says how much of a log [Log.Search] or [Search] looked through.
type Searched struct {
	Records          uint64 // read; those of segments that cannot hold what is looked for are not
	Found            uint64
	Earliest, Latest int64 // times of the records read, µs since 1970; 0 if there is none
}

// look compares one record and gives it to found if it is looked for. p is its own number.
func (s *Searched) look(f *Filter, p Position, encoded []byte, found func(Position, *Record, []byte) error) error {
	r, err := ParseRecord(encoded)
	if err != nil {
		return fmt.Errorf("record %d: %w", p, err)
	}
	if f.Matches(&r) {
		if err := found(p, &r, encoded); err != nil {
			return err
		}
		s.Found++
	}
	s.Add(Searched{Records: 1, Earliest: r.Time, Latest: r.Time})
	return nil
}

// Add counts what another search looked through.
func (s *Searched) Add(other Searched) {
	if s.Earliest == 0 || other.Earliest != 0 && other.Earliest < s.Earliest {
		s.Earliest = other.Earliest
	}
	s.Records, s.Found, s.Latest = s.Records+other.Records, s.Found+other.Found, max(s.Latest, other.Latest)
}

// skips reports whether no record of a segment can be in the window: both the times of its first
// record and that of the next segment's lie outside of it, on one side. 0 is a time that is not
// known. Each segment is judged for itself: a clock that was set back between two starts hides
// nothing.
func (f *Filter) skips(first, next int64) bool {
	slack := searchSlack.Microseconds()
	before := f.After != 0 && first+slack < f.After && next+slack < f.After
	behind := f.Before != 0 && first-slack >= f.Before && next-slack >= f.Before
	return first != 0 && next != 0 && (before || behind)
}

// firstTime returns the time of a segment's first record, 0 if there is none yet or the segment
// cannot be read so far: whoever reads it will see why.
func firstTime(files Files, number uint64) int64 {
	f, h, err := openSegment(files, number, ReadOnly)
	if err != nil {
		return 0
	}
	defer f.Close()
	if h == nil {
		return 0
	}
	b, found, err := newReader(f, h).read()
	if err != nil || !found {
		return 0
	}
	_, record, _, _ := nextFrame(b.frames)
	r, err := ParseRecord(record)
	if err != nil {
		return 0
	}
	return r.Time
}

// Search calls found for each record from number from to before number to that f looks for, in
// order, with its number and its encoding, which is found's until it returns. All of them must be
// durable. It skips segments whose first records' times are outside of f's window. It returns
// how far it came even with an error: the next record to look at. Errors are those of
// [Log.Walk].
func (l *Log) Search(ctx context.Context, from, to Position, f *Filter, found func(p Position, r *Record, encoded []byte) error) (s Searched, next Position, err error) {
	if from > to || to > l.Durable() {
		return s, from, fmt.Errorf("audit: records %d to %d of %d: %w", from, to, l.Durable(), tlog.ErrRange)
	}
	for next = from; next < to && err == nil; {
		number, end := l.index.find(next), to
		var skip bool
		if number+1 < uint64(l.index.len()) {
			end = min(to, l.index.first(number+1))
			skip = f.windowed() && f.skips(firstTime(l.cfg.Files, number), firstTime(l.cfg.Files, number+1))
		}
		if skip {
			next = end
			continue
		}
		err = l.Walk(ctx, next, end, func(p Position, record []byte) error {
			err := s.look(f, p-1, record, found)
			if err == nil {
				next = p
			}
			return err
		})
	}
	return s, next, err
}

func (f *Filter) windowed() bool { return f.After != 0 || f.Before != 0 }

// Search is [Verify] for who looks for records: it calls found for those that f looks for, in
// order, while it reads. found gets the record's number and its encoding, which is found's until
// it returns.
//
// With keys it proves what it reads as Verify does: it begins with the first segment that can
// hold something of f's window, and reads on to the end of the log, because only the root there
// is signed. That root commits to the tree before the segment it began with, so what is
// not read need not be: the report's Size and Covered count from the log's first record all the
// same. It is proven only when Search has returned without an error, after found was called.
//
// Without keys it reads only segments that can hold something of the window, and shows of them
// only that no record was damaged by accident: the report has no Origin, and Covered is 0.
func Search(files Files, opts VerifyOptions, f *Filter, found func(p Position, r *Record, encoded []byte) error) (Searched, Report, error) {
	v := &verifier{files: files, opts: opts, roots: make(map[uint64]tlog.Hash), unsigned: len(opts.Keys) == 0}
	v.opts.Expect, v.opts.StartKey = nil, nil
	v.macs = macCheck{nonce: v.nonce}
	var s Searched
	v.each = func(p Position, record []byte) error { return s.look(f, p, record, found) }
	err := v.readNotes()
	if err == nil {
		err = v.searchSegments(f)
	}
	if err == nil {
		err = v.compare()
	}
	return s, v.report, err
}

// searchSegments reads those segments that f and the proof need.
func (v *verifier) searchSegments(f *Filter) (err error) {
	if v.count, err = countSegments(v.files); err != nil {
		return err
	}
	if !v.unsigned {
		if v.begin, err = v.provable(v.needed(&Filter{After: f.After})); err != nil {
			return err
		}
		return v.readFrom(v.begin)
	}
	needed := v.needed(f)
	for n, more := uint64(0), v.count > 0; more; n++ {
		if !needed[n] {
			v.end = nil
			more = n+1 < v.count
			continue
		}
		if v.end == nil {
			v.begin = n
		}
		if more, err = v.readSegment(n); err != nil {
			return err
		}
	}
	return nil
}

// needed says of each segment whether it can hold something of the window.
func (v *verifier) needed(f *Filter) []bool {
	needed := make([]bool, v.count)
	var first int64
	for n := range needed {
		next := int64(0)
		if f.windowed() {
			if n == 0 {
				first = firstTime(v.files, 0)
			}
			if n+1 < len(needed) {
				next = firstTime(v.files, uint64(n+1))
			}
		}
		needed[n], first = !f.skips(first, next), next
	}
	return needed
}

// provable returns the segment to begin with: the first that is needed, or an earlier one, so
// that the newest checkpoint does not lie before it. That its first record is older than the
// window is proven with the rest: a forged time in a segment before it hides nothing.
func (v *verifier) provable(needed []bool) (uint64, error) {
	n := 0
	for n < len(needed) && !needed[n] {
		n++
	}
	for n = min(n, max(len(needed), 1)-1); n > 0; n-- {
		f, h, err := openSegment(v.files, uint64(n), ReadOnly)
		if err != nil {
			return 0, err
		}
		f.Close()
		if h != nil && h.first() <= v.report.Covered {
			break
		}
	}
	return uint64(n), nil
}
