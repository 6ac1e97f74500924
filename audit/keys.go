package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Kinds of the MAC keys' derivations: the first byte of the KDF's context under
// [seal.LabelAudit]. Start keys have the 32-byte nonce as context, so no two kinds share an
// input.
const (
	deriveSegment = 1 // the next segment's key from this one's
	deriveFirst   = 2 // a segment's first batch key from the segment's key
	deriveNext    = 3 // a batch key from the one before
)

const keyBytes = 32

// macChain is the forward-secure key of the batches' MACs. Each key is wiped once its successor
// is made, so a thief of the process's memory can forge no batch written before. Segments have
// keys of their own in the chain, so that a reader need not walk all batches since the start. A
// nil chain makes no MACs. Not safe for concurrent use; its owner frees it.
type macChain struct {
	keys *securemem.Buffer // segment key ‖ batch key ‖ scratch
	hmac [sha256.Size]byte
}

// newMACChain takes the start key of the segment from over, and frees it.
func newMACChain(start *securemem.Buffer) (*macChain, error) {
	defer start.Free()
	if start.Len() != keyBytes {
		return nil, fmt.Errorf("audit: start key of %d bytes, want %d", start.Len(), keyBytes)
	}
	keys, err := securemem.New(3 * keyBytes)
	if err != nil {
		return nil, err
	}
	copy(keys.Bytes(), start.Bytes())
	return &macChain{keys: keys}, nil
}

// startChain asks for the key that belongs to a nonce. A nil chain without an error means that
// there is none now.
func startChain(startKey func([32]byte) (*securemem.Buffer, error), nonce [32]byte) (*macChain, error) {
	if startKey == nil {
		return nil, nil
	}
	key, err := startKey(nonce)
	switch {
	case errors.Is(err, ErrLocked):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("audit: start key: %w", err)
	}
	return newMACChain(key)
}

// segment and batch are the two keys, in place.
func (c *macChain) segment() []byte { return c.keys.Bytes()[:keyBytes] }
func (c *macChain) batch() []byte   { return c.keys.Bytes()[keyBytes : 2*keyBytes] }

// derive puts the key of that kind and number, made from key from, over key to.
func (c *macChain) derive(to, from []byte, kind byte, number uint64) {
	var context [9]byte
	context[0] = kind
	binary.BigEndian.PutUint64(context[1:], number)
	scratch := c.keys.Bytes()[2*keyBytes:]
	seal.KDF(scratch, from, seal.LabelAudit, context[:])
	copy(to, scratch)
	securemem.Wipe(scratch)
}

// enter begins a segment: its first batch key replaces the last segment's, and the key of the
// next segment its own.
func (c *macChain) enter(number uint64) {
	if c != nil {
		c.derive(c.batch(), c.segment(), deriveFirst, number)
		c.derive(c.segment(), c.segment(), deriveSegment, number+1)
	}
}

// skip passes over a whole segment.
func (c *macChain) skip(number uint64) {
	if c != nil {
		c.derive(c.segment(), c.segment(), deriveSegment, number+1)
	}
}

// mac returns HMAC-SHA-256 of what a batch's MAC covers, and steps on to the key of the next
// batch. number is the batch's.
func (c *macChain) mac(covered []byte, number uint64) [sha256.Size]byte {
	seal.MAC(c.hmac[:0], c.batch(), covered)
	c.derive(c.batch(), c.batch(), deriveNext, number+1)
	return c.hmac
}

// free wipes the keys.
func (c *macChain) free() {
	if c != nil {
		c.keys.Free()
	}
}
