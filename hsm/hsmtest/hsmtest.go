// Package hsmtest is what every token must do, whatever it is made of. A provider's test file is one call of Run plus its
// own quirks. It does not test how well a token keeps its keys: that takes the device.
package hsmtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/hsm"
)

// suite is a token under test.
type suite struct {
	fresh func(*testing.T) hsm.Opener
}

// Run tests a kind of token. Each call of fresh makes a new, empty token and returns its opener; opening it again must
// find the keys that were made before, as after a restart. The previous Provider is closed first. Subtests run in parallel.
func Run(t *testing.T, fresh func(t *testing.T) hsm.Opener) {
	s := suite{fresh}
	for name, test := range map[string]func(*testing.T){
		"Describe":       s.describe,
		"Abilities":      s.abilities,
		"PRF":            s.prf,
		"Sign":           s.sign,
		"Inputs":         s.inputs,
		"Reload":         s.reload,
		"Blobs":          s.blobs,
		"Destroy":        s.destroy,
		"DestroyNothing": s.destroyNothing,
		"Planned":        s.planned,
		"BadPlans":       s.badPlans,
		"Random":         s.random,
		"Closed":         s.closed,
		"Cancelled":      s.cancelled,
		"Concurrent":     s.concurrent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// wanted is what a key of each spec can do: exactly this, no more.
var wanted = map[hsm.Spec]hsm.Abilities{hsm.PRFSHA256: hsm.CanPRF, hsm.SignP256: hsm.CanSign}

// describe: a token says what it is, the same each time it is opened, and different from every other.
func (s suite) describe(t *testing.T) {
	reopen := s.fresh(t)
	p := open(t, reopen)
	d := p.Describe()
	if d.Kind == "" || d.Model == "" || d.Serial == "" || len(d.Specs) == 0 {
		t.Errorf("incomplete: %+v", d)
	}
	for _, spec := range d.Specs {
		if wanted[spec] == 0 {
			t.Errorf("offers unknown %v", spec)
		}
	}
	d.Specs[0] = 99
	if again := p.Describe(); slices.Contains(again.Specs, 99) {
		t.Error("Describe gives its own memory away")
	}
	closed(t, p)
	if again := open(t, reopen).Describe(); again.Serial != d.Serial || again.Kind != d.Kind {
		t.Errorf("%s %s when opened again, was %s %s", again.Kind, again.Serial, d.Kind, d.Serial)
	}
	if other := open(t, s.fresh(t)).Describe(); other.Serial == d.Serial {
		t.Errorf("two tokens have serial %s", d.Serial)
	}
}

// abilities: what the device tells, what the type can do, and what the spec promises are one, for a new key and a loaded one.
func (s suite) abilities(t *testing.T) {
	p := open(t, s.fresh(t))
	for _, spec := range p.Describe().Specs {
		k, blob := generate(t, p, spec)
		loaded := load(t, p, blob)
		for name, k := range map[string]hsm.Key{"generated": k, "loaded": loaded} {
			if k.Spec() != spec {
				t.Errorf("%s %v says it is %v", name, spec, k.Spec())
			}
			if told, is := k.Abilities(), hsm.AbilitiesOf(k); told != is || told != wanted[spec] {
				t.Errorf("%s %v: the device tells %v, the type has %v, want %v", name, spec, told, is, wanted[spec])
			}
			if public := k.Public(); (public != nil) != (spec == hsm.SignP256) {
				t.Errorf("%s %v has public key %v", name, spec, public)
			}
		}
	}
	for _, spec := range []hsm.Spec{0, 3, 255} {
		if _, _, err := p.Generate(t.Context(), spec); !errors.Is(err, hsm.ErrSpec) {
			t.Errorf("Generate of %v returned %v", spec, err)
		}
	}
}

// prf: one key is one function, and neither keys nor inputs collide, lengths of zero bytes included. Which function it is takes a
// known key, which no token gives: HMAC-SHA-256 is the provider's own test.
func (s suite) prf(t *testing.T) {
	p := open(t, s.fresh(t))
	one, _ := generate(t, p, hsm.PRFSHA256)
	two, _ := generate(t, p, hsm.PRFSHA256)
	seen := map[string]string{}
	for _, k := range []struct {
		name string
		key  hsm.Key
	}{{"one", one}, {"two", two}} {
		for _, n := range []int{1, 2, 55, 64, 65, hsm.MaxPRFInput} {
			what := fmt.Sprintf("key %s, %d zero bytes", k.name, n)
			out := prf(t, k.key, make([]byte, n))
			if len(out) != sha256.Size || !bytes.Equal(out, prf(t, k.key, make([]byte, n))) {
				t.Errorf("%s: %x, and another answer the second time", what, out)
			}
			if other, ok := seen[string(out)]; ok {
				t.Errorf("%s and %s give one output", what, other)
			}
			seen[string(out)] = what
		}
	}
	inPlace(t, one)
}

// inPlace checks that the output goes where the caller keeps secrets.
func inPlace(t *testing.T, k hsm.Key) {
	room := make([]byte, 4+sha256.Size)
	copy(room, "kept")
	got, err := k.(hsm.PRF).PRF(t.Context(), room[:4], []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(room) || &got[0] != &room[0] || string(room[:4]) != "kept" || !bytes.Equal(room[4:], prf(t, k, []byte("x"))) {
		t.Errorf("appending to memory with room gave %x, the room holds %x", got, room)
	}
}

// sign: signatures verify under the public half, for their digest alone.
func (s suite) sign(t *testing.T) {
	p := open(t, s.fresh(t))
	k, _ := generate(t, p, hsm.SignP256)
	other, _ := generate(t, p, hsm.SignP256)
	public, ok := k.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("public key is %T", k.Public())
	}
	if public.Equal(other.Public()) {
		t.Error("two keys are one")
	}
	digest, another := sha256.Sum256([]byte("this")), sha256.Sum256([]byte("that"))
	for _, digest := range [][32]byte{digest, {}} {
		if signature := sign(t, k, digest[:]); !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Errorf("signature %x does not verify", signature)
		}
	}
	if ecdsa.VerifyASN1(public, another[:], sign(t, k, digest[:])) {
		t.Error("a signature verifies for another digest")
	}
}

// inputs: lengths that not every token can take are refused by every token.
func (s suite) inputs(t *testing.T) {
	p := open(t, s.fresh(t))
	prf, _ := generate(t, p, hsm.PRFSHA256)
	signer, _ := generate(t, p, hsm.SignP256)
	for _, n := range []int{0, hsm.MaxPRFInput + 1} {
		if got, err := prf.(hsm.PRF).PRF(t.Context(), nil, make([]byte, n)); !errors.Is(err, hsm.ErrInput) || got != nil {
			t.Errorf("PRF of %d bytes returned %x, %v", n, got, err)
		}
	}
	for _, n := range []int{0, 20, 31, 33, 64} {
		if got, err := signer.(hsm.Signer).SignDigest(t.Context(), make([]byte, n)); !errors.Is(err, hsm.ErrInput) || got != nil {
			t.Errorf("SignDigest of %d bytes returned %x, %v", n, got, err)
		}
	}
}

// reload: a blob finds the same key after the token was closed and opened again.
func (s suite) reload(t *testing.T) {
	reopen := s.fresh(t)
	p := open(t, reopen)
	root, rootBlob := generate(t, p, hsm.PRFSHA256)
	signer, signerBlob := generate(t, p, hsm.SignP256)
	want := prf(t, root, []byte("input"))
	public := signer.Public().(*ecdsa.PublicKey)
	closed(t, p)

	p = open(t, reopen)
	for range 2 {
		if got := prf(t, load(t, p, rootBlob), []byte("input")); !bytes.Equal(got, want) {
			t.Errorf("reloaded PRF gives %x, was %x", got, want)
		}
		reloaded := load(t, p, signerBlob)
		if digest := sha256.Sum256(nil); !public.Equal(reloaded.Public()) || !ecdsa.VerifyASN1(public, digest[:], sign(t, reloaded, digest[:])) {
			t.Error("reloaded signing key is another one")
		}
	}
}

// blobs: blobs come from a store that someone may have written to. Whatever byte is changed, no key comes out, neither this one nor
// another.
func (s suite) blobs(t *testing.T) {
	p := open(t, s.fresh(t))
	_, blob := generate(t, p, hsm.PRFSHA256)
	_, foreign := generate(t, open(t, s.fresh(t)), hsm.PRFSHA256)
	bad := map[string][]byte{"none": nil, "foreign": foreign, "cut": blob[:len(blob)-1], "longer": append(bytes.Clone(blob), 0), "text": []byte("blob")}
	for i := range blob {
		flipped := bytes.Clone(blob)
		flipped[i] ^= 1
		bad[fmt.Sprintf("byte %d flipped", i)] = flipped
	}
	for name, b := range bad {
		if k, err := p.Load(t.Context(), b); !errors.Is(err, hsm.ErrBlob) || k != nil {
			t.Errorf("%s: Load returned %v, %v", name, k, err)
		}
	}
	load(t, p, blob)
}

// destroy: a destroyed key is gone for every handle, every blob and every later opening, and it alone.
func (s suite) destroy(t *testing.T) {
	reopen := s.fresh(t)
	p := open(t, reopen)
	_, first := generate(t, p, hsm.PRFSHA256)
	doomed, blob := generate(t, p, hsm.PRFSHA256)
	loaded := load(t, p, blob)
	signer, signerBlob := generate(t, p, hsm.SignP256)
	kept, keptBlob := generate(t, p, hsm.PRFSHA256)
	want, wantFirst := prf(t, kept, []byte("input")), prf(t, load(t, p, first), []byte("input"))

	mustDestroy(t, p, blob)
	for name, k := range map[string]hsm.Key{"the handle of Generate": doomed, "the handle of Load": loaded} {
		if err := call(t, k); !errors.Is(err, hsm.ErrBlob) && !errors.Is(err, hsm.ErrClosed) {
			t.Errorf("%s of a destroyed key returned %v", name, err)
		}
	}
	if err := call(t, signer); err != nil {
		t.Errorf("destroying one key ended another: %v", err)
	}
	mustDestroy(t, p, signerBlob)
	_, after := generate(t, p, hsm.PRFSHA256)
	for range 2 { // the second time as after a restart
		gone(t, p, blob)
		gone(t, p, signerBlob)
		load(t, p, after)
		for blob, want := range map[string][]byte{string(first): wantFirst, string(keptBlob): want} {
			if got := prf(t, load(t, p, []byte(blob)), []byte("input")); !bytes.Equal(got, want) {
				t.Errorf("another key gives %x, was %x", got, want)
			}
		}
		closed(t, p)
		p = open(t, reopen)
	}
}

// destroyNothing: what names no key, and a context that is done, leave every key as it is.
func (s suite) destroyNothing(t *testing.T) {
	p := open(t, s.fresh(t))
	k, blob := generate(t, p, hsm.PRFSHA256)
	_, foreign := generate(t, open(t, s.fresh(t)), hsm.PRFSHA256)
	bad := map[string][]byte{"none": nil, "foreign": foreign, "cut": blob[:len(blob)-1], "longer": append(bytes.Clone(blob), 0)}
	for i := range blob {
		flipped := bytes.Clone(blob)
		flipped[i] ^= 1
		bad[fmt.Sprintf("byte %d flipped", i)] = flipped
	}
	for name, b := range bad {
		if err := p.Destroy(t.Context(), b); !errors.Is(err, hsm.ErrBlob) {
			t.Errorf("%s: Destroy returned %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Destroy(ctx, blob); !errors.Is(err, context.Canceled) {
		t.Errorf("Destroy with a cancelled context returned %v", err)
	}
	if err := call(t, k); err != nil {
		t.Errorf("the key ended all the same: %v", err)
	}
	load(t, p, blob)
}

// mustDestroy ends the key of blob.
func mustDestroy(t *testing.T, p hsm.Provider, blob []byte) {
	t.Helper()
	if err := p.Destroy(t.Context(), blob); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

// gone checks that blob is one of no key, for Load and for Destroy.
func gone(t *testing.T, p hsm.Provider, blob []byte) {
	t.Helper()
	if k, err := p.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) || k != nil {
		t.Errorf("Load of a destroyed key returned %v, %v", k, err)
	}
	if err := p.Destroy(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("destroying a key again returned %v", err)
	}
}

// random: no 16 bytes come twice, and none stay unfilled.
func (s suite) random(t *testing.T) {
	p := open(t, s.fresh(t))
	seen := map[[16]byte]bool{}
	for range 50 {
		var draw [100]byte
		if err := p.Random(t.Context(), draw[:]); err != nil {
			t.Fatal(err)
		}
		for _, part := range [][16]byte{[16]byte(draw[:]), [16]byte(draw[42:]), [16]byte(draw[84:])} {
			if seen[part] || part == [16]byte{} {
				t.Fatalf("the generator repeats or leaves %x", part)
			}
			seen[part] = true
		}
	}
	if err := p.Random(t.Context(), nil); err != nil {
		t.Errorf("no bytes: %v", err)
	}
}

// closed: closing one handle ends that handle, closing the token ends them all, and both may happen twice.
func (s suite) closed(t *testing.T) {
	p := open(t, s.fresh(t))
	root, blob := generate(t, p, hsm.PRFSHA256)
	signer, _ := generate(t, p, hsm.SignP256)
	spare, spareSigner := load(t, p, blob), signer
	for range 2 {
		if err := root.Close(); err != nil {
			t.Errorf("closing a key: %v", err)
		}
	}
	refused(t, "closed key", call(t, root))
	if err := call(t, spare); err != nil {
		t.Errorf("closing one Key closed another of the same key: %v", err)
	}
	closed(t, p)
	closed(t, p)
	refused(t, "key of a closed token", call(t, spare))
	refused(t, "signing key of a closed token", call(t, spareSigner))
	_, _, err := p.Generate(t.Context(), hsm.PRFSHA256)
	refused(t, "Generate", err)
	_, err = p.Load(t.Context(), blob)
	refused(t, "Load", err)
	refused(t, "Destroy", p.Destroy(t.Context(), blob))
	refused(t, "Random", p.Random(t.Context(), make([]byte, 1)))
}

// refused checks that err is ErrClosed.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("%s returned %v, want ErrClosed", what, err)
	}
}

// call uses k's ability once.
func call(t *testing.T, k hsm.Key) (err error) {
	t.Helper()
	switch k := k.(type) {
	case hsm.PRF:
		_, err = k.PRF(t.Context(), nil, []byte("x"))
	case hsm.Signer:
		_, err = k.SignDigest(t.Context(), make([]byte, sha256.Size))
	default:
		t.Fatalf("%T can do nothing", k)
	}
	return err
}

// cancelled: a context that is done beforehand stops every call.
func (s suite) cancelled(t *testing.T) {
	p := open(t, s.fresh(t))
	root, blob := generate(t, p, hsm.PRFSHA256)
	signer, _ := generate(t, p, hsm.SignP256)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, f := range map[string]func() error{
		"Generate":   func() error { _, _, err := p.Generate(ctx, hsm.PRFSHA256); return err },
		"Load":       func() error { _, err := p.Load(ctx, blob); return err },
		"Random":     func() error { return p.Random(ctx, make([]byte, 8)) },
		"PRF":        func() error { _, err := root.(hsm.PRF).PRF(ctx, nil, []byte("x")); return err },
		"SignDigest": func() error { _, err := signer.(hsm.Signer).SignDigest(ctx, make([]byte, 32)); return err },
	} {
		if err := f(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context returned %v", name, err)
		}
	}
}

// concurrent: one Provider and one Key serve many goroutines, and no key that was made meanwhile is lost, nor stays one that was destroyed.
func (s suite) concurrent(t *testing.T) {
	reopen := s.fresh(t)
	p := open(t, reopen)
	root, blob := generate(t, p, hsm.PRFSHA256)
	signer, _ := generate(t, p, hsm.SignP256)
	want := prf(t, root, []byte("input"))
	made, doomed := make([][]byte, 4), make([][]byte, 4)
	var wg sync.WaitGroup
	for g := range made {
		wg.Go(func() { _, made[g] = generate(t, p, hsm.PRFSHA256) })
		wg.Go(func() {
			_, doomed[g] = generate(t, p, hsm.PRFSHA256)
			mustDestroy(t, p, doomed[g])
		})
		wg.Go(func() {
			for range 20 {
				if got := prf(t, load(t, p, blob), []byte("input")); !bytes.Equal(got, want) {
					t.Errorf("PRF gives %x, was %x", got, want)
				}
			}
		})
		wg.Go(func() { sign(t, signer, make([]byte, sha256.Size)) })
		wg.Go(func() {
			if err := p.Random(t.Context(), make([]byte, 64)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	closed(t, p)
	p = open(t, reopen)
	for g := range made {
		load(t, p, made[g])
		gone(t, p, doomed[g])
	}
}

// The helpers below use Error, not Fatal, where a goroutine of concurrent may call them.

// open opens the token and closes it when the test ends.
func open(t *testing.T, reopen hsm.Opener) hsm.Provider {
	t.Helper()
	p, err := reopen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, p) })
	return p
}

func closed(t *testing.T, p hsm.Provider) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Errorf("closing the token: %v", err)
	}
}

func generate(t *testing.T, p hsm.Provider, spec hsm.Spec) (hsm.Key, []byte) {
	t.Helper()
	k, blob, err := p.Generate(t.Context(), spec)
	if err != nil {
		t.Errorf("Generate of %v: %v", spec, err)
	}
	return k, blob
}

func load(t *testing.T, p hsm.Provider, blob []byte) hsm.Key {
	t.Helper()
	k, err := p.Load(t.Context(), blob)
	if err != nil {
		t.Errorf("Load: %v", err)
	}
	return k
}

func prf(t *testing.T, k hsm.Key, input []byte) []byte {
	t.Helper()
	out, err := k.(hsm.PRF).PRF(t.Context(), nil, input)
	if err != nil {
		t.Errorf("PRF of %d bytes: %v", len(input), err)
	}
	return out
}

func sign(t *testing.T, k hsm.Key, digest []byte) []byte {
	t.Helper()
	signature, err := k.(hsm.Signer).SignDigest(t.Context(), digest)
	if err != nil {
		t.Errorf("SignDigest: %v", err)
	}
	return signature
}
