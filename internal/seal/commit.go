package seal

import (
	"hash"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	knownContexts = 4   // contexts whose commitment a message key remembers
	longestKnown  = 256 // bytes of the longest context it remembers
	seenContexts  = 8   // fingerprints of contexts that were seen once
)

// contextSeed makes fingerprints that no caller can predict.
var contextSeed = maphash.MakeSeed()

// committer makes the additional data of messages: header ‖ commitment ‖ context. It remembers the first few contexts that
// come twice and never forgets one: a message key lives a minute, callers mostly use either one context or a new one
// every time, and so the cache is bounded, cannot be made to thrash, and is read without a lock.
type committer struct {
	header [messageHeaderSize]byte
	known  [knownContexts]atomic.Pointer[[]byte] // additional data; filled in order, under mu

	mu   sync.Mutex // guards mac and seen; held for one HMAC
	mac  hash.Hash  // HMAC-SHA-256 under Kc
	seen [seenContexts]uint64
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
	c.mac.Reset()
	c.mac.Write(context)
	aad := append(scratch[:0], c.header[:]...)
	aad = append(c.mac.Sum(aad), context...)
	c.remember(aad, context)
	return aad
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
