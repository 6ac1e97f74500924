package kms

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

// material is one version of a key's secret, in locked memory until nobody
// uses it any more. Safe for concurrent use.
type material struct {
	id     [32]byte // KeyMaterialId: KDF(secret, "i1", key id)
	idText string   // 64 hex digits
	secret *securemem.Buffer

	mu      sync.Mutex                 // held while a new message key is made
	sealing atomic.Pointer[messageKey] // for new messages; nil at first
	kept    *keptKeys                  // of old messages

	expanded atomic.Pointer[expanded] // nil at first, and where expansions needed the room
	inRing   bool                     // of expansions, guarded by its mu
	hot      atomic.Bool              // expanded was used since the hand of expansions last passed
}

// messageKey is a message key for new messages and when it ends.
type messageKey struct {
	*seal.MessageKey
	salt  [seal.Salt]byte
	until time.Time
}

// errMaterialChanged is the cause when material does not give its own id, or
// not the same message key twice.
var errMaterialChanged = errors.New("material does not derive what it derived before")

// newMaterial takes over secret, whose id must begin with id, 4 to 32 bytes.
func newMaterial(key api.KeyID, id []byte, secret *securemem.Buffer, budget *atomic.Int64) (*material, error) {
	m := &material{id: materialID(key, secret.Bytes()), secret: secret, kept: &keptKeys{budget: budget}}
	runtime.AddCleanup(m, release, held{secret, m.kept})
	var text [64]byte
	hex.Encode(text[:], m.id[:])
	m.idText = string(text[:])
	if len(id) < 4 || subtle.ConstantTimeCompare(m.id[:min(len(id), 32)], id) != 1 {
		return nil, fmt.Errorf("material %s: %w", m.idText, errMaterialChanged)
	}
	return m, nil
}

// held is what a material gives back when nobody uses it any more.
type held struct {
	secret *securemem.Buffer
	kept   *keptKeys
}

func release(h held) {
	h.secret.Free()
	h.kept.drop()
}

// expire lets go of message keys, and of an expanded secret, whose life is over.
func (m *material) expire(now time.Time) {
	if mk := m.sealing.Load(); mk != nil && !now.Before(mk.until) {
		m.retire(mk)
	}
	if x := m.expanded.Load(); x != nil && !now.Before(x.until) {
		m.expanded.CompareAndSwap(x, nil)
	}
	m.kept.expire(now)
}

// materialID returns the KeyMaterialId of a secret.
func materialID(key api.KeyID, secret []byte) (id [32]byte) {
	seal.KDF(id[:], secret, seal.LabelMaterialID, key[:])
	return id
}

// intact reports whether the secret still gives its id.
func (m *material) intact(key api.KeyID) bool {
	id := materialID(key, m.secret.Bytes())
	return subtle.ConstantTimeCompare(id[:], m.id[:]) == 1
}

// short returns what ciphertexts carry of the id.
func (m *material) short() [4]byte { return [4]byte(m.id[:4]) }

// messageKey returns the message key for new messages, a fresh one if there is
// none or its time is over.
func (m *material) messageKey(key api.KeyID, now time.Time) (*messageKey, error) {
	if mk := m.sealing.Load(); mk != nil && now.Before(mk.until) {
		return mk, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if mk := m.sealing.Load(); mk != nil && now.Before(mk.until) {
		return mk, nil
	}
	mk, err := m.draw(key, now)
	if err == nil {
		m.sealing.Store(mk)
	}
	return mk, err
}

// retire ends mk: it is full, or its time is over.
func (m *material) retire(mk *messageKey) { m.sealing.CompareAndSwap(mk, nil) }

// draw derives a message key under a fresh salt, twice, with the material's id
// checked in between: a bit that flipped in memory must not make data that
// nobody can decrypt.
func (m *material) draw(key api.KeyID, now time.Time) (*messageKey, error) {
	h := seal.NewMessageHeader(key, m.short())
	var mk *seal.MessageKey
	var err error
	securemem.Do(func() {
		var prk, again [32]byte
		m.prk(prk[:], h)
		err = errMaterialChanged
		if m.intact(key) {
			m.prk(again[:], h)
			mk, err = seal.NewSealingKey(h, prk[:], again[:])
		}
		securemem.Wipe(prk[:])
		securemem.Wipe(again[:])
	})
	runtime.KeepAlive(m) // the secret is freed when m is gone
	if errors.Is(err, seal.ErrDisagree) {
		err = fmt.Errorf("%w: %w", errMaterialChanged, err)
	}
	return &messageKey{mk, h.Salt, now.Add(api.MessageKeyLife)}, err
}

// prk derives what the message key of a header is expanded from, 32 bytes.
func (m *material) prk(prk []byte, h seal.MessageHeader) {
	var input [len(h.KeyID) + len(h.MaterialID) + len(h.Salt)]byte
	seal.KDF(prk, m.secret.Bytes(), seal.LabelMessage, h.KDFContext(input[:0]))
}

// derive makes the message key of a header.
func (m *material) derive(h seal.MessageHeader) (mk *seal.MessageKey, err error) {
	securemem.Do(func() {
		var prk [32]byte
		m.prk(prk[:], h)
		mk, err = seal.NewMessageKey(h, prk[:])
		securemem.Wipe(prk[:])
	})
	runtime.KeepAlive(m)
	return mk, err
}

// openingKey returns the message key of an old message; fresh says that it was
// derived now, so that it may be kept once something verified under it.
func (m *material) openingKey(h seal.MessageHeader, now time.Time) (mk *seal.MessageKey, fresh bool, err error) {
	if mk := m.sealing.Load(); mk != nil && mk.salt == h.Salt && now.Before(mk.until) {
		return mk.MessageKey, false, nil
	}
	if mk := m.kept.get(h.Salt, now); mk != nil {
		return mk, false, nil
	}
	mk, err = m.derive(h)
	return mk, true, err
}

// keptKeys keeps message keys of old messages that verified, for their life: at
// most api.OpenKeysPerKey of one material, and no more of an account than its
// budget. Two generations: when the young one is full, the old one is dropped.
type keptKeys struct {
	budget     *atomic.Int64 // left to the account
	mu         sync.Mutex
	young, old map[[seal.Salt]byte]keptKey // guarded by mu; nil before the first
}

type keptKey struct {
	*seal.MessageKey
	until time.Time
}

func (o *keptKeys) get(salt [seal.Salt]byte, now time.Time) *seal.MessageKey {
	o.mu.Lock()
	defer o.mu.Unlock()
	k, ok := o.young[salt]
	if !ok {
		if k, ok = o.old[salt]; ok && now.Before(k.until) && len(o.young) < api.OpenKeysPerKey/2 {
			delete(o.old, salt)
			o.young[salt] = k
		}
	}
	if !ok || !now.Before(k.until) {
		return nil
	}
	return k.MessageKey
}

// add keeps mk from now for its life, at the expense of older ones.
func (o *keptKeys) add(salt [seal.Salt]byte, mk *seal.MessageKey, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.young == nil {
		o.young, o.old = map[[seal.Salt]byte]keptKey{}, map[[seal.Salt]byte]keptKey{}
	}
	if len(o.young) >= api.OpenKeysPerKey/2 || o.budget.Load() <= 0 {
		o.turn()
	}
	if o.budget.Add(-1) < 0 {
		o.budget.Add(1)
		return
	}
	if _, twice := o.young[salt]; twice {
		o.budget.Add(1)
	}
	o.young[salt] = keptKey{mk, now.Add(api.MessageKeyLife)}
}

// turn drops the old generation; the young one takes its place.
func (o *keptKeys) turn() {
	o.budget.Add(int64(len(o.old)))
	clear(o.old)
	o.young, o.old = o.old, o.young
}

// expire drops the keys whose life is over.
func (o *keptKeys) expire(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, generation := range []map[[seal.Salt]byte]keptKey{o.young, o.old} {
		for salt, k := range generation {
			if !now.Before(k.until) {
				delete(generation, salt)
				o.budget.Add(1)
			}
		}
	}
}

// drop drops all keys.
func (o *keptKeys) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turn()
	o.turn()
}
