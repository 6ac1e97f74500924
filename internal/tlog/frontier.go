package tlog

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// MaxFrontier is the largest length of an encoded [Frontier] in bytes.
const MaxFrontier = 8 + 64*len(Hash{})

// ErrFrontier is returned by [Frontier.UnmarshalBinary] for bytes that [Frontier.AppendBinary]
// does not write.
var ErrFrontier = errors.New("tlog: not an encoded frontier")

// Frontier is a tree reduced to what appending needs: the roots of the perfect subtrees that
// its leaves fill, at most one of each height. The zero value is the empty tree. It is a value:
// a copy is a snapshot. It is for one goroutine at a time.
type Frontier struct {
	size  uint64
	nodes [64]Hash // nodes[k] is meaningful where bit k of size is set: the subtree of 2^k leaves that belongs there
}

// Append adds a leaf by its hash. It does not allocate; on average it makes one node hash.
func (f *Frontier) Append(leaf Hash) {
	k := bits.TrailingZeros64(^f.size)
	for i := range k {
		leaf = NodeHash(f.nodes[i], leaf)
	}
	f.nodes[k] = leaf
	f.size++
}

// Size returns the number of leaves.
func (f *Frontier) Size() uint64 { return f.size }

// Root returns the tree's root (RFC 6962 §2.1), [EmptyRoot] without leaves. It does not
// allocate.
func (f *Frontier) Root() Hash {
	if f.size == 0 {
		return EmptyRoot
	}
	rest := f.size
	root := f.nodes[bits.TrailingZeros64(rest)]
	for rest &= rest - 1; rest != 0; rest &= rest - 1 {
		root = NodeHash(f.nodes[bits.TrailingZeros64(rest)], root)
	}
	return root
}

// Subtree returns the root of the perfect subtree of 2^level leaves that ends the tree's part
// filled by subtrees of that height or more, and whether the frontier holds one: whether bit
// level of the size is set.
func (f *Frontier) Subtree(level int) (Hash, bool) {
	if level < 0 || level > 63 || f.size>>level&1 == 0 {
		return Hash{}, false
	}
	return f.nodes[level], true
}

// Equal reports whether both hold the same subtrees, and so are the same tree.
func (f *Frontier) Equal(o *Frontier) bool {
	for rest := f.size; rest != 0; rest &= rest - 1 {
		if k := bits.TrailingZeros64(rest); f.nodes[k] != o.nodes[k] {
			return false
		}
	}
	return f.size == o.size
}

// AppendBinary appends the size as 8 bytes, big-endian, and then the subtree roots, largest
// subtree first: 8 + 32 n bytes for a size with n bits set. The error is always nil.
func (f *Frontier) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint64(dst, f.size)
	for k := 63; k >= 0; k-- {
		if f.size>>k&1 == 1 {
			dst = append(dst, f.nodes[k][:]...)
		}
	}
	return dst, nil
}

// MarshalBinary returns what [Frontier.AppendBinary] appends.
func (f *Frontier) MarshalBinary() ([]byte, error) { return f.AppendBinary(nil) }

// UnmarshalBinary reads what [Frontier.AppendBinary] wrote, with nothing behind it. It returns
// [ErrFrontier].
func (f *Frontier) UnmarshalBinary(b []byte) error {
	if len(b) < 8 {
		return ErrFrontier
	}
	size := binary.BigEndian.Uint64(b)
	if b = b[8:]; len(b) != bits.OnesCount64(size)*len(Hash{}) {
		return ErrFrontier
	}
	*f = Frontier{size: size}
	for k := 63; k >= 0; k-- {
		if size>>k&1 == 1 {
			b = b[copy(f.nodes[k][:], b):]
		}
	}
	return nil
}
