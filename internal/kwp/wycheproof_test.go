package kwp_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/internal/kwp"
	"github.com/keyrack/keyrack/internal/vectors"
)

// TestWycheproof: keys of every length under each length of AES key, and what is wrong with a padding or a length.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for _, g := range vectors.Wycheproof(t, "aes_kwp") {
		for _, v := range g.Tests {
			seen[v.Result]++
			got, err := unwrap(v.Key, v.CT)
			if !v.Valid() {
				if !errors.Is(err, kwp.ErrUnwrap) {
					t.Errorf("%s: it unwraps to %x, %v", &v, got, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got, v.Msg) {
				t.Errorf("%s: got %x (%v), want %x", &v, got, err, v.Msg)
			}
			if again, err := kwp.Wrap(v.Key, v.Msg); err != nil || !bytes.Equal(again, v.CT) {
				t.Errorf("%s: it wraps to %x (%v), want %x", &v, again, err, v.CT)
			}
		}
	}
	if seen["valid"] < 75 || seen["invalid"] < 170 {
		t.Errorf("there were %v", seen)
	}
}

// TestWycheproofOfTheOtherWrap: KW of SP 800-38F, whose initial value is another one, is not KWP, valid as it may be.
func TestWycheproofOfTheOtherWrap(t *testing.T) {
	t.Parallel()
	n := 0
	for _, g := range vectors.Wycheproof(t, "aes_wrap") {
		for _, v := range g.Tests {
			n++
			if got, err := unwrap(v.Key, v.CT); !errors.Is(err, kwp.ErrUnwrap) {
				t.Errorf("%s: it unwraps to %x, %v", &v, got, err)
			}
		}
	}
	if n < 160 {
		t.Errorf("there were %d", n)
	}
}
