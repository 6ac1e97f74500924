package kwp_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/internal/kwp"
	"github.com/keyrack/keyrack/internal/vectors"
)

// TestEveryAnswerOfNIST: CAVS 21.4, KWP of SP 800-38F with keys of every length, wrapped and unwrapped.
func TestEveryAnswerOfNIST(t *testing.T) {
	t.Parallel()
	valid, refused := 0, 0
	for _, file := range []string{"AD_128", "AD_192", "AD_256", "AE_128", "AE_192", "AE_256"} {
		for _, c := range vectors.NIST(t, "keywrap/kwtestvectors/KWP_"+file+".txt") {
			if !c.Has("C") {
				continue
			}
			kek, wrapped := c.Bytes(t, "K"), c.Bytes(t, "C")
			got, err := unwrap(kek, wrapped)
			if c.Has("FAIL") {
				refused++
				if !errors.Is(err, kwp.ErrUnwrap) {
					t.Errorf("%s %s: it unwraps to %x, %v", file, c["COUNT"], got, err)
				}
				continue
			}
			valid++
			key := c.Bytes(t, "P")
			if err != nil || !bytes.Equal(got, key) {
				t.Errorf("%s %s: got %x (%v), want %x", file, c["COUNT"], got, err, key)
			}
			if again, err := kwp.Wrap(kek, key); err != nil || !bytes.Equal(again, wrapped) {
				t.Errorf("%s %s: it wraps to %x (%v), want %x", file, c["COUNT"], again, err, wrapped)
			}
		}
	}
	if valid < 2000 || refused < 200 {
		t.Errorf("there were %d and %d", valid, refused)
	}
}
