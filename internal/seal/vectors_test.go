package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

var update = flag.Bool("update", false, "rewrite testdata/messages.txt")

// The functions of this file compute messages and records from the package comment alone, with the standard library.

// kdf is one block of SP 800-108 in counter mode for each 32 bytes of out.
func kdf(key []byte, label string, context []byte, size int) (out []byte) {
	for i := byte(1); len(out) < size; i++ {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte{0, 0, 0, i})
		mac.Write([]byte(label + "\x00"))
		mac.Write(context)
		mac.Write([]byte{0, 0, byte(size * 8 >> 8), byte(size * 8)})
		out = mac.Sum(out)
	}
	return out[:size]
}

// blob is header ‖ commitment ‖ IV ‖ ciphertext ‖ tag under prk; committed and bound are the contexts of the commitment and of the
// additional data, which are one in an honest message.
func blob(prk, header, committed, bound, iv, plaintext []byte) []byte {
	keys := kdf(prk, "k1", nil, 64)
	mac := hmac.New(sha256.New, keys[32:])
	mac.Write(committed)
	prefix := mac.Sum(bytes.Clone(header))
	return append(append(bytes.Clone(prefix), iv...), gcm(keys[:32]).Seal(nil, iv, plaintext, append(prefix, bound...))...)
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func sequence(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

// vector is a message with all that made it.
type vector struct {
	name, expect                      string
	material, context, plaintext, msg []byte
}

func (v vector) String() string {
	return fmt.Sprintf("name: %s\nexpect: %s\nmaterial: %x\ncontext: %x\nplaintext: %x\nmessage: %x\n\n",
		v.name, v.expect, v.material, v.context, v.plaintext, v.msg)
}

// vectors returns what testdata/messages.txt holds.
func vectors() []vector {
	material, keyID, iv := sequence(0x00, 32), sequence(0x20, 16), sequence(0xb0, 12)
	salt := sequence(0x60, 24)
	id := kdf(material, "i1", keyID, 32)[:4]
	header := bytes.Join([][]byte{{1}, keyID, id, salt}, nil)
	prk := kdf(material, "m1", header[1:], 32)
	plaintext := []byte("a message of the rack")
	tenant := []byte("\xa1\x66tenant\x64acme")

	honest := func(name string, context, plaintext []byte) vector {
		return vector{name, "open", material, context, plaintext, blob(prk, header, context, context, iv, plaintext)}
	}
	all := []vector{
		honest("empty context", []byte{0xa0}, plaintext),
		honest("one pair", tenant, plaintext),
		honest("one byte", tenant, []byte{0}),
		honest("long context", bytes.Repeat([]byte{0x61}, 300), plaintext),
	}
	refused := func(name string, context, msg []byte) {
		all = append(all, vector{name, "refuse", material, context, nil, msg})
	}
	message := all[1].msg
	refused("another context", []byte("\xa1\x66tenant\x64acmf"), message)
	refused("commitment to another context", tenant, blob(prk, header, nil, tenant, iv, plaintext))
	refused("commitment to another key", tenant, blob(kdf(prk, "m1", nil, 32), header, tenant, tenant, iv, plaintext))
	refused("altered tag", tenant, append(bytes.Clone(message[:len(message)-1]), message[len(message)-1]^1))
	refused("another format", tenant, append([]byte{2}, message[1:]...))
	refused("cut", tenant, message[:104])
	refused("no plaintext", tenant, blob(prk, header, tenant, tenant, iv, nil))
	first, second := twoContexts(kdf(prk, "k1", nil, 64)[:32])
	msg := blob(prk, header, first, first, iv, plaintext)
	all = append(all, vector{"the first of two contexts under which plain GCM opens it", "open", material, first, plaintext, msg})
	refused("the second of two contexts under which plain GCM opens it", second, msg)
	return all
}

// The file is for implementations in other languages too.
func TestVectorsAreTheirDefinition(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	for _, v := range vectors() {
		fmt.Fprint(&want, v)
	}
	const file = "testdata/messages.txt"
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want.String() {
		t.Errorf("%s is not what the definition gives: run with -update", file)
	}
}

// openVector opens a message as service/kms does: parse, derive, open.
func openVector(v vector) ([]byte, error) {
	h, ok := seal.ParseMessage(v.msg)
	if !ok {
		return nil, seal.ErrOpen
	}
	var prk [32]byte
	seal.KDF(prk[:], v.material, seal.LabelMessage, h.KDFContext(nil))
	k, err := seal.NewMessageKey(h, prk[:])
	if err != nil {
		return nil, err
	}
	return k.Open(nil, nil, v.msg, v.context)
}

// What Seal makes opens with the standard library alone, and what the definition makes, OpenRecord opens.
func TestSealedIsItsDefinition(t *testing.T) {
	t.Parallel()
	k, prk, _ := newKey(t)
	msg := mustSeal(t, k, []byte("a message"), context)
	if want := blob(prk, msg[:45], context, context, msg[77:89], []byte("a message")); !bytes.Equal(msg, want) {
		t.Errorf("message %x, want %x", msg, want)
	}
	r := sealRecord(t, []byte("a record"))
	where := append(append(place.Appliance[:], 0x12, 0x34), r[1:29]...)
	if want := blob(kdf(bucketKey, "r1", where, 32), r[:29], name, name, r[61:73], []byte("a record")); !bytes.Equal(r, want) {
		t.Errorf("record %x, want %x", r, want)
	}
}

func TestVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/messages.txt")
	if err != nil {
		t.Fatal(err)
	}
	opened, refused := 0, 0
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		field := map[string]string{}
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			field[key] = strings.TrimSpace(value)
		}
		bytesOf := func(key string) []byte {
			b, err := hex.DecodeString(field[key])
			if err != nil {
				t.Fatalf("%s: %s: %v", field["name"], key, err)
			}
			return b
		}
		got, err := openVector(vector{material: bytesOf("material"), context: bytesOf("context"), msg: bytesOf("message")})
		switch {
		case field["expect"] == "open" && err == nil && bytes.Equal(got, bytesOf("plaintext")):
			opened++
		case field["expect"] == "refuse" && err == seal.ErrOpen:
			refused++
		default:
			t.Errorf("%s: %x, %v", field["name"], got, err)
		}
	}
	if opened != 5 || refused != 8 {
		t.Errorf("%d messages opened and %d refused", opened, refused)
	}
}
