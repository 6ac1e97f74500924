package pq_test

import (
	"bytes"
	"crypto/sha3"
	"errors"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/vectors"
)

// muIn is muOf with a context (FIPS 204, algorithm 2, line 10).
func muIn(public, context, message []byte) []byte {
	m := append(sha3.SumSHAKE256(public, 64), 0, byte(len(context)))
	return sha3.SumSHAKE256(append(append(m, context...), message...), 64)
}

// wycheproof calls test with each group of a file of Wycheproof's for each set, {} standing for 44, 512 and so on, and
// wants so many cases at least.
func wycheproof(t *testing.T, file string, first, last pq.Set, least int, test func(s pq.Set, g *vectors.Group)) {
	t.Helper()
	for s := first; s <= last; s++ {
		number := s.String()[strings.LastIndexByte(s.String(), '-')+1:]
		n := 0
		for _, g := range vectors.Wycheproof(t, strings.ReplaceAll(file, "{}", number)) {
			test(s, &g)
			n += len(g.Tests)
		}
		if n < least {
			t.Errorf("%s has %d, want %d", s, n, least)
		}
	}
}

// TestWycheproof: what Wycheproof says of each signature, of its mu and, where there is no context, of its message. A
// context of more than 255 bytes has no mu.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	wycheproof(t, "mldsa_{}_verify", pq.MLDSA44, pq.MLDSA87, 170, func(s pq.Set, g *vectors.Group) {
		k, err := pq.NewVerifyingKey(s, g.PublicKey)
		for _, v := range g.Tests {
			seen[v.Result]++
			if err != nil || len(v.Ctx) > 255 {
				if v.Valid() || err != nil && !errors.Is(err, pq.ErrSize) {
					t.Errorf("%s %s: %v", s, &v, err)
				}
				continue
			}
			if valid := k.Valid(muIn(g.PublicKey, v.Ctx, v.Msg), v.Sig, pq.Mu); valid != v.Valid() {
				t.Errorf("%s %s: its mu is valid: %t", s, &v, valid)
			}
			if valid := len(v.Ctx) == 0 && k.Valid(v.Msg, v.Sig, pq.Message); len(v.Ctx) == 0 && valid != v.Valid() {
				t.Errorf("%s %s: its message is valid: %t", s, &v, valid)
			}
		}
	})
	if seen["valid"] < 220 || seen["invalid"] < 280 {
		t.Errorf("there are %v", seen)
	}
}

// TestWycheproofSeeds: the key of each seed has the public key, and stands in PKCS#8 as Wycheproof has it; it signs the mu
// that Wycheproof's signature is one of. Seeds of another length are refused.
func TestWycheproofSeeds(t *testing.T) {
	t.Parallel()
	files := 0
	wycheproof(t, "mldsa_{}_sign_seed", pq.MLDSA44, pq.MLDSA87, 80, func(s pq.Set, g *vectors.Group) {
		private, err := pq.NewSigningKey(s, g.PrivateSeed)
		if err != nil {
			if !errors.Is(err, pq.ErrSize) || g.Tests[0].Valid() {
				t.Errorf("%s %s: %v", s, &g.Tests[0], err)
			}
			return
		}
		public := private.Public().(*pq.VerifyingKey)
		if !bytes.Equal(public.Bytes(), g.PublicKey) {
			t.Errorf("%s %s: another public key", s, &g.Tests[0])
		}
		if g.PrivateKeyPkcs8 != nil {
			files++
			if set, seed, err := pq.ParsePKCS8(g.PrivateKeyPkcs8); err != nil || set != s || !bytes.Equal(seed, g.PrivateSeed) {
				t.Errorf("%s %s: another key in PKCS#8 (%v)", s, &g.Tests[0], err)
			}
		}
		for i, v := range g.Tests {
			mu := []byte(v.Mu)
			if mu == nil && len(v.Ctx) <= 255 {
				mu = muIn(g.PublicKey, v.Ctx, v.Msg)
			}
			if valid := public.Valid(mu, v.Sig, pq.Mu); valid != v.Valid() {
				t.Errorf("%s %s: its mu is valid: %t", s, &v, valid)
			}
			if i == 0 {
				ours, err := private.Sign(nil, mu, pq.Mu)
				if err != nil || !public.Valid(mu, ours, pq.Mu) || bytes.Equal(ours, v.Sig) {
					t.Errorf("%s %s: ours does not verify, or is not hedged (%v)", s, &v, err)
				}
			}
		}
	})
	if files < 60 {
		t.Errorf("there are %d in PKCS#8", files)
	}
}

// TestWycheproofDecapsulation: the secret of each ciphertext under the key of each seed; seeds and ciphertexts of other
// lengths are refused.
func TestWycheproofDecapsulation(t *testing.T) {
	t.Parallel()
	wycheproof(t, "mlkem_{}", pq.MLKEM512, pq.MLKEM1024, 190, func(s pq.Set, g *vectors.Group) {
		for _, v := range g.Tests {
			k, err := pq.NewDecapsulationKey(s, v.Seed)
			if err != nil {
				if v.Valid() || !errors.Is(err, pq.ErrSize) {
					t.Errorf("%s %s: %v", s, &v, err)
				}
				continue
			}
			public, err := k.Public()
			if err != nil || v.EK != nil && !bytes.Equal(public.Bytes(), v.EK) {
				t.Errorf("%s %s: another public key (%v)", s, &v, err)
			}
			secret, err := k.Decapsulate(v.C)
			if (err == nil) != v.Valid() || err == nil && !bytes.Equal(secret, v.K) || err != nil && !errors.Is(err, pq.ErrSize) {
				t.Errorf("%s %s: got %x (%v), want %x", s, &v, secret, err, v.K)
			}
		}
	})
}

// TestWycheproofKeys: the public key of each seed, and its expanded private key beside it in PKCS#8, with which alone
// there is none.
func TestWycheproofKeys(t *testing.T) {
	t.Parallel()
	wycheproof(t, "mlkem_{}_keygen_seed", pq.MLKEM512, pq.MLKEM1024, 100, func(s pq.Set, g *vectors.Group) {
		for _, v := range g.Tests {
			if got := publicOf(t, s, v.Seed); !bytes.Equal(got, v.EK) {
				t.Errorf("%s %s: another public key", s, &v)
			}
			both := struct{ Seed, Expanded []byte }{v.Seed, v.DK}
			if set, seed, err := pq.ParsePKCS8(private(t, s, der(t, both))); err != nil || set != s || !bytes.Equal(seed, v.Seed) {
				t.Errorf("%s %s: seed and expanded key are not read as one: %v", s, &v, err)
			}
			if _, _, err := pq.ParsePKCS8(private(t, s, der(t, both.Expanded))); err == nil || errors.Is(err, pq.ErrNoKey) {
				t.Errorf("%s %s: an expanded key is taken, or not known: %v", s, &v, err)
			}
			v.DK[v.TcID] ^= 1
			if _, _, err := pq.ParsePKCS8(private(t, s, der(t, both))); err == nil || errors.Is(err, pq.ErrNoKey) {
				t.Errorf("%s %s: an expanded key of another seed is taken, or not known: %v", s, &v, err)
			}
		}
	})
}

// TestWycheproofPublicKeys: with which public keys one encapsulates. What comes out is random here.
func TestWycheproofPublicKeys(t *testing.T) {
	t.Parallel()
	wycheproof(t, "mlkem_{}_encaps", pq.MLKEM512, pq.MLKEM1024, 260, func(s pq.Set, g *vectors.Group) {
		for _, v := range g.Tests {
			if _, err := pq.NewEncapsulationKey(s, v.EK); (err == nil) != v.Valid() {
				t.Errorf("%s %s: got %v, want %s", s, &v, err, v.Result)
			}
		}
	})
}
