//go:build cgo

package pkcs11_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/hsm/pkcs11"
)

// Blobs of both specs, of a token that is gone.
var blobSeeds = []string{
	"500101" + strings.Repeat("b1", 16) + strings.Repeat("1d", 16) + strings.Repeat("77", 32) + "0e3b5c1d2a4f6071",
	"500102" + strings.Repeat("b1", 16) + strings.Repeat("1d", 16) + "04" + strings.Repeat("77", 64) + "0e3b5c1d2a4f6071",
}

// FuzzBlob: what is accepted is what would be written, byte for byte, so no changed byte is accepted.
func FuzzBlob(f *testing.F) {
	for _, seed := range blobSeeds {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pkcs11.Summed(b))
		f.Add(b)
		f.Add(b[:35])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, pkcs11.Summed(b)} {
			again, ok := pkcs11.Reencode(b)
			if ok && !bytes.Equal(again, b) {
				t.Errorf("%x is read as %x", b, again)
			}
			if wellFormed := isBlob(b); wellFormed != ok {
				t.Errorf("%x: accepted %t, by its format %t", b, ok, wellFormed)
			}
		}
	})
}

// isBlob judges by FORMAT.md alone.
func isBlob(b []byte) bool {
	proof := map[byte]int{1: 32, 2: 65}
	return len(b) > 35 && b[0] == 'P' && b[1] == 1 && proof[b[2]] != 0 && len(b) == 35+proof[b[2]]+8 && bytes.Equal(b, pkcs11.Summed(b))
}

func TestTheFormatIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range pkcs11.AttributeNames() {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("FORMAT.md does not name %s", name)
		}
	}
	for _, seed := range blobSeeds {
		b, _ := hex.DecodeString(seed)
		if _, ok := pkcs11.Reencode(pkcs11.Summed(b)); !ok {
			t.Errorf("%x is no blob", pkcs11.Summed(b))
		}
	}
}
