package kms

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// cache keeps snapshots of keys. Only the store's watch takes them out, before
// the change's own Update returns; eviction is the other way. Safe for
// concurrent use.
type cache struct {
	shards  [16]shard
	budgets sync.Map // api.AccountID -> *atomic.Int64, see keptKeys
}

// shard is a part of the cache, evicted by the CLOCK algorithm.
type shard struct {
	mu      sync.RWMutex
	keys    map[api.KeyID]*key // guarded by mu; nil for a key that was dropped and not read again
	ring    []api.KeyID        // guarded by mu; the ids in keys
	hand    int
	most    int
	changed keystore.Revision // guarded by mu; of the newest change delivered
	closed  bool              // guarded by mu
}

func newCache(most int) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].keys, c.shards[i].most = map[api.KeyID]*key{}, most/len(c.shards)
	}
	return c
}

// shard spreads by a byte of the id, which is random.
func (c *cache) shard(id api.KeyID) *shard { return &c.shards[int(id[15])%len(c.shards)] }

func (c *cache) get(id api.KeyID) *key {
	s := c.shard(id)
	s.mu.RLock()
	k := s.keys[id]
	s.mu.RUnlock()
	if k != nil && !k.referred.Load() {
		k.referred.Store(true)
	}
	return k
}

// put keeps k, read at revision seen, unless a change was delivered after that:
// then k may be old already.
func (c *cache) put(k *key, seen keystore.Revision) {
	s := c.shard(k.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.changed > seen {
		return
	}
	if _, known := s.keys[k.id]; !known {
		s.makeRoom()
		s.ring = append(s.ring, k.id)
	}
	s.keys[k.id] = k
}

// makeRoom evicts keys that were not used since the hand last passed, until
// one more fits.
func (s *shard) makeRoom() {
	for len(s.ring) >= s.most {
		s.hand %= len(s.ring)
		id := s.ring[s.hand]
		if k := s.keys[id]; k != nil && k.referred.Swap(false) {
			s.hand++
			continue
		}
		delete(s.keys, id)
		last := len(s.ring) - 1
		s.ring[s.hand] = s.ring[last]
		s.ring = s.ring[:last]
	}
}

// drop forgets a key because of a change at a revision.
func (c *cache) drop(id api.KeyID, at keystore.Revision) {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[id] != nil {
		s.keys[id] = nil
	}
	s.changed = max(s.changed, at)
}

// forget drops the snapshot k, if it is still the one.
func (c *cache) forget(k *key) {
	s := c.shard(k.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[k.id] == k {
		s.keys[k.id] = nil
	}
}

// shed forgets every key that was not used since the hand last passed, and at
// least half of all.
func (c *cache) shed() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		most := s.most
		s.most = len(s.ring)/2 + 1
		s.makeRoom()
		s.most = most
		s.mu.Unlock()
	}
}

// close forgets everything, for good: changes are no longer heard of.
func (c *cache) close() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.closed = true
		clear(s.keys)
		s.ring = nil
		s.mu.Unlock()
	}
}

// expire lets go of message keys whose life is over.
func (c *cache) expire(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		for _, k := range s.keys {
			if k != nil {
				k.current.expire(now)
			}
		}
		s.mu.RUnlock()
	}
}

// budget returns how many message keys of old messages an account may still keep.
func (c *cache) budget(a api.AccountID) *atomic.Int64 {
	b, ok := c.budgets.Load(a)
	if !ok {
		fresh := new(atomic.Int64)
		fresh.Store(api.OpenKeysPerAccount)
		b, _ = c.budgets.LoadOrStore(a, fresh)
	}
	return b.(*atomic.Int64)
}
