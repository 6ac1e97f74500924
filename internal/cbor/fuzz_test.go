package cbor_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/keyrack/keyrack/internal/cbor"
)

// FuzzReader holds the Reader to the library: see agree.
func FuzzReader(f *testing.F) {
	for _, c := range appendixA {
		f.Add(unhex(f, c.hex))
	}
	for _, c := range refused {
		f.Add(unhex(f, c.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

// TestAgreeOnDamage changes single bytes of many random items: most are then
// refused, and the Reader and the library must say so of the same ones.
func TestAgreeOnDamage(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		b := write(nil, tree(rng, 4))
		agree(t, b)
		if len(b) == 0 {
			continue
		}
		i := rng.IntN(len(b))
		b[i] ^= byte(1 + rng.IntN(255))
		agree(t, b)
		agree(t, b[:i])
	}
}

// agree checks that the Reader accepts b exactly if the library in its strict
// modes reads b, writes the same bytes again and found nothing in them that the
// product's CBOR has not.
func agree(t *testing.T, b []byte) {
	t.Helper()
	r := cbor.NewReader(b)
	_, err := r.Raw()
	ours := err == nil && r.Done() == nil
	v, again, err := cbor.Library(b)
	library := err == nil && bytes.Equal(again, b) && plain(v)
	if ours != library {
		t.Errorf("%x: accepted by the Reader: %v, by the library: %v (%v)", b, ours, library, err)
	}
}

// plain reports whether v has only kinds that the product's CBOR knows.
func plain(v any) bool {
	switch v := v.(type) {
	case uint64, int64, []byte, string, bool:
		return true
	case []any:
		for _, e := range v {
			if !plain(e) {
				return false
			}
		}
		return true
	case map[any]any:
		for k, e := range v {
			switch k.(type) {
			case uint64, int64, string:
			default:
				return false
			}
			if !plain(e) {
				return false
			}
		}
		return true
	}
	return false // float64, big.Int, nil, SimpleValue
}

// tree returns a random item of at most depth levels.
func tree(rng *rand.Rand, depth int) any {
	kinds := 5
	if depth > 0 {
		kinds = 7
	}
	switch rng.IntN(kinds) {
	case 0:
		return rng.Uint64() >> rng.IntN(64)
	case 1:
		return -1 - int64(rng.Uint64()>>(1+rng.IntN(63)))
	case 2:
		return make([]byte, rng.IntN(30))
	case 3:
		return string(make([]byte, rng.IntN(300)/(1+rng.IntN(30))))
	case 4:
		return rng.IntN(2) == 0
	case 5:
		list := make([]any, rng.IntN(4))
		for i := range list {
			list[i] = tree(rng, depth-1)
		}
		return list
	}
	pairs := object{}
	for k := range uint64(rng.IntN(4)) {
		pairs = append(pairs, k*9, tree(rng, depth-1))
	}
	return pairs
}
