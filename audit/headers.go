package audit

import (
	"fmt"
	"io"
	"slices"
)

// countSegments returns how many segment files there are. One missing between others, or at the
// start, is a [Damage].
func countSegments(files Files) (uint64, error) {
	names, err := files.List()
	if err != nil {
		return 0, err
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i) {
			return 0, damageAt(uint64(i), 0, "file is missing")
		}
	}
	return uint64(len(numbers)), nil
}

// openSegment opens a segment and reads its header. A nil header says that nothing was ever
// written into the segment, or that the header was being written: then all behind it is zero. A
// header that is damaged, or cannot stand in this place, is a [Damage].
func openSegment(files Files, number uint64, mode Mode) (f File, h *segmentHeader, err error) {
	f, err = files.Open(segmentName(number), mode)
	if err != nil {
		return nil, nil, err
	}
	if h, err = readHeader(f, number); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, h, nil
}

// readHeader reads the header of segment number from its file, as openSegment says. Another process
// may be writing it: once something stands behind it, it does not change any more.
func readHeader(f File, number uint64) (*segmentHeader, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	h, err := tryHeader(f, size)
	if err == nil && h == nil {
		if size < headerBytes || blank(f, size) {
			return nil, nil
		}
		h, err = tryHeader(f, size)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("audit: read header of segment %d: %w", number, err)
	case h == nil:
		return nil, damageAt(number, 0, "header is damaged")
	case h.number != number:
		return nil, damageAt(number, 0, fmt.Sprintf("file is that of segment %d", h.number))
	case size != h.size && (size > h.size || size < headerBytes+sector):
		return nil, damageAt(number, 0, wrongSize(size, h.size))
	case size%sector != 0 || h.size%sector != 0 || h.size > MaxSegment:
		return nil, damageAt(number, 0, "size cannot be")
	}
	return h, nil
}

// wrongSize says that a file has another size than it can have.
func wrongSize(size, want int64) string { return fmt.Sprintf("file has %d bytes of %d", size, want) }

// tryHeader reads a header; nil if it does not parse.
func tryHeader(f File, size int64) (*segmentHeader, error) {
	b := make([]byte, headerBytes)
	if n, err := f.ReadAt(b, 0); err != nil && err != io.EOF || int64(n) < min(size, headerBytes) {
		return nil, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, nil
	}
	return h, nil
}

// blank reports whether nothing stands behind a segment's header. A file that cannot be read is
// not blank.
func blank(f File, size int64) bool {
	chunk := make([]byte, min(size, 1<<20))
	for at := int64(headerBytes); at < size; at += int64(len(chunk)) {
		chunk = chunk[:min(int64(len(chunk)), size-at)]
		if _, err := f.ReadAt(chunk, at); err != nil || !zero(chunk) {
			return false
		}
	}
	return true
}

// follows checks that a segment goes on where the one before it ended, with end as the tree
// there.
func (h *segmentHeader) follows(before *segmentHeader, w *walker) error {
	bad := func(what string) error { return damageAt(h.number, w.next, what) }
	switch {
	case h.origin != before.origin:
		return bad("segment is of another log")
	case h.previous != before.tag:
		return bad("segment does not follow the one before it")
	case h.first() > w.next:
		return &Damage{Segment: h.number, Batch: -1, First: w.next, Last: h.first(), What: "records between this segment and the one before are missing"}
	case !h.tree.Equal(&w.tree):
		return bad("segment was begun over other records")
	}
	return nil
}
