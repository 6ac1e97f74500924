package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/keyrack/keyrack/internal/tlog"
)

// Inline makes a log without goroutines: every Append commits and prepares segments by itself,
// so that a run is the same each time.
func Inline(c *Config) { c.inline = true }

// SkipSync switches off the syncs of what the log writes: a failpoint that a crash test must
// notice.
func SkipSync(c *Config) { c.skipSync = true }

// SignCheckpoint signs a checkpoint of an Inline log now.
func (l *Log) SignCheckpoint() error { return l.checkpoint(context.Background()) }

// SegmentFile returns the name of a segment's file.
func SegmentFile(number uint64) string { return segmentName(number) }

// The layout, for tests that change bytes.
const (
	HeaderBytes = headerBytes
	BatchBytes  = batchBytes
	FrameBytes  = frameBytes
	Sector      = sector
	MaxPending  = maxPending
)

// memFile is a segment in memory.
type memFile struct{ *bytes.Reader }

func (memFile) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (memFile) Truncate(int64) error               { return errors.ErrUnsupported }
func (memFile) Sync() error                        { return nil }
func (memFile) Close() error                       { return nil }
func (f memFile) Size() (int64, error)             { return f.Reader.Size(), nil }

// Layout is where a batch stands in its segment, and where its records do.
type Layout struct {
	At, End int
	First   Position
	Records [][2]int // begin of the frame, end of the record
}

// Layouts returns the batches of a segment.
func Layouts(segment []byte) (all []Layout, err error) {
	err = eachBatch(segment, func(b batch) {
		l := Layout{At: int(b.at), End: int(b.at + b.span()), First: b.first}
		at := l.At + batchBytes
		for rest := b.frames; len(rest) > 0; {
			_, record, more, _ := nextFrame(rest)
			end := at + frameBytes + len(record)
			l.Records = append(l.Records, [2]int{at, end})
			at, rest = end, more
		}
		all = append(all, l)
	})
	return all, err
}

func eachBatch(segment []byte, f func(batch)) error {
	h, err := parseHeader(segment)
	if err != nil {
		return err
	}
	r := newReader(memFile{bytes.NewReader(segment)}, h)
	for {
		b, found, err := r.read()
		if err != nil || !found {
			return err
		}
		f(b)
	}
}

// Forge rewrites the batches of a segment as someone without the keys can: change returns the
// records that batch number n is to hold, nil for no batch; counts, lengths, positions and
// check sums are made to fit, and, if roots is set, the roots too.
func Forge(segment []byte, roots bool, change func(n int, records [][]byte) [][]byte) error {
	h, err := parseHeader(segment)
	if err != nil {
		return err
	}
	out, tree, number := make([]byte, len(segment)), h.tree, uint64(0)
	copy(out, segment[:headerBytes])
	at := headerBytes
	err = eachBatch(segment, func(b batch) {
		var records [][]byte
		for rest := b.frames; len(rest) > 0; {
			_, record, more, _ := nextFrame(rest)
			records, rest = append(records, record), more
		}
		var t Trail
		for _, r := range change(int(b.number), records) {
			t.AddEncoded(r)
		}
		if t.Len() == 0 {
			return
		}
		b.first = Position(tree.Size())
		for _, leaf := range t.leaves {
			tree.Append(leaf)
		}
		b.number, b.count, b.length = number, uint32(t.Len()), uint32(len(t.frames))
		if roots {
			b.root = tree.Root()
		}
		b.put(out[at:], nil)
		copy(out[at+batchBytes:], t.frames)
		at, number = at+int(b.span()), number+1
	})
	copy(segment, out)
	return err
}

// SumBatch makes the check sum of the batch header that begins at b fit again.
func SumBatch(b []byte) {
	var h batchHeader
	copy(h.tag[:], b[8:])
	h.locked = b[4] == 1
	h.number, h.first = binary.BigEndian.Uint64(b[40:]), Position(binary.BigEndian.Uint64(b[48:]))
	h.count, h.length = binary.BigEndian.Uint32(b[56:]), binary.BigEndian.Uint32(b[60:])
	h.root, h.mac = tlog.Hash(b[64:]), [32]byte(b[batchMAC:])
	h.put(b, nil)
}
