package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// packed keeps keys twenty times smaller than a snapshot and off the Go heap, so that
// an appliance with more keys than snapshots does not ask its store for each use: opening one costs a
// fraction of two proven reads. What is kept of a key: packedkey.go. They are sealed with AES-256-GCM under a key of this process, so that
// material in clear is only ever in locked memory. Safe for concurrent use.
type packed struct {
	aead      cipher.AEAD
	sealed    atomic.Uint64 // how many were sealed: the nonce of the last
	delivered atomic.Uint64 // revision up to which all changes have been dropped
	shards    [packedShards]packedShard
}

// A slot holds one key:
//
//	id 16 ‖ nonce 8 ‖ length 1 ‖ ciphertext ‖ tag 16
//
// The plaintext is what pack is given, the additional data the id. A length of 0 is a free slot.
const (
	packedShards = 16
	packedSlot   = 128
	packedHead   = len(api.KeyID{}) + 8 + 1
	packedMost   = packedSlot - packedHead - 16 // bytes of a plaintext
)

// packedShard holds the keys of one part of the ids: a table of open addressing over slots. When all
// are taken, the next key takes the place of one that was not used since the hand last passed.
type packedShard struct {
	mu      sync.Mutex
	slots   int               // at most
	memory  []byte            // slots; nil before the first key
	table   []uint32          // number of a slot + 1, by hash and linear probing; 0 = free
	used    []bool            // by slot: used since the hand last passed
	room    *securemem.Buffer // for one plaintext
	nonce   [12]byte          // the one in use: 8 bytes of a slot, and zeros
	hand    int
	changed keystore.Revision // of the newest change delivered
	closed  bool
}

// newPacked returns room for most keys, which takes memory as it is filled.
func newPacked(most int) (*packed, error) {
	p := new(packed)
	if err := p.key(); err != nil {
		return nil, err
	}
	for i := range p.shards {
		p.shards[i].slots = max(1, most/packedShards)
	}
	return p, nil
}

// begin makes room for the first key.
func (s *packedShard) begin() (err error) {
	size := 2
	for size < 2*s.slots {
		size *= 2
	}
	if s.room, err = securemem.New(packedMost); err != nil {
		return err
	}
	if s.memory, err = securemem.Pages(s.slots * packedSlot); err != nil {
		s.room.Free()
		return err
	}
	s.table, s.used = make([]uint32, size), make([]bool, s.slots)
	return nil
}

// key draws the key of this process.
func (p *packed) key() (err error) {
	var key [32]byte
	rand.Read(key[:])
	securemem.Do(func() {
		var block cipher.Block
		if block, err = aes.NewCipher(key[:]); err == nil {
			p.aead, err = cipher.NewGCM(block)
		}
		securemem.Wipe(key[:])
	})
	return err
}

func (p *packed) shard(id api.KeyID) *packedShard { return &p.shards[id[0]%packedShards] }

// open calls f with the plaintext of a key, which is wiped when f returns, and reports whether
// there is one. seen is a revision that the plaintext is not older than.
func (p *packed) open(id api.KeyID, f func(plaintext []byte)) (seen keystore.Revision, ok bool) {
	seen = keystore.Revision(p.delivered.Load())
	s := p.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.find(id)
	if !ok {
		return 0, false
	}
	slot := s.slot(at)
	s.used[at] = true
	copy(s.nonce[:8], slot[16:])
	end := min(packedHead+int(slot[packedHead-1]), packedSlot)
	plaintext, err := p.aead.Open(s.room.Bytes()[:0], s.nonce[:], slot[packedHead:end], slot[:16])
	if err != nil { // a bit has flipped: the store has the key, too
		s.remove(id)
		return 0, false
	}
	f(plaintext)
	securemem.Wipe(plaintext)
	return seen, true
}

// put keeps a plaintext that was read at revision seen, unless a change was delivered after that, or it
// is too long. fill writes it to the room it is given, and returns its length.
func (p *packed) put(id api.KeyID, seen keystore.Revision, fill func(room []byte) int) {
	s := p.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.changed > seen || s.memory == nil && s.begin() != nil {
		return
	}
	n := fill(s.room.Bytes())
	defer securemem.Wipe(s.room.Bytes())
	if n == 0 {
		return
	}
	s.remove(id)
	slot := s.slot(s.take(id))
	copy(slot, id[:])
	binary.BigEndian.PutUint64(s.nonce[:], p.sealed.Add(1))
	copy(slot[16:], s.nonce[:8])
	slot[packedHead-1] = byte(len(p.aead.Seal(slot[packedHead:packedHead:packedSlot], s.nonce[:], s.room.Bytes()[:n], slot[:16])))
}

// drop forgets a key because of a change at a revision.
func (p *packed) drop(id api.KeyID, at keystore.Revision) {
	s := p.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
	s.changed = max(s.changed, at)
}

// close forgets everything, for good: changes are no longer heard of.
func (p *packed) close() {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		s.closed = true
		if s.memory != nil {
			s.room.Free()
			securemem.FreePages(s.memory)
			s.memory, s.table = nil, nil
		}
		s.mu.Unlock()
	}
}

func (s *packedShard) slot(at int) []byte { return s.memory[at*packedSlot : (at+1)*packedSlot] }

// home returns where in the table the search for an id begins. Ids are random, and the first byte is the shard's.
func (s *packedShard) home(id []byte) int {
	return int(binary.LittleEndian.Uint32(id[1:])) & (len(s.table) - 1)
}

// place returns the entry of the table that is of an id, or the free one where it would stand.
func (s *packedShard) place(id []byte) int {
	i := s.home(id)
	for s.table[i] != 0 && string(s.slot(int(s.table[i]) - 1)[:16]) != string(id) {
		i = (i + 1) & (len(s.table) - 1)
	}
	return i
}

// find returns the slot of a key.
func (s *packedShard) find(id api.KeyID) (at int, ok bool) {
	if s.memory == nil {
		return 0, false
	}
	entry := s.table[s.place(id[:])]
	return int(entry) - 1, entry != 0
}

// take gives a slot to a key that has none.
func (s *packedShard) take(id api.KeyID) int {
	at := s.hand
	for ; s.used[at]; at = (at + 1) % len(s.used) {
		s.used[at] = false
	}
	s.hand = (at + 1) % len(s.used)
	if slot := s.slot(at); slot[packedHead-1] != 0 {
		s.remove(api.KeyID(slot[:16]))
	}
	s.table[s.place(id[:])] = uint32(at + 1)
	return at
}

// remove takes a key out of the table, wipes its slot, since what is destroyed must not stand there beside the key that it is
// sealed with, and closes the gap for those whose search passes it (Knuth, The Art of Computer Programming, volume 3, section
// 6.4, algorithm R).
func (s *packedShard) remove(id api.KeyID) {
	if _, ok := s.find(id); !ok {
		return
	}
	gap := s.place(id[:])
	clear(s.slot(int(s.table[gap]) - 1))
	mask := len(s.table) - 1
	s.table[gap] = 0
	for i := (gap + 1) & mask; s.table[i] != 0; i = (i + 1) & mask {
		home := s.home(s.slot(int(s.table[i]) - 1)[:16])
		if (i-home)&mask >= (i-gap)&mask {
			s.table[gap], s.table[i] = s.table[i], 0
			gap = i
		}
	}
}
