package pkcs11

import (
	"bytes"
	"crypto/sha256"
)

// Reencode parses a blob and encodes it.
func Reencode(b []byte) ([]byte, bool) {
	parsed, ok := parseBlob(b)
	return parsed.encode(), ok
}

// Summed returns b with the sum that would be right at its end.
func Summed(b []byte) []byte {
	if len(b) < sumSize {
		return b
	}
	b = bytes.Clone(b)
	sum := sha256.Sum256(b[:len(b)-sumSize])
	copy(b[len(b)-sumSize:], sum[:])
	return b
}
