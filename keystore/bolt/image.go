package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keyrack/keyrack/keystore"
)

// The buckets of a store and what its header holds (FORMAT.md).
const (
	bucketHeader = "header"
	bucketRows   = "rows"

	keyMagic    = "magic"
	keyFormat   = "format"
	keyRevision = "revision"

	magic  = "keyrack store"
	format = 1
)

// image is a committed state of a file, read page by page with pread. bolt would read through its
// mapping, where a bad sector or a file that became shorter is a signal instead of an error, and it
// trusts what pages say of themselves: a wrong length shows it memory of the process, a branch above
// itself ends the process. While a transaction of bolt holds the state, no commit changes its pages.
// An image is immutable and safe for concurrent use.
type image struct {
	meta
	file     io.ReaderAt
	revision keystore.Revision
	rows     bucket
}

// bucket is a tree: its root page, or the leaf that it is itself while it has no more than a quarter
// of a page.
type bucket struct {
	root uint64
	leaf node
}

// readImage reads the header of the state of m. Errors are ErrFormat where the file is bolt's but
// not ours, and others for damage.
func readImage(f io.ReaderAt, m meta) (*image, error) {
	im := &image{meta: m, file: f}
	root, _, err := im.node(m.root, nil)
	if err != nil {
		return nil, err
	}
	if len(root.b) != m.pageSize {
		return nil, errors.New("the page of buckets has pages behind it")
	}
	header, err := subBucket(root, bucketHeader)
	if err != nil || header.root != 0 {
		return nil, errors.Join(fmt.Errorf("%w: it has no header", ErrFormat), err)
	}
	if got := header.leaf.get(keyMagic); string(got) != magic {
		return nil, fmt.Errorf("%w: its header begins with %.20q", ErrFormat, got)
	}
	if got := header.leaf.get(keyFormat); len(got) != 4 || binary.BigEndian.Uint32(got) != format {
		return nil, fmt.Errorf("%w: its format is %s, and this program reads %d; use the program that wrote it", ErrFormat, formatName(got), format)
	}
	revision := header.leaf.get(keyRevision)
	if len(revision) != 8 || header.leaf.count != 3 || root.count != 2 {
		return nil, errors.New("header")
	}
	im.revision = keystore.Revision(binary.BigEndian.Uint64(revision))
	im.rows, err = subBucket(root, bucketRows)
	return im, err
}

func formatName(b []byte) string {
	if len(b) == 4 {
		return fmt.Sprint(binary.BigEndian.Uint32(b))
	}
	return "unknown"
}

// subBucket returns the bucket of that name in a leaf of the bucket of buckets.
func subBucket(root node, name string) (bucket, error) {
	i, found := root.search([]byte(name))
	if !root.leaf || !found || !root.isBucket(i) {
		return bucket{}, fmt.Errorf("bucket %s", name)
	}
	v := root.value(i)
	if len(v) < bucketSize {
		return bucket{}, fmt.Errorf("bucket %s has %d bytes", name, len(v))
	}
	b := bucket{root: order.Uint64(v)}
	if b.root != 0 {
		return b, nil
	}
	v = v[bucketSize:]
	if len(v) < headerSize {
		return bucket{}, fmt.Errorf("bucket %s has no leaf", name)
	}
	var err error
	b.leaf, err = parseNode(v)
	if err == nil && !b.leaf.leaf {
		err = fmt.Errorf("bucket %s is no leaf", name)
	}
	return b, err
}

// get returns a value of a leaf, nil when it has none of that name.
func (n node) get(name string) []byte {
	i, found := n.search([]byte(name))
	if !found || n.isBucket(i) {
		return nil
	}
	return n.value(i)
}

// node reads a branch or leaf into buf, or into memory of its own where buf is too small, and
// returns that too.
func (im *image) node(id uint64, buf []byte) (node, []byte, error) {
	buf, _, err := im.page(id, buf)
	if err != nil {
		return node{}, buf, err
	}
	n, err := parseNode(buf)
	if err != nil {
		err = fmt.Errorf("page %d: %w", id, err)
	}
	return n, buf, err
}

// page reads a page with its overflow pages, and returns how many these are. Of a freelist, which may
// have any number, it reads the first alone. The page must say that it is the one asked for: so a
// misplaced or lost write is noticed here.
func (im *image) page(id uint64, buf []byte) ([]byte, uint64, error) {
	if id < 2 || id >= im.pages {
		return buf, 0, fmt.Errorf("page %d of %d", id, im.pages)
	}
	if cap(buf) < im.pageSize {
		buf = make([]byte, im.pageSize)
	}
	buf = buf[:im.pageSize]
	if err := im.read(buf, id); err != nil {
		return buf, 0, err
	}
	overflow := uint64(order.Uint32(buf[12:]))
	if got := order.Uint64(buf); got != id || overflow >= im.pages-id {
		return buf, 0, fmt.Errorf("page %d says it is page %d with %d more", id, got, overflow)
	}
	if overflow == 0 || order.Uint16(buf[8:]) == kindFreelist {
		return buf, overflow, nil
	}
	size := (overflow + 1) * uint64(im.pageSize)
	if size > maxNode {
		return buf, 0, fmt.Errorf("page %d has %d bytes", id, size)
	}
	buf = append(buf, make([]byte, size-uint64(im.pageSize))...)
	return buf, overflow, im.read(buf[im.pageSize:], id+1)
}

func (im *image) read(b []byte, id uint64) error {
	if _, err := im.file.ReadAt(b, int64(id)*int64(im.pageSize)); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// root returns the root of the tree of rows.
func (im *image) root(buf []byte) (node, []byte, error) {
	if im.rows.root == 0 {
		return im.rows.leaf, buf, nil
	}
	return im.node(im.rows.root, buf)
}

// get looks for a row from the root down. It returns the value in buf, which may have grown. found is false when there is none.
func (im *image) get(key, buf []byte) (value, grown []byte, found bool, err error) {
	n, buf, err := im.root(buf)
	for range maxDepth {
		if err != nil {
			return nil, buf, false, err
		}
		if n.leaf {
			i, exact := n.search(key)
			if !exact {
				return nil, buf, false, nil
			}
			return n.value(i), buf, true, nil
		}
		n, buf, err = im.node(n.child(n.descend(key)), buf)
	}
	return nil, buf, false, errDeep
}

var errDeep = errors.New("the tree has no end")

// cursor walks over the rows in the order of their names.
type cursor struct {
	im    *image
	stack []level
	depth int    // levels of stack in use
	last  []byte // key of the row before
}

// level is a node on the way from the root, the element that is next, and the node's memory.
type level struct {
	n   node
	i   int
	buf []byte
}

// seek goes to the first row whose key is not less than key.
func (c *cursor) seek(key []byte) error {
	c.depth = 1
	c.stack = append(c.stack[:0], level{})
	l := &c.stack[0]
	var err error
	if l.n, l.buf, err = c.im.root(nil); err != nil {
		return err
	}
	for !l.n.leaf {
		l.i = l.n.descend(key)
		if l, err = c.push(l.n.child(l.i)); err != nil {
			return err
		}
	}
	l.i, _ = l.n.search(key)
	return nil
}

// push goes one level down, to page id, in memory that an earlier node of that level left.
func (c *cursor) push(id uint64) (*level, error) {
	if c.depth == maxDepth {
		return nil, errDeep
	}
	if c.depth == len(c.stack) {
		c.stack = append(c.stack, level{})
	}
	l := &c.stack[c.depth]
	c.depth++
	var err error
	l.i = 0
	l.n, l.buf, err = c.im.node(id, l.buf)
	if err == nil && l.n.count == 0 {
		err = fmt.Errorf("page %d is empty", id) // only a root may be; so each leaf is a step ahead
	}
	return l, err
}

// next returns the next row, until the following call, or a nil key at the end. Keys that do not
// ascend are damage; so the walk ends, whatever the pages say.
func (c *cursor) next() (key, value []byte, err error) {
	l := &c.stack[c.depth-1]
	for l.i == l.n.count {
		if c.depth--; c.depth == 0 {
			c.depth, c.stack = 1, []level{{n: node{leaf: true}}} // the end stays the end
			return nil, nil, nil
		}
		l = &c.stack[c.depth-1]
		l.i++
	}
	for !l.n.leaf {
		if l, err = c.push(l.n.child(l.i)); err != nil {
			return nil, nil, err
		}
	}
	key = l.n.key(l.i)
	if bytes.Compare(key, c.last) <= 0 || l.n.isBucket(l.i) {
		return nil, nil, errors.New("rows are out of order")
	}
	c.last = append(c.last[:0], key...)
	l.i++
	return key, l.n.value(l.i - 1), nil
}
