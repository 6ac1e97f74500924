// Package seal holds the one key derivation function of the product and the one way data is sealed with what it derives:
// messages and tokens, which callers keep, and records, which the store keeps. Read KDF, MessageKey and Place first.
//
// All kinds of ciphertext commit to key, header and context (CMT-4 of Bellare and Hoang, "Efficient Schemes for
// Committing Authenticated Encryption", 2022): plain AES-GCM does not, and whoever knows a key can make one GCM
// ciphertext that opens under two contexts. Every key used with AES-GCM here is derived with a fresh 192-bit salt, as in
// Campagna and Gueron, "Key Management Systems at the Cloud Scale" (2019), so no count of IVs is kept across keys.
//
// The package keeps no keys: callers hold them in locked memory and pass them in. It knows neither time nor policy; who
// caches a MessageKey bounds its age.
//
// A message, format 1, is 105 bytes longer than its plaintext:
//
//	offset  bytes
//	     0      1  format, 01
//	     1     16  key id
//	    17      4  material id
//	    21     24  salt
//	    45     32  commitment = HMAC-SHA-256(Kc, context)
//	    77     12  IV, drawn by the FIPS 140-3 module
//	    89      n  AES-256-GCM ciphertext under Ke, n at least 1
//	  89+n     16  GCM tag; additional data = the 77 bytes before the IV ‖ context
//
// with prk = KDF(material, "m1", key id ‖ material id ‖ salt, 256) and Ke ‖ Kc = KDF(prk, "k1", "", 512).
//
// A record, format 2, is 89 bytes longer than its plaintext:
//
//	offset  bytes
//	     0      1  format, 02
//	     1      4  number of the bucket key, big-endian
//	     5     24  salt
//	    29     32  commitment = HMAC-SHA-256(Kc, full name)
//	    61     12  IV
//	    73      n  AES-256-GCM ciphertext under Ke, n may be 0
//	  73+n     16  GCM tag; additional data = the 61 bytes before the IV ‖ full name
//
// with prk = KDF(bucket key, "r1", appliance id 16 ‖ bucket 2 ‖ number 4 ‖ salt 24, 256) and Ke, Kc as above.
//
// A token, format 3, is 85 bytes longer than its plaintext:
//
//	offset  bytes
//	     0      1  format, 03
//	     1     24  salt
//	    25     32  commitment = HMAC-SHA-256(Kc, context)
//	    57     12  IV
//	    69      n  AES-256-GCM ciphertext under Ke, n may be 0
//	  69+n     16  GCM tag; additional data = the 57 bytes before the IV ‖ context
//
// with prk = KDF(key, label of the kind of token, salt, 256) and Ke, Kc as above.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
)

const (
	Salt     = 24  // bytes of a salt, of messages and of records
	Overhead = 105 // bytes that a message is longer than its plaintext
	Scratch  = 77  // bytes that Seal and Open want of scratch, besides the context's

	// RecordOverhead is the number of bytes that a record is longer than its plaintext.
	RecordOverhead = 89

	// MaxMessages and MaxBytes bound what one message key seals: messages, and plaintext bytes of all of them. At these
	// bounds an IV repeats under any key of one material with probability below 2^-32 up to 2^49 messages.
	MaxMessages = 1 << 16
	MaxBytes    = 64 << 20

	commitmentSize = sha256.Size
	tagSize        = 16
)

var (
	// ErrOpen is the only error of opening: whether the header, the commitment, the tag or the length was wrong is not told.
	ErrOpen = errors.New("seal: ciphertext does not open")

	// ErrExhausted is returned by Seal when a message key has reached MaxMessages or the plaintext would pass MaxBytes.
	// The caller derives a new message key.
	ErrExhausted = errors.New("seal: message key is used up")

	// ErrEmpty is returned by Seal for an empty plaintext, which no message holds.
	ErrEmpty = errors.New("seal: plaintext is empty")

	// ErrKeySize is returned when a key to seal with has not 32 bytes.
	ErrKeySize = errors.New("seal: a key has 32 bytes")

	// ErrDisagree is returned by NewSealingKey: two derivations of one key do not give the same key.
	ErrDisagree = errors.New("seal: two derivations of a message key differ")
)

// split fills keys with Ke ‖ Kc of prk and returns AES-256-GCM under Ke that draws its own IVs (SP 800-38D, 8.2.2). Call it
// inside securemem.Do: the key schedule is on the heap. The caller wipes keys.
func split(keys *[64]byte, prk []byte) (cipher.AEAD, error) {
	if len(prk) != sha256.Size {
		return nil, ErrKeySize
	}
	KDF(keys[:], prk, LabelSplit, nil)
	return newAEAD(keys[:32])
}

// newAEAD returns AES-256-GCM whose ciphertexts begin with an IV that the FIPS 140-3 module draws.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
