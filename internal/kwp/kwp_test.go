package kwp_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/kwp"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func unwrap(kek, wrapped []byte) ([]byte, error) {
	return kwp.Unwrap(make([]byte, len(wrapped)), kek, wrapped)
}

// answers are the lines of testdata/answers.txt; key is nil for what must not unwrap.
func answers(tb testing.TB) (all []struct{ kek, key, wrapped []byte }) {
	tb.Helper()
	text, err := os.ReadFile("testdata/answers.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "#" {
			continue
		}
		a := struct{ kek, key, wrapped []byte }{kek: unhex(tb, f[0]), wrapped: unhex(tb, f[2])}
		if f[1] != "-" {
			a.key = unhex(tb, f[1])
		}
		all = append(all, a)
	}
	return all
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	valid, refused := 0, 0
	for _, a := range answers(t) {
		got, err := unwrap(a.kek, a.wrapped)
		if a.key == nil {
			refused++
			if !errors.Is(err, kwp.ErrUnwrap) {
				t.Errorf("%x unwraps to %x, %v", a.wrapped, got, err)
			}
			continue
		}
		valid++
		if err != nil || !bytes.Equal(got, a.key) {
			t.Errorf("%x unwraps to %x, %v, want %x", a.wrapped, got, err, a.key)
		}
		if again, err := kwp.Wrap(a.kek, a.key); err != nil || !bytes.Equal(again, a.wrapped) {
			t.Errorf("%x wraps to %x, %v, want %x", a.key, again, err, a.wrapped)
		}
	}
	if valid < 20 || refused < 20 {
		t.Errorf("testdata holds %d answers and %d refusals", valid, refused)
	}
}

// TestTheLongestKey: the answers have one of more than 255 steps, this one has more than 4,095.
func TestTheLongestKey(t *testing.T) {
	t.Parallel()
	key, kek := make([]byte, kwp.MaxKey), make([]byte, 32)
	rand.Read(key)
	rand.Read(kek)
	wrapped, err := kwp.Wrap(kek, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unwrap(kek, wrapped); err != nil || !bytes.Equal(got, key) {
		t.Errorf("the longest key does not come back: %v", err)
	}
}

// TestEveryBitCounts: of the wrapped key and of the key it is wrapped under.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	kek := make([]byte, 32)
	rand.Read(kek)
	for _, n := range []int{1, 8, 9, 16, 41} {
		wrapped, err := kwp.Wrap(kek, make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 * (len(wrapped) + len(kek)) {
			w, k := bytes.Clone(wrapped), bytes.Clone(kek)
			if i < 8*len(w) {
				w[i/8] ^= 1 << (i % 8)
			} else {
				k[i/8-len(w)] ^= 1 << (i % 8)
			}
			if _, err := unwrap(k, w); !errors.Is(err, kwp.ErrUnwrap) {
				t.Errorf("%d bytes, bit %d flipped: %v", n, i, err)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	kek := make([]byte, 32)
	for _, n := range []int{0, kwp.MaxKey + 1} {
		if _, err := kwp.Wrap(kek, make([]byte, n)); !errors.Is(err, kwp.ErrSize) {
			t.Errorf("%d bytes wrap: %v", n, err)
		}
	}
	for _, n := range []int{0, 8, 15, 17, 23, kwp.MaxKey + 16} {
		if _, err := unwrap(kek, make([]byte, n)); !errors.Is(err, kwp.ErrUnwrap) {
			t.Errorf("%d bytes unwrap: %v", n, err)
		}
	}
	if _, err := kwp.Unwrap(make([]byte, 16), kek, make([]byte, 24)); !errors.Is(err, kwp.ErrUnwrap) {
		t.Errorf("too little room: %v", err)
	}
	for _, n := range []int{0, 15, 33} {
		if _, err := kwp.Wrap(make([]byte, n), []byte{1}); err == nil {
			t.Errorf("a kek of %d bytes wraps", n)
		}
		if _, err := unwrap(make([]byte, n), make([]byte, 24)); err == nil || errors.Is(err, kwp.ErrUnwrap) {
			t.Errorf("a kek of %d bytes: %v", n, err)
		}
	}
}

// FuzzUnwrap: what unwraps is exactly what wraps to it again.
func FuzzUnwrap(f *testing.F) {
	for _, a := range answers(f) {
		f.Add(a.kek, a.wrapped)
	}
	f.Fuzz(func(t *testing.T, kek, wrapped []byte) {
		key, err := unwrap(kek, wrapped)
		if err != nil {
			return
		}
		if again, err := kwp.Wrap(kek, key); err != nil || !bytes.Equal(again, wrapped) {
			t.Errorf("%x unwraps to %x, which wraps to %x, %v", wrapped, key, again, err)
		}
	})
}
