package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	knownContexts = 4   // contexts whose commitment a message key remembers
	longestKnown  = 256 // bytes of the longest context it remembers
	seenContexts  = 8   // fingerprints of contexts that were seen once
	fewMisses     = 2   // a context that comes again and again misses twice
)

// contextSeed makes fingerprints that no caller can predict.
var contextSeed = maphash.MakeSeed()

// committer makes the additional data of messages: header ‖ commitment ‖ context. It remembers the first few contexts that
// come twice and never forgets one: a message key lives a minute, callers mostly use either one context or a new one
// every time, and so the cache is bounded, cannot be made to thrash, and is read without a lock.
type committer struct {
	header [messageHeaderSize]byte
	key    [sha256.Size]byte                     // Kc
	known  [knownContexts]atomic.Pointer[[]byte] // additional data; filled in order, under mu

	mu     sync.Mutex // guards all below; held for one HMAC
	misses int        // contexts that were not known, counted up to fewMisses
	kept   hash.Hash  // HMAC-SHA-256 under Kc with its states kept; nil until contexts prove to differ
	seen   [seenContexts]uint64
}

// aad returns header ‖ commitment ‖ context, in scratch when the context is not remembered. The result is read-only.
func (c *committer) aad(scratch, context []byte) []byte {
	if aad := c.find(context); aad != nil {
		return aad
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if aad := c.find(context); aad != nil {
		return aad // another goroutine was faster
	}
	aad := append(scratch[:0], c.header[:]...)
	aad = append(c.commit(aad, context), context...)
	c.remember(aad, context)
	return aad
}

// commit appends the commitment to context. Most keys serve one message or one context: only one that has met several
// gets a kept state, which halves the time of each further one. The caller holds mu.
func (c *committer) commit(dst, context []byte) []byte {
	if c.misses < fewMisses {
		c.misses++
		return MAC(dst, c.key[:], context)
	}
	if c.kept == nil {
		securemem.Do(func() {
			c.kept = hmac.New(sha256.New, c.key[:])
			// The first Reset stores the states after ipad and opad (FIPS 198-1, section 6), later ones restore them: it
			// must happen here, where what it allocates will be erased.
			c.kept.Reset()
		})
	}
	c.kept.Reset()
	c.kept.Write(context)
	return c.kept.Sum(dst)
}

// find returns the remembered additional data for context. Contexts are no secrets: they are compared plainly.
func (c *committer) find(context []byte) []byte {
	for i := range c.known {
		known := c.known[i].Load()
		if known == nil {
			return nil
		}
		if string((*known)[messagePrefixSize:]) == string(context) {
			return *known
		}
	}
	return nil
}

// remember keeps a copy of aad when its context comes for the second time and there is room. The caller holds mu.
func (c *committer) remember(aad, context []byte) {
	if len(context) > longestKnown || c.known[knownContexts-1].Load() != nil {
		return
	}
	mark := maphash.Bytes(contextSeed, context)
	once := &c.seen[mark%seenContexts]
	if *once != mark {
		*once = mark
		return
	}
	kept := append(make([]byte, 0, len(aad)), aad...)
	for i := range c.known {
		if c.known[i].CompareAndSwap(nil, &kept) {
			return
		}
	}
}
