package seal

import (
	"crypto/sha256"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	blockSize = sha256.BlockSize
	stackRoom = 192 // bytes of a message that MAC holds on the stack; KDF inputs and nearly all row names fit
)

// MAC appends HMAC-SHA-256(key, message), 32 bytes (FIPS 198-1, section 4), to dst, in place where dst has the capacity.
// It is safe for concurrent use.
//
// It is here beside crypto/hmac because that leaves key ⊕ ipad and key ⊕ opad, which are as good as the key, in garbage
// on the heap, and allocates five times, each dearer inside securemem.Do. This one works on the stack and wipes it (a stack
// that happens to grow meanwhile leaves a copy, unless Do erases). Who computes many MACs under one key keeps a crypto/hmac
// state instead.
func MAC(dst, key, message []byte) []byte {
	var sum [sha256.Size]byte
	securemem.Do(func() { mac(&sum, key, message) })
	return append(dst, sum[:]...)
}

func mac(sum *[sha256.Size]byte, key, message []byte) {
	var k [blockSize]byte
	defer securemem.Wipe(k[:])
	if len(key) > blockSize {
		*sum = sha256.Sum256(key)
		key = sum[:]
	}
	copy(k[:], key)
	if len(message) <= stackRoom {
		var room [blockSize + stackRoom]byte
		padded(sum, &k, 0x36, room[:], message)
	} else {
		padded(sum, &k, 0x36, make([]byte, blockSize+len(message)), message)
	}
	var room [blockSize + sha256.Size]byte
	padded(sum, &k, 0x5c, room[:], sum[:])
}

// padded sets sum to SHA-256(k ⊕ pad ‖ message), built in room, which it wipes.
func padded(sum *[sha256.Size]byte, k *[blockSize]byte, pad byte, room, message []byte) {
	for i, b := range k {
		room[i] = b ^ pad
	}
	n := blockSize + copy(room[blockSize:], message)
	*sum = sha256.Sum256(room[:n])
	securemem.Wipe(room[:n])
}
