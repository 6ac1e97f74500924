package seal_test

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"testing"
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

// twoContexts returns two contexts between which plain GCM under key cannot tell after a 77-byte prefix. Whoever knows a key, as
// everyone who imported its material does, can find such a pair: GHASH is a polynomial in H over the blocks of the additional
// data, so adding d to block i and d·H to block i+1 changes nothing, for d·H^(n-i) + d·H·H^(n-i-1) = 0.
func twoContexts(key []byte) (first, second []byte) {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	h := make([]byte, 16)
	block.Encrypt(h, h)
	first = []byte("abc" + "tenant=acme-0000" + "role=reader-0000" + "end") // bytes 3 to 35 are two whole blocks
	second = bytes.Clone(first)
	d := toElement([]byte("\x00\x00\x00\x00\x00\x00\x00a\x1d\x06\x04\x00\x00\x00\x00\x00"))
	xor(second[3:19], d.bytes())
	xor(second[19:35], d.times(toElement(h)).bytes())
	return first, second
}

func xor(dst, src []byte) {
	for i := range src {
		dst[i] ^= src[i]
	}
}

func TestOneCiphertextUnderTwoContextsIsRefused(t *testing.T) {
	t.Parallel()
	k, prk, _ := newKey(t)
	ke := kdf(prk, "k1", nil, 64)[:32]
	first, second := twoContexts(ke)
	if bytes.Equal(first, second) {
		t.Fatal("no second context")
	}
	blob := mustSeal(t, k, []byte("the same plaintext"), first)
	for name, context := range map[string][]byte{"first": first, "second": second} {
		aad := append(bytes.Clone(blob[:77]), context...)
		if got, err := gcm(ke).Open(nil, blob[77:89], blob[89:], aad); err != nil || string(got) != "the same plaintext" {
			t.Fatalf("plain GCM under the %s context: %q, %v; the attack is not what it should be", name, got, err)
		}
	}
	if got, err := k.Open(nil, nil, blob, first); err != nil || string(got) != "the same plaintext" {
		t.Errorf("under its own context: %q, %v", got, err)
	}
	refuse(t, k, blob, second, "a second context that plain GCM accepts")
}
