package sealed

import (
	"crypto/sha256"
	"iter"
)

// The hash tree stands over the digests of 65,536 buckets: each of its nodes has width children,
// and a bucket's number is the path to its digest, four bits a level, the highest first.
const (
	width    = 16
	topShift = 12 // of a bucket's number, at the root: topShift/4 + 1 = 4 levels of nodes
)

// node is a node of the hash tree, or, where it has no children, the row of a bucket. Nodes never
// change: another tree shares what it does not replace. nil is a node without a row below it, whose
// value is 32 zero bytes.
type node struct {
	sum  [32]byte      // digest of the row, or SHA-256 of the children's values
	kids *[width]*node // nil for a row
	rows int           // records that the bucket rows below list
	keys [2]int        // bucket rows below, by the slot of the version of the domain key that sealed them
}

// buckets returns how many bucket rows there are below n.
func (n *node) buckets() int { return n.sealedBy(0) + n.sealedBy(1) }

// sealedBy returns how many of them are sealed under the version of the domain key in this slot.
func (n *node) sealedBy(slot int) int {
	if n == nil {
		return 0
	}
	return n.keys[slot]
}

// records returns how many records they list.
func (n *node) records() int {
	if n == nil {
		return 0
	}
	return n.rows
}

// value returns what n stands for in its parent, and at the root in the state root.
func (n *node) value() [32]byte {
	if n == nil {
		return [32]byte{}
	}
	return n.sum
}

// leaf returns the row of a bucket, nil where it has none. n is the root.
func (n *node) leaf(bucket uint16) *node {
	for shift := topShift; shift >= 0 && n != nil; shift -= 4 {
		n = n.kids[bucket>>shift%width]
	}
	return n
}

// anySlot stands for the rows of all versions of the domain key.
const anySlot = -1

// leaves ranges over the bucket rows from a bucket on, in ascending order, that are sealed under the
// version of the domain key in this slot. n is the root.
func (n *node) leaves(from uint16, slot int) iter.Seq2[uint16, *node] {
	return func(yield func(uint16, *node) bool) { n.walk(0, topShift, from, slot, yield) }
}

// walk is leaves for a node of the level with this shift, below which buckets begin at first. It
// reports whether to go on.
func (n *node) walk(first uint16, shift int, from uint16, slot int, yield func(uint16, *node) bool) bool {
	switch {
	case n == nil, slot != anySlot && n.keys[slot] == 0:
		return true
	case n.kids == nil:
		return yield(first, n)
	}
	for i, kid := range n.kids {
		at := first | uint16(i)<<shift
		if at|(1<<shift-1) >= from && !kid.walk(at, shift-4, from, slot, yield) {
			return false
		}
	}
	return true
}

// change is the row that a bucket has from now on, nil for none.
type change struct {
	bucket uint16
	leaf   *node
}

// with returns the tree with these changes, in ascending order of buckets and one a bucket, each
// node of it hashed once. n is the root, and stays as it is.
func (n *node) with(changes []change) *node { return n.replace(changes, topShift) }

// replace returns n, a node of the level with this shift, with changes that all lie below it.
func (n *node) replace(changes []change, shift int) *node {
	if len(changes) == 0 {
		return n
	}
	if shift < 0 {
		return changes[0].leaf
	}
	kids := new([width]*node)
	if n != nil {
		*kids = *n.kids
	}
	for len(changes) > 0 {
		at, end := changes[0].bucket>>shift%width, 1
		for end < len(changes) && changes[end].bucket>>shift%width == at {
			end++
		}
		kids[at] = kids[at].replace(changes[:end], shift-4)
		changes = changes[end:]
	}
	return parent(kids)
}

// parent returns the node with these children.
func parent(kids *[width]*node) *node {
	n := &node{kids: kids}
	var values [width * sha256.Size]byte
	for i, kid := range kids {
		if kid == nil {
			continue
		}
		copy(values[i*sha256.Size:], kid.sum[:])
		n.rows += kid.rows
		n.keys[0] += kid.keys[0]
		n.keys[1] += kid.keys[1]
	}
	if n.buckets() == 0 {
		return nil
	}
	n.sum = sha256.Sum256(values[:])
	return n
}
