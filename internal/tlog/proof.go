package tlog

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrProof is returned by [VerifyInclusion] and [VerifyConsistency] for a proof that proves
// something else or nothing.
var ErrProof = errors.New("tlog: proof does not hold")

// ErrRange is wrapped by [ProveInclusion] and [ProveConsistency] when the sizes asked for are
// not in order.
var ErrRange = errors.New("tlog: out of range")

// NodeFunc returns the root of the perfect subtree over the 2^level leaves from index·2^level
// on. It is asked only for subtrees that lie wholly within the tree; its errors are passed on
// as they are.
type NodeFunc func(level int, index uint64) (Hash, error)

// ProveInclusion returns the audit path of the leaf at index, counted from 0, in the tree of
// the first size leaves, from the leaf's sibling up (RFC 6962 §2.1.1): at most 64 hashes. It
// asks node for at most two subtrees of each height.
func ProveInclusion(index, size uint64, node NodeFunc) ([]Hash, error) {
	if index >= size {
		return nil, fmt.Errorf("%w: leaf %d of %d", ErrRange, index, size)
	}
	p := prover{node: node}
	p.path(index, 0, size)
	return p.proof, p.err
}

// ProveConsistency returns the proof that the tree of the first older leaves is a prefix of the
// tree of the first newer ones (RFC 6962 §2.1.2). It is empty where nothing needs proof: older
// is 0 or equal to newer.
func ProveConsistency(older, newer uint64, node NodeFunc) ([]Hash, error) {
	if older > newer {
		return nil, fmt.Errorf("%w: tree of %d is not older than tree of %d", ErrRange, older, newer)
	}
	p := prover{node: node}
	if older > 0 && older < newer {
		p.subproof(older, 0, newer, true)
	}
	return p.proof, p.err
}

// prover collects a proof; after its first error it asks for nothing more.
type prover struct {
	node  NodeFunc
	proof []Hash
	err   error
}

// path is PATH(m, D[lo:hi]).
func (p *prover) path(m, lo, hi uint64) {
	if hi-lo == 1 {
		return
	}
	mid := lo + split(hi-lo)
	if m < mid {
		p.path(m, lo, mid)
		p.add(mid, hi)
	} else {
		p.path(m, mid, hi)
		p.add(lo, mid)
	}
}

// subproof is SUBPROOF(m, D[lo:hi], whole): whole means that D[lo:m] is all of the older tree,
// whose root the verifier has.
func (p *prover) subproof(m, lo, hi uint64, whole bool) {
	if m == hi {
		if !whole {
			p.add(lo, hi)
		}
		return
	}
	mid := lo + split(hi-lo)
	if m <= mid {
		p.subproof(m, lo, mid, whole)
		p.add(mid, hi)
	} else {
		p.subproof(m, mid, hi, false)
		p.add(lo, mid)
	}
}

func (p *prover) add(lo, hi uint64) { p.proof = append(p.proof, p.hash(lo, hi)) }

// hash is MTH(D[lo:hi]). The ranges of a proof begin at a multiple of the largest power of two
// in their length.
func (p *prover) hash(lo, hi uint64) Hash {
	if p.err != nil {
		return Hash{}
	}
	if n := hi - lo; n&(n-1) == 0 {
		level := bits.TrailingZeros64(n)
		h, err := p.node(level, lo>>level)
		p.err = err
		return h
	}
	mid := lo + split(hi-lo)
	left := p.hash(lo, mid)
	return NodeHash(left, p.hash(mid, hi))
}

// split returns the largest power of two below n, for n > 1 (RFC 6962 §2.1).
func split(n uint64) uint64 { return 1 << (bits.Len64(n-1) - 1) }

// VerifyInclusion checks that leaf, a leaf hash, stands at index in the tree of size leaves
// with that root (RFC 9162 §2.1.3.2). It returns nil or [ErrProof].
func VerifyInclusion(index, size uint64, leaf Hash, proof []Hash, root Hash) error {
	if index >= size {
		return ErrProof
	}
	at, last, h := index, size-1, leaf
	for _, p := range proof {
		if last == 0 {
			return ErrProof
		}
		if at&1 == 1 || at == last {
			h = NodeHash(p, h)
			at, last = climb(at, last)
		} else {
			h = NodeHash(h, p)
		}
		at, last = at>>1, last>>1
	}
	if last != 0 || h != root {
		return ErrProof
	}
	return nil
}

// climb passes over the levels on which the node has no sibling.
func climb(at, last uint64) (uint64, uint64) {
	if at&1 == 1 || at == 0 {
		return at, last
	}
	up := bits.TrailingZeros64(at)
	return at >> up, last >> up
}

// VerifyConsistency checks that the tree of the older size and root is a prefix of the tree of
// the newer (RFC 9162 §2.1.4.2). An older size of 0 goes with [EmptyRoot] and an empty proof.
// It returns nil or [ErrProof].
func VerifyConsistency(older, newer uint64, olderRoot, newerRoot Hash, proof []Hash) error {
	switch {
	case older > newer:
		return ErrProof
	case older == 0 || older == newer:
		return verifyTrivial(older, olderRoot, newerRoot, proof)
	}
	if older&(older-1) == 0 { // the older root is itself the first node
		proof = append([]Hash{olderRoot}, proof...)
	}
	if len(proof) == 0 {
		return ErrProof
	}
	shift := bits.TrailingZeros64(^(older - 1))
	at, last := (older-1)>>shift, (newer-1)>>shift
	was, is := proof[0], proof[0]
	for _, p := range proof[1:] {
		if last == 0 {
			return ErrProof
		}
		if at&1 == 1 || at == last {
			was, is = NodeHash(p, was), NodeHash(p, is)
			at, last = climb(at, last)
		} else {
			is = NodeHash(is, p)
		}
		at, last = at>>1, last>>1
	}
	if last != 0 || was != olderRoot || is != newerRoot {
		return ErrProof
	}
	return nil
}

func verifyTrivial(older uint64, olderRoot, newerRoot Hash, proof []Hash) error {
	switch {
	case len(proof) != 0:
		return ErrProof
	case older == 0 && olderRoot != EmptyRoot:
		return ErrProof
	case older != 0 && olderRoot != newerRoot:
		return ErrProof
	}
	return nil
}
