package seal_test

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

// A KDF or a MAC leaves the padded key, which is as good as the key, nowhere in the process. crypto/hmac leaves it on the heap.
// Not parallel: the memory of the whole process is read.
func TestNoPaddedKeyStaysInMemory(t *testing.T) {
	key, err := securemem.New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Free()
	_, _ = rand.Read(key.Bytes())
	use := func(key []byte) {
		var out [64]byte
		seal.KDF(out[:], key, seal.LabelMessage, []byte("context"))
		seal.MAC(out[:0], key, make([]byte, 1000))
	}
	use(make([]byte, 32)) // the stack grows here: without runtime/secret, the old one keeps what was on it
	for range 100 {
		use(key.Bytes())
	}
	// The needles are kept under a mask, so that they do not find themselves.
	const mask = 0xa5
	needles := make([][]byte, 2)
	for i, pad := range []byte{0x36, 0x5c} {
		for _, b := range key.Bytes() {
			needles[i] = append(needles[i], b^pad^mask)
		}
	}
	if n := occurrences(t, needles, mask); n != 0 {
		t.Errorf("the padded key is in memory %d times", n)
	}
	planted := bytes.Clone(needles[0])
	for i := range planted {
		planted[i] ^= mask
	}
	if n := occurrences(t, needles, mask); n < 1 { // more where the stack grew
		t.Error("the search does not find a planted key")
	}
	runtime.KeepAlive(planted)
}

// occurrences counts where in the writable memory of the process a masked needle stands. Mappings too large to be the heap, a
// stack or the arena are the race detector's own.
func occurrences(t *testing.T, needles [][]byte, mask byte) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	chunk := make([]byte, 1<<20)
	masks := bytes.Repeat([]byte{mask}, len(chunk))
	for line := range strings.Lines(string(maps)) {
		var lo, hi int64
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &lo, &hi, &access); err != nil || !strings.HasPrefix(access, "rw") || hi-lo > 256<<20 {
			continue
		}
		for at := lo; at < hi; at += int64(len(chunk)) - 31 {
			got, _ := mem.ReadAt(chunk[:min(int64(len(chunk)), hi-at)], at) // some mappings cannot be read
			subtle.XORBytes(chunk[:got], chunk[:got], masks[:got])
			for _, needle := range needles {
				n += bytes.Count(chunk[:got], needle)
			}
			clear(chunk[:got]) // a needle, unmasked by now, must not be found here later
		}
	}
	return n
}
