package api_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
)

// lender is memory that a test wipes.
type lender struct{ given [][]byte }

func (l *lender) Bytes(n int) []byte {
	b := make([]byte, n)
	l.given = append(l.given, b)
	return b
}

func (l *lender) wipe() {
	for _, b := range l.given {
		clear(b)
	}
}

// piecewise is a byte string in pieces of at most n bytes, RFC 8949 §3.2.3.
func piecewise(b []byte, n int) []byte {
	out := []byte{0x5f}
	for len(b) > 0 {
		p := b[:min(n, len(b))]
		out, b = cbor.AppendBytes(out, p), b[len(p):]
	}
	return append(out, 0xff)
}

// TestPlaintextsAreInLentMemory decodes a plaintext that does not stand in the request as it is. It is in the memory that
// was lent, from its first byte to its last: with that and the request wiped, nothing of it is left in what the method had.
func TestPlaintextsAreInLentMemory(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte("attack at dawn "), 270) // 4050 bytes
	text := base64.StdEncoding.EncodeToString(secret)
	escaped := `\u0059` + strings.ReplaceAll(text[1:], "/", `\/`) // the first letter is a Y
	rpc := append(cbor.AppendText(cbor.AppendMap(nil, 2), "Plaintext"), piecewise(secret, 100)...)
	rpc = cbor.AppendText(cbor.AppendText(rpc, "KeyId"), "alias/a")
	for name, c := range map[string]struct {
		body   []byte
		decode func([]byte, any, api.Memory) error
	}{
		"base64":         {[]byte(`{"KeyId":"alias/a","Plaintext":"` + text + `"}`), kmsapi.Encrypt.In.DecodeAWSJSON},
		"escaped base64": {[]byte(`{"KeyId":"alias/a","Plaintext":"` + escaped + `"}`), kmsapi.Encrypt.In.DecodeAWSJSON},
		"pieces":         {rpc, kmsapi.Encrypt.In.DecodeRPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var in kmsapi.EncryptRequest
			mem := new(lender)
			if err := c.decode(c.body, &in, mem); err != nil || !bytes.Equal(in.Plaintext, secret) {
				t.Fatalf("%d bytes, %v", len(in.Plaintext), err)
			}
			clear(c.body)
			mem.wipe()
			if left := len(in.Plaintext) - bytes.Count(in.Plaintext, []byte{0}); left > 0 {
				t.Errorf("%d bytes are in memory that nobody wipes", left)
			}
		})
	}
}
