package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"slices"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	messageFormat     = 1
	messageHeaderSize = 1 + 16 + 4 + Salt
	messagePrefixSize = messageHeaderSize + commitmentSize // what stands before the IV
)

// MessageHeader names the key that a message was sealed with. It stands in clear at the front of the message and is
// bound by the derivation, the commitment and the tag.
type MessageHeader struct {
	KeyID      [16]byte
	MaterialID [4]byte    // first bytes of the material's KeyMaterialId
	Salt       [Salt]byte // random, one for each message key
}

// NewMessageHeader returns a header with a fresh salt: the name of a message key yet to be derived.
func NewMessageHeader(keyID [16]byte, materialID [4]byte) MessageHeader {
	h := MessageHeader{KeyID: keyID, MaterialID: materialID}
	_, _ = rand.Read(h.Salt[:]) // never fails: it ends the program rather than return an error
	return h
}

// ParseMessage returns the header of blob and whether blob has format 1 and room for at least one byte of plaintext. It
// checks nothing else. The header shares no memory with blob.
func ParseMessage(blob []byte) (h MessageHeader, ok bool) {
	if len(blob) <= Overhead || blob[0] != messageFormat {
		return MessageHeader{}, false
	}
	copy(h.KeyID[:], blob[1:])
	copy(h.MaterialID[:], blob[17:])
	copy(h.Salt[:], blob[21:])
	return h, true
}

// KDFContext appends the context of label m1 to dst: key id ‖ material id ‖ salt, 44 bytes.
func (h *MessageHeader) KDFContext(dst []byte) []byte {
	dst = append(dst, h.KeyID[:]...)
	dst = append(dst, h.MaterialID[:]...)
	return append(dst, h.Salt[:]...)
}

// MessageKey seals and opens the messages of one header. It is safe for concurrent use: a context that was used before
// costs no lock, another one a short lock of this key alone.
type MessageKey struct {
	aead    cipher.AEAD
	commits committer
	used    atomic.Uint64 // messages sealed << 32 | their plaintext bytes; never beyond the bounds
}

// NewMessageKey expands prk, 32 bytes that the caller derived for h under label m1 and still owns and wipes. It returns
// ErrKeySize for another length. What it expands lives on the heap, made inside securemem.Do.
func NewMessageKey(h MessageHeader, prk []byte) (k *MessageKey, err error) {
	securemem.Do(func() {
		var keys [64]byte
		k, err = expand(h, &keys, prk)
		securemem.Wipe(keys[:])
	})
	return k, err
}

// NewSealingKey is NewMessageKey for a key that seals: prk and again are two derivations of it. On memory without error
// correction one flipped bit makes messages that nobody can open; two derivations that agree, here down to the keys that
// are used, rule that out up to their expansion. It returns ErrDisagree, and ErrKeySize.
//
// What AES-GCM expands from them is not compared: it would cost as much as all the rest, for an instant of the minute
// that the key lives and in which a bit of it may flip.
func NewSealingKey(h MessageHeader, prk, again []byte) (k *MessageKey, err error) {
	securemem.Do(func() {
		var keys, second [64]byte
		defer securemem.Wipe(keys[:])
		defer securemem.Wipe(second[:])
		if len(again) != len(prk) {
			err = ErrKeySize
			return
		}
		if k, err = expand(h, &keys, prk); err != nil {
			return
		}
		KDF(second[:], again, LabelSplit, nil)
		if subtle.ConstantTimeCompare(keys[:], second[:])&subtle.ConstantTimeCompare(k.commits.key[:], second[32:]) != 1 {
			k, err = nil, ErrDisagree
		}
	})
	return k, err
}

// expand makes the message key of h, and leaves Ke ‖ Kc in keys, which the caller wipes.
func expand(h MessageHeader, keys *[64]byte, prk []byte) (*MessageKey, error) {
	k := new(MessageKey) // holds Kc
	var err error
	if k.aead, err = split(keys, prk); err != nil {
		return nil, err
	}
	copy(k.commits.key[:], keys[32:])
	h.KDFContext(append(k.commits.header[:0], messageFormat))
	return k, nil
}

// Seal appends the message for plaintext and context, len(plaintext)+105 bytes, to dst. The context is the deterministic
// CBOR of the encryption context; of the empty one, a0. Seal allocates nothing when dst has that capacity and scratch has
// Scratch+len(context), except to remember one of the first few contexts that repeat. Neither dst nor scratch may overlap any
// argument. It returns ErrEmpty, or ErrExhausted when the key has served MaxMessages or MaxBytes: however many goroutines
// call, nothing is sealed beyond them.
func (k *MessageKey) Seal(dst, scratch, plaintext, context []byte) ([]byte, error) {
	if len(plaintext) == 0 {
		return nil, ErrEmpty
	}
	if !k.reserve(uint64(len(plaintext))) {
		return nil, ErrExhausted
	}
	aad := k.commits.aad(scratch, context)
	dst = slices.Grow(dst, Overhead+len(plaintext))
	dst = append(dst, aad[:messagePrefixSize]...)
	return k.aead.Seal(dst, nil, plaintext, aad), nil
}

// Open appends the plaintext of blob, sealed with the same header and context, to dst. Every fault is ErrOpen. The
// commitment is compared in constant time before GCM runs. Open allocates nothing when dst has a capacity of
// len(blob)-105 more bytes and scratch of Scratch+len(context), except as Seal does; neither may overlap any argument. Give a
// dst with room in locked or wiped memory: what append would allocate is neither.
func (k *MessageKey) Open(dst, scratch, blob, context []byte) ([]byte, error) {
	if len(blob) <= Overhead || !bytes.Equal(blob[:messageHeaderSize], k.commits.header[:]) {
		return nil, ErrOpen
	}
	aad := k.commits.aad(scratch, context)
	if subtle.ConstantTimeCompare(aad[messageHeaderSize:messagePrefixSize], blob[messageHeaderSize:messagePrefixSize]) != 1 {
		return nil, ErrOpen
	}
	dst, err := k.aead.Open(dst, nil, blob[messagePrefixSize:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return dst, nil
}

// reserve takes one message of n bytes from what the key may still seal. It is undone by nothing: a message that fails
// afterwards has still used its IV.
func (k *MessageKey) reserve(n uint64) bool {
	for {
		used := k.used.Load()
		messages, size := used>>32, used&(1<<32-1)
		if messages >= MaxMessages || n > MaxBytes-size {
			return false
		}
		if k.used.CompareAndSwap(used, used+1<<32+n) {
			return true
		}
	}
}
