package kms

import (
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Packed is the room for packed keys alone.
type Packed struct{ p *packed }

// NewPacked returns room for most keys.
func NewPacked(tb testing.TB, most int) Packed {
	tb.Helper()
	p, err := newPacked(most)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.close)
	return Packed{p}
}

// Put keeps a plaintext that was read at a revision.
func (p Packed) Put(id api.KeyID, seen keystore.Revision, plaintext []byte) {
	p.p.put(id, seen, func(room []byte) int { return copy(room, plaintext) })
}

// Get returns a copy of a plaintext.
func (p Packed) Get(id api.KeyID) (plaintext []byte, ok bool) {
	_, ok = p.p.open(id, func(b []byte) { plaintext = append([]byte{}, b...) })
	return plaintext, ok
}

// Drop forgets a key because of a change at a revision.
func (p Packed) Drop(id api.KeyID, at keystore.Revision) { p.p.drop(id, at) }

// Close forgets all.
func (p Packed) Close() { p.p.close() }

// Slot returns the slot that holds a key.
func (p Packed) Slot(tb testing.TB, id api.KeyID) []byte {
	tb.Helper()
	s := p.p.shard(id)
	at, ok := s.find(id)
	if !ok {
		tb.Fatalf("%s is not kept", id)
	}
	return s.slot(at)
}

// LongestPacked is the bytes of the longest plaintext, PackedSlot those of the slot that holds one.
const (
	LongestPacked = packedMost
	PackedSlot    = packedSlot
)

// KeyRow is the row of a key.
type KeyRow = keyRow

// Repack returns the row and account that come out of what is packed of a row; ok is false for one that is not packed.
func Repack(row KeyRow) (back KeyRow, account api.AccountID, ok bool) {
	if !row.packable() {
		return back, account, false
	}
	account, rest := back.cutPacked(row.appendPacked(nil))
	return back, account, len(rest) == 0
}

// IsPacked reports whether a key is kept packed by a service.
func IsPacked(s *Service, id api.KeyID) bool {
	p := s.packed.shard(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.find(id)
	return ok
}

// FlipPackedBit is a failpoint: it flips a bit of what is kept of a key, as a memory error would.
func FlipPackedBit(tb testing.TB, s *Service, id api.KeyID) {
	tb.Helper()
	Packed{s.packed}.Slot(tb, id)[packedHead] ^= 1
}

// PackFlipped is a failpoint: a bit of a key's secret flips once it was read and verified, before it is packed.
func PackFlipped(tb testing.TB, s *Service, id api.KeyID) {
	tb.Helper()
	k, err := s.load(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	k.current.secret.Bytes()[7] ^= 1
	s.pack(k, keystore.Revision(s.packed.delivered.Load()))
	k.current.secret.Bytes()[7] ^= 1
}

// ForgetSnapshots forgets all snapshots, so that the next use of a key unpacks or reads it.
func ForgetSnapshots(s *Service) {
	for i := range s.keys.shards {
		shard := &s.keys.shards[i]
		shard.mu.Lock()
		clear(shard.kept)
		shard.ring = nil
		shard.mu.Unlock()
	}
}
