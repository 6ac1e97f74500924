package tlog

import (
	"crypto/sha256"
	"encoding/base64"
)

// Hash is a SHA-256 Merkle tree hash.
type Hash [sha256.Size]byte

// EmptyRoot is the root of the tree without leaves: SHA-256 of nothing (RFC 6962 §2.1).
var EmptyRoot = Hash(sha256.Sum256(nil))

// Domain separation of RFC 6962 §2.1: without it a node could be passed off as a leaf.
const (
	leafPrefix = 0
	nodePrefix = 1
)

// LeafHash returns SHA-256(0x00 ‖ data), the hash of a leaf (RFC 6962 §2.1). It does not
// allocate.
func LeafHash(data []byte) (h Hash) {
	d := sha256.New()
	d.Write([]byte{leafPrefix})
	d.Write(data)
	d.Sum(h[:0])
	return h
}

// NodeHash returns SHA-256(0x01 ‖ left ‖ right), the hash of an inner node (RFC 6962 §2.1). It
// does not allocate.
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// String returns the hash in standard base64, as checkpoints write it.
func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }
