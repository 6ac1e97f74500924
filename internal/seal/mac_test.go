package seal_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// RFC 4231, test cases 1 to 4, 6 and 7 (case 5 is a truncated output).
func TestMACAnswersOfRFC4231(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte{0xaa}, 131)
	for _, v := range []struct {
		key, message []byte
		want         string
	}{
		{bytes.Repeat([]byte{0x0b}, 20), []byte("Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
		{[]byte("Jefe"), []byte("what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
		{bytes.Repeat([]byte{0xaa}, 20), bytes.Repeat([]byte{0xdd}, 50), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
		{unhex(t, "0102030405060708090a0b0c0d0e0f10111213141516171819"), bytes.Repeat([]byte{0xcd}, 50), "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
		{long, []byte("Test Using Larger Than Block-Size Key - Hash Key First"), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
		{long, []byte("This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm."), "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
	} {
		if got := seal.MAC(nil, v.key, v.message); !bytes.Equal(got, unhex(t, v.want)) {
			t.Errorf("MAC of %q: %x, want %s", v.message, got, v.want)
		}
	}
}

func TestMACIsHMAC(t *testing.T) {
	t.Parallel()
	source := bytes.Repeat([]byte("0123456789"), 300)
	for _, k := range []int{0, 1, 32, 63, 64, 65, 128, 200} {
		for _, m := range []int{0, 1, 55, 56, 63, 64, 128, 191, 192, 193, 256, 2900} {
			mac := hmac.New(sha256.New, source[:k])
			mac.Write(source[:m])
			if got, want := seal.MAC(nil, source[:k], source[:m]), mac.Sum(nil); !bytes.Equal(got, want) {
				t.Errorf("key of %d, message of %d bytes: %x, want %x", k, m, got, want)
			}
			if got, want := seal.MAC(nil, source[:k], source[:m/3], nil, source[m/3:m]), mac.Sum(nil); !bytes.Equal(got, want) {
				t.Errorf("key of %d, message of %d bytes in parts: %x, want %x", k, m, got, want)
			}
		}
	}
}

func TestMACAppendsInPlace(t *testing.T) {
	t.Parallel()
	room := append(make([]byte, 0, 36), "kept"...)
	got := seal.MAC(room, []byte("key"), room)
	if &got[0] != &room[0] || len(got) != 36 || !bytes.Equal(got[4:], seal.MAC(nil, []byte("key"), []byte("kept"))) {
		t.Errorf("got %q", got)
	}
}

func TestMACAndKDFDoNotAllocate(t *testing.T) {
	key, message, out := make([]byte, 32), make([]byte, 2000), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { seal.MAC(out, key, message) }); n != 0 {
		t.Errorf("%v allocations for a MAC", n)
	}
	if n := testing.AllocsPerRun(100, func() { seal.MAC(out, key, message[:2], message) }); n != 0 {
		t.Errorf("%v allocations for a MAC of two parts", n)
	}
	if n := testing.AllocsPerRun(100, func() { seal.KDF(out[:64], key, seal.LabelMessage, message[:100]) }); n != 0 {
		t.Errorf("%v allocations for a KDF", n)
	}
}
