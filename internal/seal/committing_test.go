package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// element is an element of GF(2^128) as SP 800-38D, section 6.3 writes it: the leftmost bit is the coefficient of x^0.
type element [2]uint64

func toElement(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (e element) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, e[0]), e[1])
}

// times is SP 800-38D, algorithm 1.
func (e element) times(v element) (z element) {
	for i := range 128 {
		if e[i/64]>>(63-i%64)&1 == 1 {
			z[0], z[1] = z[0]^v[0], z[1]^v[1]
		}
		carry := v[1] & 1
		v[1] = v[1]>>1 | v[0]<<63
		v[0] = v[0]>>1 ^ carry*0xe1<<56
	}
	return z
}

// Whoever knows a key, as everyone who imported its material does, finds for one plain GCM ciphertext a second context.
// GHASH is a polynomial in H over the blocks of the additional data, so adding d to block i and d·H to block i+1 changes
// nothing: d·H^(n-i) + d·H·H^(n-i-1) = 0. The commitment must refuse the second context.
func TestOneCiphertextUnderTwoContextsIsRefused(t *testing.T) {
	t.Parallel()
	k, prk, _ := newKey(t)
	var keys [64]byte
	seal.KDF(keys[:], prk, seal.LabelSplit, nil)
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		t.Fatal(err)
	}
	hash := make([]byte, 16)
	block.Encrypt(hash, hash)

	// 77 bytes stand before the context: its bytes from 3 on fill whole blocks of the additional data.
	first := []byte("abc" + "tenant=acme-0000" + "role=reader-0000" + "end")
	second := bytes.Clone(first)
	d := toElement([]byte("\x00\x00\x00\x00\x00\x00\x00a\x1d\x06\x04\x00\x00\x00\x00\x00"))
	xor(second[3:19], d.bytes())
	xor(second[19:35], d.times(toElement(hash)).bytes())
	if bytes.Equal(first, second) {
		t.Fatal("no second context")
	}

	blob := mustSeal(t, k, []byte("the same plaintext"), first)
	plain, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	for name, context := range map[string][]byte{"first": first, "second": second} {
		aad := append(bytes.Clone(blob[:77]), context...)
		if got, err := plain.Open(nil, blob[77:89], blob[89:], aad); err != nil || string(got) != "the same plaintext" {
			t.Fatalf("plain GCM under the %s context: %q, %v; the attack is not what it should be", name, got, err)
		}
	}
	if got, err := k.Open(nil, nil, blob, first); err != nil || string(got) != "the same plaintext" {
		t.Errorf("under its own context: %q, %v", got, err)
	}
	refuse(t, k, blob, second, "a second context that plain GCM accepts")
}

func xor(dst, src []byte) {
	for i := range src {
		dst[i] ^= src[i]
	}
}
