package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"slices"
	"sync"
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
func NewMessageKey(h MessageHeader, prk []byte) (*MessageKey, error) {
	var k *MessageKey
	var err error
	securemem.Do(func() {
		k = new(MessageKey) // holds Kc
		var keys [64]byte
		defer securemem.Wipe(keys[:])
		k.aead, err = split(&keys, prk)
		copy(k.commits.key[:], keys[32:])
	})
	if err != nil {
		return nil, err
	}
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

// probeSize is long enough that GCM uses every entry of its table of powers of H (eight blocks on amd64 and arm64, one
// entry per nibble elsewhere): a flipped bit in any of them shows.
const probeSize = 512

// Agrees checks k against o, a second derivation of the same key: same header, same commitment, and k opens what o
// seals. On memory without error correction one flipped bit in a derivation makes messages that nobody can open; two
// derivations that agree rule that out. Use o for nothing else. It returns ErrDisagree.
func (k *MessageKey) Agrees(o *MessageKey) error {
	room := probes.Get().(*probe)
	defer probes.Put(room)
	blob, err := o.Seal(room.blob[:0], room.scratch[:0], room.plaintext[:], room.plaintext[:1])
	if err != nil {
		return err
	}
	got, err := k.Open(room.opened[:0], room.scratch[:0], blob, room.plaintext[:1])
	if err != nil || !bytes.Equal(got, room.plaintext[:]) {
		return ErrDisagree
	}
	return nil
}

// probe is the memory of one comparison. Nothing in it is a secret: the plaintext is zeros.
type probe struct {
	plaintext, opened [probeSize]byte
	blob              [Overhead + probeSize]byte
	scratch           [Scratch + 1]byte
}

var probes = sync.Pool{New: func() any { return new(probe) }}
