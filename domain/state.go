package domain

import (
	"crypto/rand"
	"crypto/subtle"

	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// state is the rows of a domain, decoded. Lists are in ascending order of ids.
type state struct {
	table   table
	row     []byte // the table's
	slots   []*slot
	earlier []byte // row of the version before the table's, or nil
	retired []*retiredRoot
}

// rows returns all raw rows of s.
func (s *state) rows() map[keystore.Name][]byte {
	all := map[keystore.Name][]byte{tableName(): s.row}
	for _, slot := range s.slots {
		all[slotName(slot.id)] = slot.encode()
	}
	if s.earlier != nil {
		all[versionName(s.table.version-1)] = s.earlier
	}
	for _, r := range s.retired {
		all[retiredName(r.slot)] = r.encode()
	}
	return all
}

// keys is what an unlocked keyring holds: the rows of its domain, authenticated, and the domain key
// in one version or two. A change makes another one, which may share the buffers. Those are wiped
// by Lock and at the end of a version, so they are used under Keyring.mu.
type keys struct {
	state
	newest *securemem.Buffer // the table's version
	before *securemem.Buffer // the version before it while the table lists one, or nil
}

// newKey returns a random domain key.
func newKey() (*securemem.Buffer, error) {
	key, err := securemem.New(keySize)
	if err == nil {
		_, _ = rand.Read(key.Bytes()) // never fails: it ends the program rather than return an error
	}
	return key, err
}

// authenticate numbers the table, lists the other rows in it and makes its row.
func (h *keys) authenticate() (err error) {
	t := &h.table
	t.sequence++
	t.slots, t.earlier, t.retired = nil, nil, nil
	for _, s := range h.slots {
		t.slots = append(t.slots, entry{s.id, digest(s.encode())})
	}
	if h.earlier != nil {
		sum := digest(h.earlier)
		t.earlier = sum[:]
	}
	for _, r := range h.retired {
		t.retired = append(t.retired, entry{r.slot, digest(r.encode())})
	}
	h.row, err = t.seal(h.newest.Bytes())
	return err
}

// versions returns the versions held, the newest last.
func (h *keys) versions() []uint32 {
	if h.before != nil {
		return []uint32{h.table.version - 1, h.table.version}
	}
	return []uint32{h.table.version}
}

// key returns the domain key of this version, or nil.
func (h *keys) key(version uint32) *securemem.Buffer {
	switch {
	case version == h.table.version:
		return h.newest
	case version == h.table.version-1:
		return h.before
	}
	return nil
}

// same reports whether two of them hold the same domain keys. It takes as long wherever they
// differ.
func (h *keys) same(o *keys) bool {
	return sameKey(h.newest, o.newest) && (h.before == nil) == (o.before == nil) && (h.before == nil || sameKey(h.before, o.before))
}

// sameKey reports whether a and b hold one key; a buffer that was wiped holds none.
func sameKey(a, b *securemem.Buffer) bool {
	return len(a.Bytes()) == keySize && subtle.ConstantTimeCompare(a.Bytes(), b.Bytes()) == 1
}

// free wipes the keys, but for those that kept holds, too. Either may be nil.
func (h *keys) free(kept *keys) {
	if h == nil {
		return
	}
	for _, b := range []*securemem.Buffer{h.newest, h.before} {
		if kept == nil || b != kept.newest && b != kept.before {
			b.Free()
		}
	}
}
