package audit

import (
	"context"

	"github.com/keyrack/keyrack/internal/tlog"
)

// Consistency proves that the tree of the first older records is a prefix of that of the first
// newer ones; newer must be durable. The hashes are those of RFC 6962 §2.1.2, for
// [tlog.VerifyConsistency]. Proofs are made one at a time, in bounded memory; one reads a few
// segments where no proof lately touched the same records. Errors are the context's, those of
// Files, or wrap [tlog.ErrRange] or [ErrDamaged].
func (l *Log) Consistency(ctx context.Context, older, newer Position) ([]tlog.Hash, error) {
	return l.prove(ctx, newer, func(node tlog.NodeFunc) ([]tlog.Hash, error) {
		return tlog.ProveConsistency(uint64(older), uint64(newer), node)
	})
}

// Inclusion proves that the record numbered index, from 0, is among the first size ones, which
// must be durable. The hashes are those of RFC 6962 §2.1.1, for [tlog.VerifyInclusion].
// Otherwise it is as [Log.Consistency].
func (l *Log) Inclusion(ctx context.Context, index, size Position) ([]tlog.Hash, error) {
	return l.prove(ctx, size, func(node tlog.NodeFunc) ([]tlog.Hash, error) {
		return tlog.ProveInclusion(uint64(index), uint64(size), node)
	})
}

// prove makes one proof when its turn comes.
func (l *Log) prove(ctx context.Context, size Position, f func(tlog.NodeFunc) ([]tlog.Hash, error)) ([]tlog.Hash, error) {
	if size > l.Durable() {
		return nil, tlog.ErrRange
	}
	select {
	case l.proof.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.proof.turn }()
	s := source{log: l, ctx: ctx, end: size, cursor: cursor{log: l}}
	defer s.cursor.close()
	return f(s.node)
}

const (
	tileLevel = 8 // a tile is a perfect subtree of 256 records
	tileSize  = 1 << tileLevel
	keepTiles = 16 // segments whose tiles stay in memory: at the usual sizes below 1 MB in all
)

// Where the hashes of a proof come from. A node that is the left child of its parent stands in
// the header of each segment that begins in the range of its sibling: that costs one read of 4
// KiB, however many records are below it. A right child is taken apart, until its parts are
// smaller than a segment; these come from tiles, which are made by reading the segment once and
// kept.

// proofs is what was learned while making proofs. Only the proof whose turn it is touches it.
type proofs struct {
	turn chan struct{} // capacity one: held by the proof under way
	kept []*tiles      // the last used in front
}

// tiles are the whole tiles that begin in one segment.
type tiles struct {
	segment uint64
	first   uint64 // number of the first tile
	tiles   []tile
	resume  mark // of the record behind the last tile
}

// tile is one of them.
type tile struct {
	root  tlog.Hash
	begin mark // batch of its first record
}

// of returns the tiles of a segment, known so far or not, and forgets those that were used
// least lately.
func (p *proofs) of(segment uint64, first Position) *tiles {
	for i, t := range p.kept {
		if t.segment == segment {
			copy(p.kept[1:i+1], p.kept[:i])
			p.kept[0] = t
			return t
		}
	}
	t := &tiles{segment: segment, first: (uint64(first) + tileSize - 1) / tileSize, resume: mark{segment: segment, at: headerBytes, first: first}}
	p.kept = append([]*tiles{t}, p.kept[:min(len(p.kept), keepTiles-1)]...)
	return t
}

// source finds the nodes of one proof.
type source struct {
	log    *Log
	ctx    context.Context
	end    Position // records that the proof may look at
	cursor cursor
	leaves []tlog.Hash // of the tile read last
	number uint64      // of that tile
}

// node is a [tlog.NodeFunc].
func (s *source) node(level int, i uint64) (tlog.Hash, error) {
	switch {
	case level < tileLevel:
		return s.within(level, i)
	case level == tileLevel:
		return s.tile(i)
	case i%2 == 0:
		if h, ok, err := s.header(level, i); ok || err != nil {
			return h, err
		}
	}
	left, err := s.node(level-1, 2*i)
	if err != nil {
		return left, err
	}
	right, err := s.node(level-1, 2*i+1)
	return tlog.NodeHash(left, right), err
}

// header looks for a segment in whose header the node stands: i is even, and the segment begins
// in the range of its sibling. A segment without durable records may yet be begun anew, and
// does not count.
func (s *source) header(level int, i uint64) (h tlog.Hash, ok bool, err error) {
	end := Position(i+1) << level
	number, first, ok := s.log.index.from(end)
	if !ok || first >= end+1<<level || first >= s.end {
		return h, false, nil
	}
	f, header, err := openSegment(s.log.cfg.Files, number, ReadOnly)
	if err != nil {
		return h, false, err
	}
	f.Close()
	if header == nil {
		return h, false, damageAt(number, first, "header is damaged")
	}
	h, ok = header.tree.Subtree(level)
	return h, ok, nil
}

// tile returns the root of a whole tile.
func (s *source) tile(i uint64) (tlog.Hash, error) {
	t, err := s.tilesWith(i)
	if err != nil {
		return tlog.Hash{}, err
	}
	return t.tiles[i-t.first].root, nil
}

// tilesWith returns the tiles of the segment in which a tile begins, with that one if it is
// whole.
func (s *source) tilesWith(i uint64) (*tiles, error) {
	segment := s.log.index.find(Position(i * tileSize))
	t := s.log.proof.of(segment, s.log.index.first(segment))
	for n := t.first + uint64(len(t.tiles)); n <= i && Position(n+1)*tileSize <= s.end; n++ {
		if err := s.extend(t, Position(n)*tileSize); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// extend reads one more tile.
func (s *source) extend(t *tiles, next Position) error {
	begin, err := s.read(t.resume, next, tileSize)
	if err != nil {
		return err
	}
	var tree tlog.Frontier
	for _, leaf := range s.leaves {
		tree.Append(leaf)
	}
	t.tiles = append(t.tiles, tile{tree.Root(), begin})
	t.resume = s.cursor.mark()
	return nil
}

// read puts the leaves of n records from p on into s.leaves, and returns the batch of the
// first.
func (s *source) read(from mark, p Position, n int) (begin mark, err error) {
	if err := s.ctx.Err(); err != nil {
		return begin, err
	}
	s.leaves, s.number = s.leaves[:0], uint64(p)/tileSize
	if s.cursor.r == nil || s.cursor.pos != p {
		if err := s.cursor.resume(from, p); err != nil {
			return begin, err
		}
	}
	begin = s.cursor.mark()
	for range n {
		record, err := s.cursor.record()
		if err != nil {
			s.leaves = s.leaves[:0]
			return begin, err
		}
		s.leaves = append(s.leaves, tlog.LeafHash(record))
	}
	return begin, nil
}

// within returns a node inside a tile, which need not be whole.
func (s *source) within(level int, i uint64) (h tlog.Hash, err error) {
	number := i >> (tileLevel - level)
	if len(s.leaves) == 0 || s.number != number {
		if err := s.readTile(number); err != nil {
			return h, err
		}
	}
	var tree tlog.Frontier
	at := i << level % tileSize
	for _, leaf := range s.leaves[at : at+1<<level] {
		tree.Append(leaf)
	}
	return tree.Root(), nil
}

// readTile reads the leaves of a tile as far as the proof may look.
func (s *source) readTile(number uint64) error {
	t, err := s.tilesWith(number)
	if err != nil {
		return err
	}
	from, p := t.resume, Position(number*tileSize)
	if number-t.first < uint64(len(t.tiles)) {
		from = t.tiles[number-t.first].begin
	}
	_, err = s.read(from, p, int(min(tileSize, s.end-p)))
	return err
}
