package seal_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

var context = []byte("\xa1\x66tenant\x64acme")

// testHeader is a header whose every field differs.
func testHeader() seal.MessageHeader {
	return seal.NewMessageHeader([16]byte([]byte("key-id-0123456-6")), [4]byte([]byte("mat1")))
}

// newKey returns a message key and its prk, for a header or a fresh one.
func newKey(t testing.TB) (*seal.MessageKey, []byte, seal.MessageHeader) {
	t.Helper()
	h := testHeader()
	prk := make([]byte, 32)
	seal.KDF(prk, bytes.Repeat([]byte{3}, 32), seal.LabelMessage, h.KDFContext(nil))
	return keyFor(t, h, prk), prk, h
}

func keyFor(t testing.TB, h seal.MessageHeader, prk []byte) *seal.MessageKey {
	t.Helper()
	k, err := seal.NewMessageKey(h, prk)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSeal(t testing.TB, k *seal.MessageKey, plaintext, context []byte) []byte {
	t.Helper()
	blob, err := k.Seal(nil, nil, plaintext, context)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	k, prk, h := newKey(t)
	for _, n := range []int{1, 15, 16, 17, 32, 4096, 70000} {
		for _, context := range [][]byte{nil, {0xa0}, context, make([]byte, 9000)} {
			plaintext := make([]byte, n)
			_, _ = rand.Read(plaintext)
			blob, err := k.Seal([]byte("kept"), nil, plaintext, context)
			if err != nil || len(blob) != 4+n+seal.Overhead || string(blob[:4]) != "kept" {
				t.Fatalf("Seal of %d bytes gave %d bytes, %v", n, len(blob), err)
			}
			got, err := keyFor(t, h, prk).Open([]byte("kept"), nil, blob[4:], context)
			if err != nil || !bytes.Equal(got[4:], plaintext) || string(got[:4]) != "kept" {
				t.Errorf("%d bytes, context of %d: %v", n, len(context), err)
			}
		}
	}
}

func TestMessageLayout(t *testing.T) {
	t.Parallel()
	k, _, h := newKey(t)
	blob := mustSeal(t, k, []byte("x"), context)
	want := append([]byte{1}, "key-id-0123456-6mat1"...)
	want = append(want, h.Salt[:]...)
	if !bytes.HasPrefix(blob, want) {
		t.Errorf("message starts %x, want %x", blob[:len(want)], want)
	}
	if got, ok := seal.ParseMessage(blob); !ok || got != h {
		t.Errorf("ParseMessage returned %+v, %t", got, ok)
	}
	if _, ok := seal.ParseMessage(blob[:len(blob)-1]); ok {
		t.Error("a message without plaintext parses")
	}
	other := bytes.Clone(blob)
	other[0] = 2
	if _, ok := seal.ParseMessage(other); ok {
		t.Error("another format parses")
	}
	if _, ok := seal.ParseMessage(nil); ok {
		t.Error("nothing parses")
	}
}

func TestMessagesDiffer(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	if bytes.Equal(mustSeal(t, k, []byte("same"), nil), mustSeal(t, k, []byte("same"), nil)) {
		t.Error("two messages are equal: the IV was not drawn anew")
	}
	if one, two := testHeader(), testHeader(); one == two {
		t.Error("two headers have one salt")
	}
}

// Whatever single byte of a message changes, it does not open, neither under the key it was sealed with nor under the
// key that the changed header names.
func TestEveryByteOfAMessageIsBound(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	blob := mustSeal(t, k, []byte("a plaintext"), context)
	for i := range blob {
		for _, bit := range []byte{0x01, 0x80} {
			bad := bytes.Clone(blob)
			bad[i] ^= bit
			refuse(t, k, bad, context, fmt.Sprintf("byte %d ^ %x", i, bit))
			h, ok := seal.ParseMessage(bad)
			if !ok {
				continue
			}
			prk := make([]byte, 32)
			seal.KDF(prk, bytes.Repeat([]byte{3}, 32), seal.LabelMessage, h.KDFContext(nil))
			refuse(t, keyFor(t, h, prk), bad, context, fmt.Sprintf("byte %d ^ %x under its own header's key", i, bit))
		}
	}
	for n := range len(blob) {
		refuse(t, k, blob[:n], context, fmt.Sprintf("cut to %d bytes", n))
	}
	refuse(t, k, append(bytes.Clone(blob), 0), context, "one byte longer")
}

func TestAnotherContextOrKeyRefuses(t *testing.T) {
	t.Parallel()
	k, prk, h := newKey(t)
	blob := mustSeal(t, k, []byte("a plaintext"), context)
	for range 3 { // the second and third time the context is remembered
		for i := range context {
			bad := bytes.Clone(context)
			bad[i] ^= 1
			refuse(t, k, blob, bad, fmt.Sprintf("context byte %d", i))
		}
		refuse(t, k, blob, nil, "no context")
		refuse(t, k, blob, append(bytes.Clone(context), 0), "longer context")
	}
	for i := range prk {
		bad := bytes.Clone(prk)
		bad[i] ^= 1
		refuse(t, keyFor(t, h, bad), blob, context, fmt.Sprintf("prk byte %d", i))
	}
}

func refuse(t *testing.T, k *seal.MessageKey, blob, context []byte, what string) {
	t.Helper()
	got, err := k.Open(nil, nil, blob, context)
	if err != seal.ErrOpen || got != nil {
		t.Errorf("%s: Open returned %d bytes, %v", what, len(got), err)
	}
}

func TestRefusedInput(t *testing.T) {
	t.Parallel()
	k, _, h := newKey(t)
	if _, err := k.Seal(nil, nil, nil, context); err != seal.ErrEmpty {
		t.Errorf("Seal of nothing returned %v", err)
	}
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := seal.NewMessageKey(h, make([]byte, n)); err != seal.ErrKeySize {
			t.Errorf("a prk of %d bytes returned %v", n, err)
		}
	}
}

func TestMessageBound(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	k.Spend(seal.MaxMessages-1, 0)
	blob := mustSeal(t, k, []byte("the last"), nil)
	if got, err := k.Seal(nil, nil, []byte("one more"), nil); err != seal.ErrExhausted || got != nil {
		t.Errorf("message %d returned %d bytes, %v", seal.MaxMessages+1, len(got), err)
	}
	if _, err := k.Open(nil, nil, blob, nil); err != nil {
		t.Errorf("a used-up key must still open: %v", err)
	}
}

func TestByteBound(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	k.Spend(1, seal.MaxBytes-10)
	if got, err := k.Seal(nil, nil, make([]byte, 11), nil); err != seal.ErrExhausted || got != nil {
		t.Errorf("one byte beyond returned %d bytes, %v", len(got), err)
	}
	mustSeal(t, k, make([]byte, 10), nil)
	if _, err := k.Seal(nil, nil, []byte{1}, nil); err != seal.ErrExhausted {
		t.Errorf("a full key returned %v", err)
	}
}

func TestBoundHoldsForManyGoroutines(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	const left = 100
	k.Spend(seal.MaxMessages-left, 0)
	var sealed, refused atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range left {
				switch _, err := k.Seal(nil, nil, []byte("p"), nil); err {
				case nil:
					sealed.Add(1)
				case seal.ErrExhausted:
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if sealed.Load() != left || refused.Load() != 7*left {
		t.Errorf("%d sealed and %d refused, want %d and %d", sealed.Load(), refused.Load(), left, 7*left)
	}
}

func TestConcurrentContexts(t *testing.T) {
	t.Parallel()
	k, prk, h := newKey(t)
	opener := keyFor(t, h, prk)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var dst, scratch, out []byte
			for i := range 200 {
				context, plaintext := fmt.Appendf(nil, "context %d", (g+i)%10), fmt.Appendf(nil, "message %d of %d", i, g)
				var err error
				if dst, err = k.Seal(dst[:0], scratch, plaintext, context); err != nil {
					t.Error(err)
					return
				}
				if out, err = opener.Open(out[:0], scratch, dst, context); err != nil || !bytes.Equal(out, plaintext) {
					t.Errorf("opened %q, %v", out, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRememberedContextsAreBounded(t *testing.T) {
	t.Parallel()
	k, _, _ := newKey(t)
	for range 50 {
		for i := range 200 {
			mustSeal(t, k, []byte("p"), fmt.Appendf(nil, "context %d", i))
		}
	}
	for range 3 {
		mustSeal(t, k, []byte("p"), make([]byte, 5000))
	}
	if n := k.Known(); n > 4 {
		t.Errorf("%d contexts remembered", n)
	}
	once, _, _ := newKey(t)
	for i := range 100 {
		mustSeal(t, once, []byte("p"), fmt.Appendf(nil, "context %d", i))
	}
	if n := once.Known(); n != 0 {
		t.Errorf("%d contexts that never came again are remembered", n)
	}
	mustSeal(t, once, []byte("p"), context)
	mustSeal(t, once, []byte("p"), context)
	if n := once.Known(); n != 1 {
		t.Errorf("%d contexts remembered after one came twice", n)
	}
}

// TestSealingKey: two derivations that agree give the message key, and any bit in which they differ none.
func TestSealingKey(t *testing.T) {
	t.Parallel()
	k, prk, h := newKey(t)
	same, err := seal.NewSealingKey(h, prk, bytes.Clone(prk))
	if err != nil {
		t.Fatalf("two derivations of one key: %v", err)
	}
	blob := mustSeal(t, same, []byte("p"), context)
	if got, err := k.Open(nil, nil, blob, context); err != nil || string(got) != "p" {
		t.Errorf("opened %q, %v", got, err)
	}
	for bit := range len(prk) * 8 {
		flipped := bytes.Clone(prk)
		flipped[bit/8] ^= 1 << (bit % 8)
		for _, two := range [][2][]byte{{prk, flipped}, {flipped, prk}} {
			if k, err := seal.NewSealingKey(h, two[0], two[1]); !errors.Is(err, seal.ErrDisagree) || k != nil {
				t.Fatalf("bit %d flipped: %v", bit, err)
			}
		}
	}
	for _, two := range [][2][]byte{{prk, prk[1:]}, {prk[1:], prk}, {prk[1:], prk[1:]}, {nil, nil}} {
		if _, err := seal.NewSealingKey(h, two[0], two[1]); !errors.Is(err, seal.ErrKeySize) {
			t.Errorf("derivations of %d and %d bytes: %v", len(two[0]), len(two[1]), err)
		}
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	k, prk, h := newKey(t)
	opener := keyFor(t, h, prk)
	plaintext := make([]byte, 32)
	dst, scratch, out := make([]byte, 0, 200), make([]byte, 0, 400), make([]byte, 0, 64)
	turn := 0
	for name, contextOf := range map[string]func() []byte{
		"one context":       func() []byte { return context },
		"no context":        func() []byte { return nil },
		"changing contexts": func() []byte { turn++; return contexts[turn%len(contexts)] },
	} {
		run := func() {
			context := contextOf()
			blob, err := k.Seal(dst, scratch, plaintext, context)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := opener.Open(out, scratch, blob, context); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 * len(contexts) {
			run()
		}
		if n := testing.AllocsPerRun(200, run); n != 0 {
			t.Errorf("%s: %v allocations for Seal and Open", name, n)
		}
	}
}

// contexts are more than a message key remembers.
var contexts = bytes.Fields([]byte("a b c d e f g h i j k l"))
