package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/keyrack/keyrack/internal/tlog"
)

// The layout of a segment file; FORMAT.md has the pictures. All integers are big-endian.
const (
	headerBytes = 4096 // of a segment, before its first batch
	sector      = 512  // a batch begins at a multiple of this
	batchBytes  = 160  // of a batch's header, before its records
	frameBytes  = 8    // before each record: length and check

	segmentMagic = "KRAUDIT\x01"
	batchMagic   = "KRB\x01"

	tagAt     = headerBytes - sha256.Size // the tag ends the header
	treeAt    = 136
	batchMAC  = 96  // where a batch's MAC begins: what is before it is what it covers
	batchSum  = 128 // where a batch's check sum begins, likewise
	nameDigit = 16
)

// tag names a segment: SHA-256 of its header, which holds a fresh nonce. Each batch bears it,
// so that no bytes of another segment, or of what was in the file before, can pass for a batch
// of this one.
type tag [sha256.Size]byte

// Bits of a segment's mode.
const (
	modeKeyed   = 1 << 0 // the batches carry MACs
	modeWritten = 1 << 1 // durability "written": before a power cut, batches may have been lost in any order
)

// segmentHeader is what stands at the start of a segment.
type segmentHeader struct {
	number   uint64
	size     int64 // of the file
	origin   [sha256.Size]byte
	nonce    [32]byte
	previous tag // of the segment before; zero for the first
	mode     byte
	keyFrom  uint64        // keyed: number of the segment whose nonce made the start key
	tree     tlog.Frontier // of all records before; its size is the position of the first record here
	tag      tag           // computed by seal, checked by parse
}

// first returns the position before the segment's first record.
func (h *segmentHeader) first() Position { return Position(h.tree.Size()) }

// encode returns the header as it stands in the file, and sets tag.
func (h *segmentHeader) encode() []byte {
	b := make([]byte, headerBytes)
	copy(b, segmentMagic)
	binary.BigEndian.PutUint64(b[8:], h.number)
	binary.BigEndian.PutUint64(b[16:], uint64(h.size))
	copy(b[24:], h.origin[:])
	copy(b[56:], h.nonce[:])
	copy(b[88:], h.previous[:])
	b[120] = h.mode
	binary.BigEndian.PutUint64(b[128:], h.keyFrom)
	h.tree.AppendBinary(b[:treeAt]) // in place: MaxFrontier fits before the tag
	h.tag = sha256.Sum256(b[:tagAt])
	copy(b[tagAt:], h.tag[:])
	return b
}

// errHeader is wrapped by parseHeader.
var errHeader = errors.New("segment header is damaged")

// parseHeader reads what encode wrote, and only that: it encodes what it read and compares, so
// that no byte of a header is free.
func parseHeader(b []byte) (*segmentHeader, error) {
	h := new(segmentHeader)
	h.tag = sha256.Sum256(b[:tagAt])
	if string(b[:8]) != segmentMagic || tag(b[tagAt:headerBytes]) != h.tag {
		return nil, errHeader
	}
	h.number = binary.BigEndian.Uint64(b[8:])
	h.size = int64(binary.BigEndian.Uint64(b[16:]))
	copy(h.origin[:], b[24:])
	copy(h.nonce[:], b[56:])
	copy(h.previous[:], b[88:])
	h.mode = b[120]
	h.keyFrom = binary.BigEndian.Uint64(b[128:])
	leaves := binary.BigEndian.Uint64(b[treeAt:])
	end := treeAt + 8 + bits.OnesCount64(leaves)*sha256.Size
	if err := h.tree.UnmarshalBinary(b[treeAt:end]); err != nil {
		return nil, err
	}
	if !bytes.Equal(h.encode(), b[:headerBytes]) || h.mode > modeKeyed|modeWritten || h.keyFrom > h.number {
		return nil, errHeader
	}
	return h, nil
}

// batchHeader is what stands before a batch's records.
type batchHeader struct {
	tag    tag
	locked bool     // there is no MAC
	number uint64   // in the segment, from 0
	first  Position // before the batch's first record
	count  uint32   // of records, at least 1
	length uint32   // of the records with their frames, in bytes
	root   tlog.Hash
	mac    [32]byte
}

// end returns the position behind the batch's last record.
func (b *batchHeader) end() Position { return b.first + Position(b.count) }

// span is how many bytes of the file the batch takes.
func (b *batchHeader) span() int64 { return span(int(b.length)) }

// span returns how many bytes of the file a batch takes that has that many bytes of records.
func span(records int) int64 { return (batchBytes + int64(records) + sector - 1) / sector * sector }

// capacity returns the most bytes of records that a batch in free bytes of a file can hold, at
// most maxBatch.
func capacity(free int64) int { return int(min(max(0, free/sector*sector-batchBytes), maxBatch)) }

// put writes the header into the first bytes of dst; mac, if not nil, fills in the MAC of what
// stands before it.
func (b *batchHeader) put(dst []byte, mac func(covered []byte) [32]byte) {
	clear(dst[:batchBytes])
	copy(dst, batchMagic)
	if b.locked {
		dst[4] = 1
	}
	copy(dst[8:], b.tag[:])
	binary.BigEndian.PutUint64(dst[40:], b.number)
	binary.BigEndian.PutUint64(dst[48:], uint64(b.first))
	binary.BigEndian.PutUint32(dst[56:], b.count)
	binary.BigEndian.PutUint32(dst[60:], b.length)
	copy(dst[64:], b.root[:])
	if mac != nil {
		b.mac = mac(dst[:batchMAC])
	}
	copy(dst[batchMAC:], b.mac[:])
	sum := sha256.Sum256(dst[:batchSum])
	copy(dst[batchSum:], sum[:])
}

// parseBatchHeader reads what put wrote for a batch of the segment with that tag. It returns
// false for everything else: bytes that were never written, that belong to another segment, or
// that changed.
func parseBatchHeader(src []byte, of tag) (b batchHeader, ok bool) {
	if len(src) < batchBytes || string(src[:4]) != batchMagic || tag(src[8:40]) != of {
		return b, false
	}
	if sum := sha256.Sum256(src[:batchSum]); !bytes.Equal(sum[:], src[batchSum:batchBytes]) {
		return b, false
	}
	b = batchHeader{
		tag:    of,
		locked: src[4] == 1,
		number: binary.BigEndian.Uint64(src[40:]),
		first:  Position(binary.BigEndian.Uint64(src[48:])),
		count:  binary.BigEndian.Uint32(src[56:]),
		length: binary.BigEndian.Uint32(src[60:]),
		root:   tlog.Hash(src[64:]),
		mac:    [32]byte(src[batchMAC:]),
	}
	var again [batchBytes]byte
	b.put(again[:], nil)
	return b, bytes.Equal(again[:], src[:batchBytes])
}

// startsBatch reports whether src begins as a batch of that segment does, whole or not.
func startsBatch(src []byte, of tag) bool {
	return len(src) >= 40 && string(src[:4]) == batchMagic && tag(src[8:40]) == of
}

// putFrame fills in the frame before a record: its length, and the first bytes of its leaf
// hash, by which a damaged record is found among the others of its batch.
func putFrame(dst []byte, length int, leaf *tlog.Hash) {
	binary.BigEndian.PutUint32(dst, uint32(length))
	copy(dst[4:frameBytes], leaf[:])
}

// nextFrame splits frames into its first record and the rest; false if they do not begin with a
// whole record.
func nextFrame(frames []byte) (check, record, rest []byte, ok bool) {
	if len(frames) < frameBytes {
		return nil, nil, nil, false
	}
	n := binary.BigEndian.Uint32(frames)
	if n > MaxRecord || int(n) > len(frames)-frameBytes {
		return nil, nil, nil, false
	}
	end := frameBytes + int(n)
	return frames[4:frameBytes], frames[frameBytes:end:end], frames[end:], true
}

const segmentSuffix = ".seg"

// segmentName returns the name of a segment's file: sixteen decimal digits and ".seg".
func segmentName(number uint64) string {
	return fmt.Sprintf("%0*d%s", nameDigit, number, segmentSuffix)
}

// segmentNumber is the reverse of segmentName.
func segmentNumber(name string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 63)
	return n, err == nil && segmentName(n) == name
}
