package fuzz_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// FuzzCiphertext seals a plaintext: the message opens with its own context
// only, and not at all with one byte changed, moved, added or cut off. Bytes that
// nobody sealed parse without harm and never open.
func FuzzCiphertext(f *testing.F) {
	f.Add([]byte("plaintext"), []byte{0xa0}, uint16(0), byte(1))
	f.Add(make([]byte, 4096), []byte{0xa1, 0x61, 'k', 0x61, 'v'}, uint16(60), byte(0x80))
	f.Add(append([]byte{1}, make([]byte, seal.Overhead)...), []byte(nil), uint16(110), byte(0xff))
	f.Fuzz(func(t *testing.T, plaintext, context []byte, at uint16, flip byte) {
		plaintext = append(plaintext, 0) // an empty one cannot be sealed
		key, blob := sealed(t, plaintext, context)
		if got, err := key.Open(nil, nil, blob, context); err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("it does not open: %v", err)
		}
		for how, damaged := range damages(blob, int(at), flip) {
			checkClosed(t, how, damaged, context)
		}
		checkClosed(t, "other context", blob, append([]byte{flip}, context...))
		checkClosed(t, "never sealed", plaintext, context)
	})
}

// prk is what every message of the target is sealed under.
var prk = bytes.Repeat([]byte{7}, 32)

// sealed returns the message for plaintext and its key.
func sealed(t *testing.T, plaintext, context []byte) (*seal.MessageKey, []byte) {
	t.Helper()
	key, err := seal.NewMessageKey(seal.NewMessageHeader([16]byte{1}, [4]byte{2}), prk)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := key.Seal(nil, nil, plaintext, context)
	if err != nil {
		t.Fatal(err)
	}
	return key, blob
}

// damages returns what may happen to a message on its way.
func damages(blob []byte, at int, flip byte) map[string][]byte {
	at %= len(blob)
	changed := bytes.Clone(blob)
	changed[at] ^= max(flip, 1)
	return map[string][]byte{
		"changed byte":  changed,
		"cut off":       blob[:at],
		"byte added":    append(bytes.Clone(blob), flip),
		"byte inserted": bytes.Join([][]byte{blob[:at], {flip}, blob[at:]}, nil),
		"byte removed":  bytes.Join([][]byte{blob[:at], blob[at+1:]}, nil),
	}
}

// checkClosed checks that nobody who goes by the header of a message opens it.
func checkClosed(t *testing.T, how string, blob, context []byte) {
	t.Helper()
	h, ok := seal.ParseMessage(blob)
	if !ok {
		return
	}
	key, err := seal.NewMessageKey(h, prk)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Open(nil, nil, blob, context); err == nil {
		t.Errorf("%s: opened as %x", how, got)
	}
}
