package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"sort"

	"github.com/keyrack/keyrack/keystore"
)

// What a reader needs of bolt's file format, number 2. It has not changed since 2014, and the tests
// compare what is read here with what bolt reads. Integers are in the order of the machine that
// wrote the file.
//
//	page   = id 8 ‖ kind 2 ‖ count 2 ‖ overflow 4 ‖ elements; overflow is how many pages more it has
//	meta   = page header ‖ magic 4 ‖ format 4 ‖ page size 4 ‖ flags 4 ‖ root page 8 ‖ sequence 8 ‖
//	         freelist page 8 ‖ pages in use 8 ‖ transaction 8 ‖ FNV-1a of these 56 bytes 8
//	leaf   = page header ‖ count × (flags 4 ‖ position 4 ‖ key length 4 ‖ value length 4) ‖ keys and values
//	branch = page header ‖ count × (position 4 ‖ key length 4 ‖ page 8) ‖ keys
//
// A position counts from the start of its own element. A value with flag 1 is a bucket: root page 8
// ‖ sequence 8, and where the root page is 0, a leaf of its own follows.
const (
	headerSize  = 16
	elementSize = 16
	metaSize    = 64
	bucketSize  = 16

	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindFreelist = 0x10
	flagBucket   = 0x01

	boltMagic  = 0xED0CDAED
	boltFormat = 2
	noFreelist = 1<<64 - 1
)

// Bounds of what a sound file can have, checked before memory is spent.
const (
	minPage = 1 << 10
	maxPage = 1 << 16
	// maxNode is the size of a page with its overflow. bolt splits what does not fit in a page down
	// to four rows, which are at most 522 KiB.
	maxNode  = 1 << 20
	maxValue = 2 * keystore.MaxValue
	// maxDepth is far beyond a tree in which each branch has two children.
	maxDepth = 48
)

var order = binary.NativeEndian

// Why bytes are not a meta page: with these and ErrFormat bolt takes the other one.
var (
	errNoMeta = errors.New("no meta page")
	errTorn   = errors.New("checksum of a meta page")
)

// meta is what a meta page says of one committed transaction. A file has two, written in turn; the
// newer one that is whole counts.
type meta struct {
	pageSize int
	root     uint64 // page of the bucket of buckets
	freelist uint64
	pages    uint64 // all pages that are used or free have lower numbers
	txid     uint64
}

// parseMeta reads the page header and meta in b, 80 bytes.
func parseMeta(b []byte) (meta, error) {
	b = b[headerSize:]
	if order.Uint32(b) != boltMagic {
		return meta{}, errNoMeta
	}
	if v := order.Uint32(b[4:]); v != boltFormat {
		return meta{}, fmt.Errorf("%w: bolt's own format is %d, want %d", ErrFormat, v, boltFormat)
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if order.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return meta{}, errTorn
	}
	m := meta{int(order.Uint32(b[8:])), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}
	return m, m.check()
}

// check refuses what no transaction leaves. Pages 0 and 1 are the meta pages.
func (m meta) check() error {
	switch {
	case m.pageSize < minPage || m.pageSize > maxPage || bits.OnesCount(uint(m.pageSize)) != 1:
		return fmt.Errorf("page size %d", m.pageSize)
	case m.freelist == noFreelist:
		return errors.New("no freelist")
	case m.pages > 1<<40 || m.root < 2 || m.root >= m.pages || m.freelist < 2 || m.freelist >= m.pages:
		return fmt.Errorf("%d pages, root %d, freelist %d", m.pages, m.root, m.freelist)
	case m.txid > 1<<62:
		return fmt.Errorf("transaction %d", m.txid)
	}
	return nil
}

// findMeta returns the meta that bolt takes: the newer one, or the one that is whole. Both places
// must be there to be read, since bolt reads both, and one that is whole but impossible is in its
// way. Errors are errNoMeta, ErrFormat, and others for damage.
func findMeta(f io.ReaderAt) (meta, error) {
	first, err := readMeta(f, 0)
	if absent(err) {
		return findSecond(f, err)
	}
	if err != nil {
		return meta{}, err
	}
	second, err := readMeta(f, int64(first.pageSize))
	switch {
	case absent(err), err == nil && second.txid < first.txid:
		return first, nil
	case err == nil && second.pageSize != first.pageSize:
		return meta{}, errors.New("the meta pages disagree")
	}
	return second, err
}

// findSecond looks for the second meta page where bolt does. Without it the error is that of the
// first one, or of one that was damaged.
func findSecond(f io.ReaderAt, first error) (meta, error) {
	for size := int64(minPage); size <= maxPage; size *= 2 {
		second, err := readMeta(f, size)
		switch {
		case errors.Is(err, errUnread):
			return meta{}, first // the end of the file
		case absent(err):
			if errors.Is(first, errNoMeta) {
				first = err
			}
		case err == nil && int64(second.pageSize) != size:
			return meta{}, errors.New("the second meta page is out of place")
		default:
			return second, err
		}
	}
	return meta{}, first
}

// absent reports whether an error of readMeta lets bolt take the other meta page.
func absent(err error) bool {
	return errors.Is(err, errNoMeta) || errors.Is(err, errTorn) || errors.Is(err, ErrFormat)
}

// errUnread says that the bytes of a meta page could not be had.
var errUnread = errors.New("a meta page cannot be read")

func readMeta(f io.ReaderAt, at int64) (meta, error) {
	var b [headerSize + metaSize]byte
	if n, err := f.ReadAt(b[:], at); n < len(b) {
		return meta{}, fmt.Errorf("%w: %w", errUnread, err)
	}
	return parseMeta(b[:])
}

// node is a branch or leaf whose elements all lie inside of it.
type node struct {
	b     []byte // the page with its overflow
	leaf  bool
	count int
}

// parseNode reads a branch or leaf. It refuses elements that reach outside b or into the table of
// elements.
func parseNode(b []byte) (node, error) {
	n := node{b: b, count: int(order.Uint16(b[10:]))}
	switch kind := order.Uint16(b[8:]); kind {
	case kindLeaf:
		n.leaf = true
	case kindBranch:
	default:
		return node{}, fmt.Errorf("kind %#x", kind)
	}
	table := headerSize + n.count*elementSize
	if table > len(b) || n.count == 0 && !n.leaf {
		return node{}, fmt.Errorf("%d elements", n.count)
	}
	for i := range n.count {
		position, key, value := n.element(i)
		start := uint64(headerSize+i*elementSize) + position
		if key == 0 || value > maxValue || start < uint64(table) || start+key+value > uint64(len(b)) {
			return node{}, fmt.Errorf("element %d at %d with %d and %d bytes", i, start, key, value)
		}
	}
	return n, nil
}

// element returns the fields of element i, the position from its own start.
func (n node) element(i int) (position, key, value uint64) {
	e := n.b[headerSize+i*elementSize:]
	if n.leaf {
		return uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
	}
	return uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), 0
}

func (n node) key(i int) []byte {
	position, key, _ := n.element(i)
	start := uint64(headerSize+i*elementSize) + position
	return n.b[start : start+key : start+key]
}

// value returns the value of element i of a leaf.
func (n node) value(i int) []byte {
	position, key, value := n.element(i)
	start := uint64(headerSize+i*elementSize) + position + key
	return n.b[start : start+value : start+value]
}

// isBucket reports whether the value of element i of a leaf is a bucket.
func (n node) isBucket(i int) bool {
	return order.Uint32(n.b[headerSize+i*elementSize:])&flagBucket != 0
}

// child returns the page under element i of a branch.
func (n node) child(i int) uint64 { return order.Uint64(n.b[headerSize+i*elementSize+8:]) }

// search returns the first element whose key is not less than key, and whether it is that key.
func (n node) search(key []byte) (i int, exact bool) {
	i = sort.Search(n.count, func(i int) bool { return bytes.Compare(n.key(i), key) >= 0 })
	return i, i < n.count && bytes.Equal(n.key(i), key)
}

// descend returns the element of a branch under which key is, if it is anywhere.
func (n node) descend(key []byte) int {
	i, exact := n.search(key)
	if !exact && i > 0 {
		i--
	}
	return i
}

// ordered refuses keys that do not ascend, are below lo, or are not below hi; a nil hi is no bound.
func (n node) ordered(lo, hi []byte) error {
	for i := range n.count {
		key := n.key(i)
		if c := bytes.Compare(key, lo); c < 0 || c == 0 && i > 0 {
			return fmt.Errorf("key %d is out of order", i)
		}
		lo = key
	}
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		return errors.New("last key is out of order")
	}
	return nil
}
