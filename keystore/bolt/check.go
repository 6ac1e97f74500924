package bolt

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/keystore"
)

// walk is the check of a file at Open. It uses pread alone, so that nothing in the file can do more
// than fail it, and ends because no page is visited twice.
//
// It looks at every page of an image before bolt may: a page that two claim, or that is in use
// and in the freelist, bolt would overwrite at the next commit. Goroutines share the tree; whichever
// comes second to a page fails the walk.
type walk struct {
	*image
	claimed []atomic.Uint64 // a bit a page
	failed  atomic.Bool     // a goroutine has met an error: the others need not go on
}

// check reads all pages of an image and returns what is wrong with it, one thing where there are
// several. Pages that nobody claims are only lost room. It holds a bit a page in memory, the upper
// nodes, and a path of nodes for each processor.
func (im *image) check() error {
	w := &walk{image: im, claimed: make([]atomic.Uint64, im.pages/64+1)}
	if err := w.claim(0, 2); err != nil {
		return err
	}
	if err := w.claim(im.meta.root, 1); err != nil {
		return err
	}
	if err := w.tree(); err != nil {
		return err
	}
	return w.freelist()
}

// claim notes the owner of n pages from id on.
func (w *walk) claim(id, n uint64) error {
	for ; n > 0; id, n = id+1, n-1 {
		if id >= w.pages {
			return fmt.Errorf("page %d of %d", id, w.pages)
		}
		if bit := uint64(1) << (id % 64); w.claimed[id/64].Or(bit)&bit != 0 {
			return fmt.Errorf("page %d has two owners", id)
		}
	}
	return nil
}

// partsEach is into how many parts the tree is cut for each processor, at least: so many that it hardly
// shows when the last of them is walked alone.
const partsEach = 8

// tree checks the rows. Small stores have them inside of the page of buckets.
func (w *walk) tree() error {
	if w.rows.root == 0 {
		return w.rows.leaf.rowsIn(nil, nil)
	}
	procs := runtime.GOMAXPROCS(0)
	parts, err := w.cut(procs * partsEach)
	if err != nil {
		return err
	}
	var next atomic.Int64
	errs := make([]error, procs)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = w.parts(parts, &next) })
	}
	all.Wait()
	return cmp.Or(errs...)
}

// subtree is what is under a page, depth levels below the root of the tree: its keys must be at least
// lo and below hi, where a nil hi is no bound. lo and hi lie in the nodes above, whose memory stays
// while the subtree is checked.
type subtree struct {
	id     uint64
	depth  int
	lo, hi []byte
}

// cut checks the upper nodes, level by level, until so many subtrees or none are under them, and
// returns these.
func (w *walk) cut(enough int) ([]subtree, error) {
	parts := []subtree{{id: w.rows.root}}
	for len(parts) > 0 && len(parts) < enough {
		t := parts[0]
		n, _, err := w.visit(t, nil)
		if err != nil {
			return nil, err
		}
		parts = parts[1:]
		for i := 0; !n.leaf && i < n.count; i++ {
			parts = append(parts, n.under(i, t))
		}
	}
	return parts, nil
}

// parts checks one subtree after the other, those that other goroutines have not begun.
func (w *walk) parts(parts []subtree, next *atomic.Int64) error {
	var bufs [maxDepth + 1][]byte
	for i := next.Add(1); i <= int64(len(parts)); i = next.Add(1) {
		if err := w.descend(parts[i-1], &bufs); err != nil {
			w.failed.Store(true)
			return err
		}
	}
	return nil
}

// descend checks a subtree, unless the walk has failed elsewhere. Nodes are read into bufs, one a level.
func (w *walk) descend(t subtree, bufs *[maxDepth + 1][]byte) error {
	n, buf, err := w.visit(t, bufs[t.depth])
	bufs[t.depth] = buf
	if err != nil || n.leaf || w.failed.Load() {
		return err
	}
	for i := range n.count {
		if err := w.descend(n.under(i, t), bufs); err != nil {
			return err
		}
	}
	return nil
}

// visit claims and checks the node at the top of a subtree, which it reads as image.node does. Only a root may be empty:
// bolt takes out of the tree what a deletion left empty.
func (w *walk) visit(t subtree, buf []byte) (node, []byte, error) {
	if t.depth == maxDepth {
		return node{}, buf, errDeep
	}
	n, buf, err := w.node(t.id, buf)
	if err != nil {
		return n, buf, err
	}
	if err := w.claim(t.id, uint64(len(n.b)/w.pageSize)); err != nil {
		return n, buf, err
	}
	switch {
	case n.count == 0 && t.depth > 0:
		err = fmt.Errorf("page %d is empty", t.id)
	case n.leaf:
		err = n.rowsIn(t.lo, t.hi)
	default:
		err = n.ordered(t.lo, t.hi)
	}
	return n, buf, err
}

// under returns what is under element i of the branch at the top of t: keys from its own up to that of
// the next one.
func (n node) under(i int, t subtree) subtree {
	return subtree{n.child(i), t.depth + 1, n.key(i), n.upper(i, t.hi)}
}

// upper returns the key below which all under element i of a branch is, when all in it is below hi.
func (n node) upper(i int, hi []byte) []byte {
	if i+1 < n.count {
		return n.key(i + 1)
	}
	return hi
}

// rowsIn checks that all elements of a leaf are rows, in order and within bounds. Their values are the
// business of the layer above.
func (n node) rowsIn(lo, hi []byte) error {
	if err := n.ordered(lo, hi); err != nil {
		return err
	}
	for i := range n.count {
		if !keystore.ValidName(n.key(i)) || n.isBucket(i) {
			return fmt.Errorf("element %d is no row", i)
		}
	}
	return nil
}

// freelist claims the pages of the freelist and those on it. bolt would overwrite one of them that
// is in use, takes the count for granted when it makes room for the numbers, and writes them in
// ascending order, freed ones that a View may still read among them.
func (w *walk) freelist() error {
	head, overflow, err := w.page(w.meta.freelist, nil)
	if err != nil {
		return err
	}
	if kind := order.Uint16(head[8:]); kind != kindFreelist {
		return fmt.Errorf("page %d, the freelist, is of kind %#x", w.meta.freelist, kind)
	}
	if err := w.claim(w.meta.freelist, overflow+1); err != nil {
		return err
	}
	count, first := uint64(order.Uint16(head[10:])), uint64(headerSize)
	if count == 0xffff { // more than fit into the field stand in front of the numbers
		count, first = order.Uint64(head[headerSize:]), headerSize+8
	}
	size := (overflow + 1) * uint64(w.pageSize)
	if count > (size-first)/8 {
		return fmt.Errorf("freelist of %d pages in %d bytes", count, size)
	}
	return w.free(first, count)
}

// free claims count free pages, whose numbers begin at this offset in the freelist.
func (w *walk) free(offset, count uint64) error {
	start := int64(w.meta.freelist)*int64(w.pageSize) + int64(offset)
	buf := make([]byte, min(count*8, maxPage))
	last := uint64(1)
	for count > 0 {
		b := buf[:min(count*8, maxPage)]
		if _, err := w.file.ReadAt(b, start); err != nil {
			return fmt.Errorf("freelist: %w", err)
		}
		for i := 0; i < len(b); i += 8 {
			id := order.Uint64(b[i:])
			if id <= last {
				return errors.New("the freelist is out of order")
			}
			if err := w.claim(id, 1); err != nil {
				return err
			}
			last = id
		}
		start += int64(len(b))
		count -= uint64(len(b) / 8)
	}
	return nil
}

// inspect looks at every page that bolt will read when it writes these rows: what may have changed
// on the medium since Open must not lead it astray. The image was read just now, so its root is
// known to be sound.
func (im *image) inspect(rows []keystore.Row) error {
	list, _, err := im.page(im.meta.freelist, nil)
	if err != nil {
		return err
	}
	if order.Uint16(list[8:]) != kindFreelist {
		return errors.New("the freelist is none")
	}
	if im.rows.root == 0 {
		return im.rows.leaf.ordered(nil, nil)
	}
	s := inspector{image: im, seen: make(map[uint64]node)}
	for _, row := range rows {
		if err := s.path(row.Name.Append(nil), row.Deleted); err != nil {
			return err
		}
	}
	return nil
}

// inspector remembers the nodes of one commit, of leaves only that they were sound.
type inspector struct {
	*image
	seen map[uint64]node
	buf  []byte
}

// path checks the nodes above a key, as bolt descends when it puts or deletes it, and, if it is deleted, their neighbours, with which bolt may
// join them.
func (s *inspector) path(key []byte, deleted bool) error {
	var lo, hi []byte
	n, err := s.look(s.rows.root, lo, hi)
	for range maxDepth {
		if err != nil || n.leaf {
			return err
		}
		at := n.descend(key)
		first, last := at, at
		if deleted {
			first, last = max(at-1, 0), min(at+1, n.count-1)
		}
		for i := first; i <= last && err == nil; i++ {
			if i != at {
				_, err = s.look(n.child(i), n.key(i), n.upper(i, hi))
			}
		}
		if err != nil {
			return err
		}
		lo, hi = n.key(at), n.upper(at, hi)
		n, err = s.look(n.child(at), lo, hi)
	}
	return errDeep
}

// look reads a node, once a commit, since rows that are neighbours share most of their path, and checks the order of its keys.
func (s *inspector) look(id uint64, lo, hi []byte) (node, error) {
	if n, ok := s.seen[id]; ok {
		return n, nil
	}
	n, buf, err := s.node(id, s.buf)
	if err == nil {
		err = n.ordered(lo, hi)
	}
	if err != nil {
		return n, err
	}
	if n.leaf {
		n, s.buf = node{leaf: true}, buf
	} else {
		s.buf = nil
	}
	s.seen[id] = n
	return n, nil
}
