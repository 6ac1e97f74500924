// Package identity knows who may be calling: an immutable index of principals
// by the hash of their public key, behind one atomic pointer.
//
// Read first: [Principal]; [Directory], which is replaced as a whole; [Handle],
// what a connection holds: it asks the directory for every frame, so a removed
// or changed principal is gone with the next request of every open connection.
//
// It reads no store and no socket. Whoever owns the rows publishes snapshots.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/api"
)

// KeyHash is the SHA-256 of a public key's DER SubjectPublicKeyInfo (RFC 5280
// §4.1.2.7). A client is known by it alone: no CA, no name.
type KeyHash [32]byte

// HashOf returns the hash of a DER SubjectPublicKeyInfo.
func HashOf(spki []byte) KeyHash { return sha256.Sum256(spki) }

// String returns "sha256:" and 64 lower-case hex digits.
func (h KeyHash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// ParseKeyHash parses what String returns.
func ParseKeyHash(s string) (KeyHash, error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(KeyHash{}) || strings.ToLower(digits) != digits {
		return KeyHash{}, fmt.Errorf("key hash %q is not sha256: and 64 lower-case hex digits", s)
	}
	return KeyHash(b), nil
}

// Type is what kind of principal it is.
type Type uint8

// The types. The operator is whoever reaches the local Unix socket as root or
// as the service's own user: it belongs to no account.
const (
	Root Type = iota + 1
	Operator
)

// Principal is who calls. Immutable once published: a change is a new Principal.
type Principal struct {
	ARN        string
	Type       Type
	Account    api.AccountID // zero for the operator
	Credential KeyHash       // zero where the kernel vouches (SO_PEERCRED)

	account string // Account as text, for audit records; set when published
}

// AccountText returns the digits of the account, "" for the operator.
func (p *Principal) AccountText() string { return p.account }

// Directory is the index of principals. The zero value is empty and ready.
// Safe for concurrent use.
type Directory struct {
	snapshot atomic.Pointer[map[KeyHash]*Principal]
}

// Publish replaces the index by copies of all, keyed by their credentials. From its
// return on, no new frame is served for a principal that is not in it.
func (d *Directory) Publish(all []*Principal) {
	index := make(map[KeyHash]*Principal, len(all))
	for _, p := range all {
		own := *p
		own.account = p.Account.String()
		index[p.Credential] = &own
	}
	d.snapshot.Store(&index)
}

// Len returns how many principals there are.
func (d *Directory) Len() int {
	if index := d.snapshot.Load(); index != nil {
		return len(*index)
	}
	return 0
}

// Handle returns a connection's hold on the principal with the key, until a
// certificate's end; the zero time is no end. The principal need not exist, now
// or later.
func (d *Directory) Handle(h KeyHash, until time.Time) Handle {
	return Handle{dir: d, hash: h, until: until}
}

// Always returns a handle on p that no directory can take away: the operator.
func Always(p *Principal) Handle {
	own := *p
	own.account = p.Account.String()
	return Handle{fixed: &own, hash: p.Credential}
}

// Handle is a connection's hold on a principal. It is a value, for one
// goroutine at a time; copies are independent.
type Handle struct {
	dir   *Directory
	fixed *Principal
	hash  KeyHash
	until time.Time
	seen  *map[KeyHash]*Principal
	last  *Principal
}

// Hash returns the key hash the connection was made with.
func (h *Handle) Hash() KeyHash { return h.hash }

// Principal returns who the connection belongs to at a time, or nil if nobody
// any more. One atomic load while the directory is unchanged.
func (h *Handle) Principal(now time.Time) *Principal {
	if h.fixed != nil || h.dir == nil {
		return h.fixed
	}
	if !h.until.IsZero() && now.After(h.until) {
		return nil
	}
	if now := h.dir.snapshot.Load(); now != h.seen {
		h.seen, h.last = now, nil
		if now != nil {
			h.last = (*now)[h.hash]
		}
	}
	return h.last
}
