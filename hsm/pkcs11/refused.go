package pkcs11

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/keyrack/keyrack/internal/securemem"
)

// The file of Config.Refused is one line: "v1", the token's binding, a salt and a mark, in hexadecimal. The mark has eight bits
// only: who steals the file learns eight bits of a PIN that was wrong, and one corrected PIN of 256 is taken for the wrong one.
const (
	refusedSalt  = 16
	refusedIter  = 200_000
	refusedBytes = 1
)

// refusedBefore reports whether the file at path says that this token has refused this PIN. A file that is absent or makes no
// sense says nothing.
func refusedBefore(path string, binding [bindingSize]byte, pin []byte) bool {
	if path == "" {
		return false
	}
	text, err := os.ReadFile(path)
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 4 || fields[0] != "v1" || fields[1] != hex.EncodeToString(binding[:]) {
		return false
	}
	salt, err := hex.DecodeString(fields[2])
	if err != nil || len(salt) != refusedSalt {
		return false
	}
	mark, err := refusedMark(salt, pin)
	return err == nil && hex.EncodeToString(mark) == fields[3]
}

// rememberRefused writes the file that refusedBefore reads.
func rememberRefused(path string, binding [bindingSize]byte, pin []byte) error {
	if path == "" {
		return nil
	}
	salt := make([]byte, refusedSalt)
	_, _ = rand.Read(salt) // never fails
	mark, err := refusedMark(salt, pin)
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, "v1 %x %x %x\n", binding, salt, mark), 0o600)
}

// forgetRefused ends what rememberRefused began, after a PIN that was right.
func forgetRefused(path string) {
	if path != "" {
		_ = os.Remove(path) // it speaks of another PIN: it does no harm where it stays
	}
}

// refusedMark returns the first eight bits of PBKDF2-HMAC-SHA-256 (SP 800-132) of the PIN.
func refusedMark(salt, pin []byte) (mark []byte, err error) {
	securemem.Do(func() {
		var full []byte
		full, err = pbkdf2.Key(sha256.New, string(pin), salt, refusedIter, sha256.Size)
		if err == nil {
			mark = bytes.Clone(full[:refusedBytes])
		}
	})
	return mark, err
}
