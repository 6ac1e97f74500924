package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"

	"github.com/keyrack/keyrack/internal/securemem"
)

const (
	// TokenOverhead is the number of bytes that a token is longer than its plaintext.
	TokenOverhead = tokenPrefixSize + 12 + tagSize

	tokenFormat     = 3
	tokenHeaderSize = 1 + Salt
	tokenPrefixSize = tokenHeaderSize + commitmentSize // what stands before the IV
)

// SealToken appends the token for plaintext, len(plaintext)+85 bytes, to dst. It is sealed with key, 32 bytes that the caller owns,
// for a context that is not in it, under a salt of its own, so no number of tokens needs to be counted. label is the
// one for the prk of such tokens. dst must not overlap plaintext. It returns ErrKeySize. It is safe for concurrent use.
func SealToken(dst, key []byte, label Label, context, plaintext []byte) ([]byte, error) {
	dst = slices.Grow(dst, TokenOverhead+len(plaintext))
	at := len(dst)
	dst = append(dst, tokenFormat)
	dst = dst[:at+tokenHeaderSize]
	_, _ = rand.Read(dst[at+1:]) // never fails: it ends the program rather than return an error
	var err error
	securemem.Do(func() {
		var aead cipher.AEAD
		var aad []byte
		if aead, aad, err = tokenKey(key, label, dst[at:], context); err == nil {
			dst = append(dst, aad[tokenHeaderSize:tokenPrefixSize]...)
			dst = aead.Seal(dst, nil, plaintext, aad)
		}
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// OpenToken appends the plaintext of token to dst, which must not overlap it. It returns ErrKeySize, and ErrOpen for every
// fault of the token, another key, label or context among them. The commitment is compared in constant time before GCM
// runs. Nothing is allocated for the plaintext when dst has room for len(token)-85 more bytes: give locked memory for key
// material. It is safe for concurrent use.
func OpenToken(dst, key []byte, label Label, context, token []byte) ([]byte, error) {
	if len(token) < TokenOverhead || token[0] != tokenFormat {
		return nil, ErrOpen
	}
	var err error
	securemem.Do(func() {
		var aead cipher.AEAD
		var aad []byte
		if aead, aad, err = tokenKey(key, label, token[:tokenHeaderSize], context); err != nil {
			return
		}
		if subtle.ConstantTimeCompare(aad[tokenHeaderSize:tokenPrefixSize], token[tokenHeaderSize:tokenPrefixSize]) != 1 {
			err = ErrOpen
			return
		}
		if dst, err = aead.Open(dst, nil, token[tokenPrefixSize:], aad); err != nil {
			err = ErrOpen
		}
	})
	if err != nil {
		return nil, err
	}
	return dst, nil
}

// tokenKey derives the key of the token with the given header, and its additional data header ‖ commitment ‖ context.
func tokenKey(key []byte, label Label, header, context []byte) (cipher.AEAD, []byte, error) {
	if len(key) != sha256.Size {
		return nil, nil, ErrKeySize
	}
	var prk [sha256.Size]byte
	var keys [64]byte
	defer securemem.Wipe(prk[:])
	defer securemem.Wipe(keys[:])
	KDF(prk[:], key, label, header[1:tokenHeaderSize])
	aead, err := split(&keys, prk[:])
	if err != nil {
		return nil, nil, err
	}
	aad := append(make([]byte, 0, tokenPrefixSize+len(context)), header...)
	return aead, append(MAC(aad, keys[32:], context), context...), nil
}
