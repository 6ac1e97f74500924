package seal_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// TestTokens: what is sealed opens with the same key, label and context, and with nothing that differs in one bit.
func TestTokens(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	rand.Read(key)
	context, plaintext := []byte("for whom it is"), []byte("what it says")
	token, err := seal.SealToken([]byte("front"), key, seal.LabelImportPRK, context, plaintext)
	if err != nil || !bytes.HasPrefix(token, []byte("front\x03")) || len(token) != 5+seal.TokenOverhead+len(plaintext) {
		t.Fatalf("got %x, %v", token, err)
	}
	token = token[5:]
	room := append(make([]byte, 0, 64), "dst"...)
	got, err := seal.OpenToken(room, key, seal.LabelImportPRK, context, token)
	if err != nil || string(got) != "dst"+string(plaintext) || &got[0] != &room[0] {
		t.Errorf("got %q, %v", got, err)
	}
	other, err := seal.SealToken(nil, key, seal.LabelImportPRK, context, plaintext)
	if err != nil || bytes.Equal(other[1:25], token[1:25]) || bytes.Contains(other, plaintext) {
		t.Errorf("a second token: %x, %v", other, err)
	}
	inputs := [][]byte{token, key, context}
	for which, input := range inputs {
		for bit := range 8 * len(input) {
			changed := append([][]byte{}, inputs...)
			changed[which] = bytes.Clone(input)
			changed[which][bit/8] ^= 1 << (bit % 8)
			if _, err := seal.OpenToken(nil, changed[1], seal.LabelImportPRK, changed[2], changed[0]); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("input %d, bit %d: %v", which, bit, err)
			}
		}
	}
	for name, open := range map[string]func() ([]byte, error){
		"another label": func() ([]byte, error) { return seal.OpenToken(nil, key, seal.LabelMessage, context, token) },
		"a byte behind": func() ([]byte, error) {
			return seal.OpenToken(nil, key, seal.LabelImportPRK, context, append(token, 0))
		},
		"a byte less": func() ([]byte, error) {
			return seal.OpenToken(nil, key, seal.LabelImportPRK, context, token[:len(token)-1])
		},
		"shorter context": func() ([]byte, error) { return seal.OpenToken(nil, key, seal.LabelImportPRK, context[1:], token) },
		"nothing":         func() ([]byte, error) { return seal.OpenToken(nil, key, seal.LabelImportPRK, context, nil) },
		"84 bytes":        func() ([]byte, error) { return seal.OpenToken(nil, key, seal.LabelImportPRK, context, token[:84]) },
	} {
		if got, err := open(); !errors.Is(err, seal.ErrOpen) || got != nil {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := seal.SealToken(nil, key[1:], seal.LabelImportPRK, context, plaintext); !errors.Is(err, seal.ErrKeySize) {
		t.Errorf("a short key seals: %v", err)
	}
	if _, err := seal.OpenToken(nil, key[1:], seal.LabelImportPRK, context, token); !errors.Is(err, seal.ErrKeySize) {
		t.Errorf("a short key opens: %v", err)
	}
}
