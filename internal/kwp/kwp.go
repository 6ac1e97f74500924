// Package kwp wraps keys under AES as RFC 5649 does (SP 800-38F, section 6.3: KWP), which the standard library lacks. Read [Wrap]
// and [Unwrap]; there is no third thing.
//
// Unwrap is for hostile input: what is wrong with a wrapped key is not told, and its check takes the same path whatever
// it is. The package keeps no keys and draws none. It runs inside securemem.Do: AES key schedules are on the heap.
package kwp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"

	"github.com/keyrack/keyrack/internal/securemem"
)

// Sizes in bytes.
const (
	// MaxKey is the longest key that is wrapped here: an RSA-4096 key in PKCS#8 has some 2,400 bytes.
	MaxKey = 8192

	// Overhead is how much longer a wrapped key is, beyond a multiple of 8.
	Overhead = half

	half = 8 // semiblock: half a block of AES
)

// prefix is the constant half of the alternative initial value; the length of the key is the other (RFC 5649, section 3).
const prefix = 0xa65959a6

var (
	// ErrUnwrap is the one error of Unwrap for a wrapped key.
	ErrUnwrap = errors.New("kwp: the key does not unwrap")

	// ErrSize is returned by Wrap for a key of no bytes or of more than MaxKey.
	ErrSize = errors.New("kwp: a key of 1 to 8192 bytes can be wrapped")
)

// Wrap returns key, 1 to [MaxKey] bytes, wrapped under kek, 16, 24 or 32 bytes: the length of key up to the next multiple of 8, and 8
// more. It returns ErrSize, or AES's error for a kek of another length. It keeps neither.
func Wrap(kek, key []byte) (wrapped []byte, err error) {
	if len(key) < 1 || len(key) > MaxKey {
		return nil, ErrSize
	}
	padded := (len(key) + half - 1) / half * half
	wrapped = make([]byte, half+padded)
	securemem.Do(func() {
		var block cipher.Block
		if block, err = aes.NewCipher(kek); err != nil {
			return
		}
		binary.BigEndian.PutUint32(wrapped, prefix)
		binary.BigEndian.PutUint32(wrapped[4:], uint32(len(key)))
		copy(wrapped[half:], key)
		if padded == half { // one block: RFC 5649, section 4.1
			block.Encrypt(wrapped, wrapped)
			return
		}
		wrapBlocks(block, wrapped)
	})
	return wrapped, err
}

// Unwrap returns how many bytes of room, from its 9th on, are the key that wrapped holds: room is len(wrapped) bytes, of locked
// memory if the caller cares, and is overwritten whatever comes of it. Every fault of wrapped is ErrUnwrap, found in the
// same time but for the length of wrapped, which anybody sees: 16 to [MaxKey]+8 bytes, a multiple of 8. A kek that is not 16, 24
// or 32 bytes is AES's error.
func Unwrap(room, kek, wrapped []byte) (key []byte, err error) {
	if len(wrapped) < 2*half || len(wrapped) > MaxKey+half || len(wrapped)%half != 0 || len(room) != len(wrapped) {
		return nil, ErrUnwrap
	}
	securemem.Do(func() {
		var block cipher.Block
		if block, err = aes.NewCipher(kek); err != nil {
			return
		}
		copy(room, wrapped)
		if len(room) == aes.BlockSize {
			block.Decrypt(room, room)
		} else {
			unwrapBlocks(block, room)
		}
		key, err = check(room)
	})
	return key, err
}

// check returns the key behind the initial value of opened, whose length says where the padding of 0 to 7 zero bytes begins
// (RFC 5649, section 3). It looks at all of it before it decides.
func check(opened []byte) ([]byte, error) {
	n := len(opened) - half
	size := binary.BigEndian.Uint32(opened[4:])
	padding := uint32(n) - size // beyond 7 also where size is greater than n
	ok := subtle.ConstantTimeEq(int32(binary.BigEndian.Uint32(opened)), int32(prefix-1<<32))
	ok &= subtle.ConstantTimeEq(int32(padding&^7), 0)
	for i := range half {
		inPadding := subtle.ConstantTimeLessOrEq(half-int(padding&7), i)
		zero := subtle.ConstantTimeByteEq(opened[len(opened)-half+i], 0)
		ok &= zero | (inPadding ^ 1)
	}
	if ok != 1 {
		return nil, ErrUnwrap
	}
	return opened[half : half+size], nil
}

// wrapBlocks is W of SP 800-38F, section 6.1 (RFC 3394, section 2.2.1, by index), in place: b is the initial value and then
// n semiblocks.
func wrapBlocks(block cipher.Block, b []byte) {
	var x [aes.BlockSize]byte
	defer securemem.Wipe(x[:])
	copy(x[:half], b)
	t := uint64(0)
	for range 6 {
		for i := half; i < len(b); i += half {
			copy(x[half:], b[i:])
			block.Encrypt(x[:], x[:])
			t++
			turn(&x, t)
			copy(b[i:], x[half:])
		}
	}
	copy(b, x[:half])
}

// unwrapBlocks is W⁻¹ of SP 800-38F, section 6.1, in place.
func unwrapBlocks(block cipher.Block, b []byte) {
	var x [aes.BlockSize]byte
	defer securemem.Wipe(x[:])
	copy(x[:half], b)
	t := uint64(6 * (len(b)/half - 1))
	for range 6 {
		for i := len(b) - half; i >= half; i -= half {
			copy(x[half:], b[i:])
			turn(&x, t)
			t--
			block.Decrypt(x[:], x[:])
			copy(b[i:], x[half:])
		}
	}
	copy(b, x[:half])
}

// turn adds the number of a step into the first half of x.
func turn(x *[aes.BlockSize]byte, t uint64) {
	binary.BigEndian.PutUint64(x[:], binary.BigEndian.Uint64(x[:])^t)
}
