package seal

import (
	"crypto/sha256"

	"github.com/keyrack/keyrack/internal/securemem"
)

const blockSize = sha256.BlockSize

// MAC appends HMAC-SHA-256(key, message), 32 bytes (FIPS 198-1, section 4), to dst, in place where dst has the capacity. A
// message may be given in parts. It is safe for concurrent use.
//
// It is here beside crypto/hmac because that leaves key ⊕ ipad and key ⊕ opad, which are as good as the key, in garbage
// on the heap, and allocates five times, each dearer inside securemem.Do. This one works on the stack and wipes it (a stack
// that happens to grow meanwhile leaves a copy, unless Do erases). Who computes many MACs under one key keeps a crypto/hmac
// state instead.
func MAC(dst, key []byte, message ...[]byte) []byte {
	var sum [sha256.Size]byte
	securemem.Do(func() { mac(&sum, key, message...) })
	return append(dst, sum[:]...)
}

func mac(sum *[sha256.Size]byte, key []byte, message ...[]byte) {
	var k [blockSize]byte
	defer securemem.Wipe(k[:])
	if len(key) > blockSize {
		*sum = sha256.Sum256(key)
		key = sum[:]
	}
	copy(k[:], key)
	padded(sum, &k, 0x36, message...)
	padded(sum, &k, 0x5c, sum[:])
}

// padded sets sum, which message may be, to SHA-256(k ⊕ pad ‖ message). The hash stays on the stack, and takes a whole block
// from where it is: so the padded key is in block alone, and what came of it in the state that Reset puts back.
func padded(sum *[sha256.Size]byte, k *[blockSize]byte, pad byte, message ...[]byte) {
	var block [blockSize]byte
	for i, b := range k {
		block[i] = b ^ pad
	}
	h := sha256.New()
	h.Write(block[:])
	for _, part := range message {
		h.Write(part)
	}
	h.Sum(sum[:0])
	h.Reset()
	securemem.Wipe(block[:])
}
