package kms

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// snapshot is what is kept in memory of rows: *key or *alias.
type snapshot interface {
	comparable
	referred() *atomic.Bool // used since the cache's hand last passed
	locked() int            // bytes of locked memory that it takes; always the same
}

// shard is a part of a cache, evicted by the CLOCK algorithm. Only the store's
// watch takes snapshots out, before the change's own Update returns; eviction is
// the other way. Safe for concurrent use.
type shard[K comparable, V snapshot] struct {
	mu      sync.RWMutex
	kept    map[K]V // guarded by mu; nil for one that was dropped and not read again
	ring    []K     // guarded by mu; the names in kept
	hand    int
	most    int
	room    int               // bytes of locked memory for all in kept
	taken   int               // guarded by mu; of them, by what is in kept
	changed keystore.Revision // guarded by mu; of the newest change delivered
	closed  bool              // guarded by mu
}

func (s *shard[K, V]) init(most, room int) {
	s.kept, s.most, s.room = map[K]V{}, max(1, most), room
}

// weight returns how many bytes of locked memory v takes, which may be none.
func weight[V snapshot](v V) int {
	var none V
	if v == none {
		return 0
	}
	return v.locked()
}

// use marks v as used, and returns it.
func use[V snapshot](v V) V {
	var none V
	if v != none && !v.referred().Load() {
		v.referred().Store(true)
	}
	return v
}

// put keeps v, read at revision seen, unless a change was delivered after that:
// then v may be old already.
func (s *shard[K, V]) put(name K, v V, seen keystore.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.changed > seen {
		return
	}
	more := 1
	if _, known := s.kept[name]; known {
		s.empty(name)
		more = 0
	}
	s.makeRoom(more, v.locked())
	if _, known := s.kept[name]; !known {
		s.ring = append(s.ring, name)
	}
	s.kept[name] = v
	s.taken += v.locked()
}

// empty forgets the snapshot of a name that stays in the ring.
func (s *shard[K, V]) empty(name K) {
	var none V
	s.taken -= weight(s.kept[name])
	s.kept[name] = none
}

// makeRoom evicts what was not used since the hand last passed, until so many names
// more fit, and a snapshot that takes so many bytes of locked memory. One is kept however
// much it takes.
func (s *shard[K, V]) makeRoom(more, bytes int) {
	var none V
	for len(s.ring)+more > s.most || len(s.ring) > 0 && s.taken+bytes > s.room {
		s.hand %= len(s.ring)
		name := s.ring[s.hand]
		if v := s.kept[name]; v != none && v.referred().Swap(false) {
			s.hand++
			continue
		}
		s.taken -= weight(s.kept[name])
		delete(s.kept, name)
		last := len(s.ring) - 1
		s.ring[s.hand] = s.ring[last]
		s.ring = s.ring[:last]
	}
}

// drop forgets a snapshot because of a change at a revision.
func (s *shard[K, V]) drop(name K, at keystore.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.kept[name]; known {
		s.empty(name)
	}
	s.changed = max(s.changed, at)
}

// forget drops the snapshot v, if it is still the one.
func (s *shard[K, V]) forget(name K, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept[name] == v {
		s.empty(name)
	}
}

// shed forgets everything that was not used since the hand last passed, and at
// least half of all.
func (s *shard[K, V]) shed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.most
	s.most = len(s.ring)/2 + 1
	s.makeRoom(1, 0)
	s.most = most
}

// close forgets everything, for good: changes are no longer heard of.
func (s *shard[K, V]) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	clear(s.kept)
	s.ring, s.taken = nil, 0
}

// account is what the keys of one account share.
type account struct {
	rules *policy.Rules // of a key that has no policy of its own
	left  atomic.Int64  // message keys of old messages that it may still keep, see keptKeys
}

// cache keeps snapshots of keys. Safe for concurrent use.
type cache struct {
	shards   [16]shard[api.KeyID, *key]
	accounts sync.Map // api.AccountID -> *account
}

// newCache returns a cache for most keys, whose secrets take no more than room bytes of
// locked memory.
func newCache(most, room int) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].init(most/len(c.shards), room/len(c.shards))
	}
	return c
}

// shard spreads by a byte of the id, which is random.
func (c *cache) shard(id api.KeyID) *shard[api.KeyID, *key] {
	return &c.shards[int(id[15])%len(c.shards)]
}

func (c *cache) get(id api.KeyID) *key {
	s := c.shard(id)
	s.mu.RLock()
	k := s.kept[id]
	s.mu.RUnlock()
	return use(k)
}

func (c *cache) put(k *key, seen keystore.Revision) { c.shard(k.id).put(k.id, k, seen) }

func (c *cache) drop(id api.KeyID, at keystore.Revision) { c.shard(id).drop(id, at) }

func (c *cache) forget(k *key) { c.shard(k.id).forget(k.id, k) }

func (c *cache) shed() {
	for i := range c.shards {
		c.shards[i].shed()
	}
}

func (c *cache) close() {
	for i := range c.shards {
		c.shards[i].close()
	}
}

// expire lets go of message keys whose life is over.
func (c *cache) expire(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		for _, k := range s.kept {
			if k != nil {
				k.expire(now)
			}
		}
		s.mu.RUnlock()
	}
}

// account returns what the keys of an account share.
func (c *cache) account(id api.AccountID) *account {
	a, ok := c.accounts.Load(id)
	if !ok {
		fresh := &account{rules: policy.AccountRoot(id)}
		fresh.left.Store(api.OpenKeysPerAccount)
		a, _ = c.accounts.LoadOrStore(id, fresh)
	}
	return a.(*account)
}

// aliases keeps which key an alias names. Safe for concurrent use.
type aliases struct {
	seed   maphash.Seed
	shards [16]shard[aliasID, *alias]
}

func newAliases(most int) *aliases {
	c := &aliases{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].init(most/len(c.shards), 0) // they take none
	}
	return c
}

// get takes the name as bytes of the request: looking it up copies nothing.
func (c *aliases) get(account api.AccountID, name []byte) *alias {
	s := &c.shards[maphash.Bytes(c.seed, name)%uint64(len(c.shards))]
	s.mu.RLock()
	a := s.kept[aliasID{account, string(name)}]
	s.mu.RUnlock()
	return use(a)
}

func (c *aliases) shard(id aliasID) *shard[aliasID, *alias] {
	return &c.shards[maphash.String(c.seed, id.name)%uint64(len(c.shards))]
}

func (c *aliases) put(a *alias, seen keystore.Revision) { c.shard(a.id).put(a.id, a, seen) }

func (c *aliases) drop(id aliasID, at keystore.Revision) { c.shard(id).drop(id, at) }

func (c *aliases) close() {
	for i := range c.shards {
		c.shards[i].close()
	}
}
