package pq_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"

	"github.com/keyrack/keyrack/internal/pq"
)

var (
	signing       = []pq.Set{pq.MLDSA44, pq.MLDSA65, pq.MLDSA87}
	encapsulating = []pq.Set{pq.MLKEM512, pq.MLKEM768, pq.MLKEM1024}
	every         = append(append([]pq.Set(nil), signing...), encapsulating...)
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func signingKey(tb testing.TB, s pq.Set, seed []byte) (*pq.SigningKey, *pq.VerifyingKey) {
	tb.Helper()
	private, err := pq.NewSigningKey(s, seed)
	if err != nil {
		tb.Fatal(err)
	}
	return private, private.Public().(*pq.VerifyingKey)
}

func kemKey(tb testing.TB, s pq.Set, seed []byte) (*pq.DecapsulationKey, *pq.EncapsulationKey) {
	tb.Helper()
	private, err := pq.NewDecapsulationKey(s, seed)
	if err != nil {
		tb.Fatal(err)
	}
	public, err := private.Public()
	if err != nil {
		tb.Fatal(err)
	}
	return private, public
}

// publicOf returns the public key of a seed of any set.
func publicOf(tb testing.TB, s pq.Set, seed []byte) []byte {
	tb.Helper()
	if s <= pq.MLDSA87 {
		_, public := signingKey(tb, s, seed)
		return public.Bytes()
	}
	_, public := kemKey(tb, s, seed)
	return public.Bytes()
}

// muOf computes the representative of a message with an empty context (FIPS 204, algorithm 2, line 10, and algorithm
// 7, line 6), as somebody does who signs a mu.
func muOf(public, message []byte) []byte {
	tr := sha3.SumSHAKE256(public, 64)
	return sha3.SumSHAKE256(append(append(tr, 0, 0), message...), 64)
}

// TestSignatures: of messages and of their mu, each verified both ways: by the library from the message, and here from
// the mu. What is changed in anything does not verify, and the library agrees.
func TestSignatures(t *testing.T) {
	t.Parallel()
	for _, s := range signing {
		private, public := signingKey(t, s, random(32))
		for i := range 4 {
			message := random(1 + 37*i)
			mu := muOf(public.Bytes(), message)
			ofMessage, err := private.Sign(nil, message, pq.Message)
			if err != nil {
				t.Fatal(err)
			}
			ofMu, err := private.Sign(nil, mu, pq.Mu)
			if err != nil {
				t.Fatal(err)
			}
			for _, signature := range [][]byte{ofMessage, ofMu} {
				if len(signature) != s.OutputSize() || !public.Valid(message, signature, pq.Message) || !public.Valid(mu, signature, pq.Mu) {
					t.Fatalf("%s: a signature of %d bytes does not verify: message %x", s, len(signature), message)
				}
			}
			for at := i; at < len(ofMu); at += 449 { // the challenge, z, and the hints
				bent := bytes.Clone(ofMu)
				bent[at] ^= 1 << (at % 8)
				if public.Valid(message, bent, pq.Message) || public.Valid(mu, bent, pq.Mu) {
					t.Errorf("%s: with bit %d of byte %d changed it is valid", s, at%8, at)
				}
			}
			mu[i] ^= 1
			if public.Valid(mu, ofMu, pq.Mu) || public.Valid(mu, ofMu, pq.Message) {
				t.Errorf("%s: it is valid for another mu", s)
			}
		}
	}
}

// TestHints: every byte of the hints changed in every way that differs is refused, as the library does.
func TestHints(t *testing.T) {
	t.Parallel()
	private, public := signingKey(t, pq.MLDSA44, random(32))
	message := []byte("x")
	mu := muOf(public.Bytes(), message)
	signature, err := private.Sign(nil, mu, pq.Mu)
	if err != nil {
		t.Fatal(err)
	}
	for at := len(signature) - 84; at < len(signature); at++ {
		for _, by := range []byte{1, 0x80} {
			bent := bytes.Clone(signature)
			bent[at] ^= by
			if public.Valid(mu, bent, pq.Mu) != public.Valid(message, bent, pq.Message) || public.Valid(mu, bent, pq.Mu) {
				t.Errorf("byte %d changed by %x is valid", at, by)
			}
		}
	}
}

// TestOneEncodingOfHints: counts that go back, or beyond the end, and places that do not rise are refused (FIPS 204,
// algorithm 21): else one signature would have several spellings.
func TestOneEncodingOfHints(t *testing.T) {
	t.Parallel()
	hints := func(places string, counts ...byte) []byte {
		return append(append([]byte(places), make([]byte, 80-len(places))...), counts...)
	}
	for what, c := range map[string]struct {
		y    []byte
		want bool
	}{
		"none":                 {hints("", 0, 0, 0, 0), true},
		"three":                {hints("\x01\x07\x00", 2, 2, 2, 3), true},
		"all in one":           {hints(string(rising(80)), 80, 80, 80, 80), true},
		"a count that is less": {hints("\x01\x07", 2, 2, 2, 0), false},
		"a count too many":     {hints(string(rising(80)), 80, 80, 80, 81), false},
		"a place twice":        {hints("\x01\x01", 2, 2, 2, 2), false},
		"a place before":       {hints("\x07\x01", 2, 2, 2, 2), false},
		"a place beyond":       {hints("\x01\x07", 1, 1, 1, 1), false},
	} {
		if got := pq.UnpackHints(pq.MLDSA44, c.y); got != c.want {
			t.Errorf("%s: got %t", what, got)
		}
	}
}

// TestBoundOfZ: a coefficient of gamma1 - beta is refused, of either sign, and one less is not (FIPS 204, algorithm 8,
// line 13).
func TestBoundOfZ(t *testing.T) {
	t.Parallel()
	for s, c := range map[pq.Set]struct{ l, bits, beta int }{pq.MLDSA44: {4, 18, 78}, pq.MLDSA65: {5, 20, 196}, pq.MLDSA87: {7, 20, 120}} {
		gamma1 := 1 << (c.bits - 1)
		most := gamma1 - c.beta
		for z, want := range map[int]bool{0: true, most - 1: true, -most + 1: true, most: false, -most: false, gamma1: false, -gamma1 + 1: false} {
			packed := new(big.Int)
			for i := range c.l * 256 {
				v := gamma1 // a coefficient of 0
				if i == 300 {
					v -= z
				}
				packed.Or(packed, new(big.Int).Lsh(big.NewInt(int64(v)), uint(i*c.bits)))
			}
			b := packed.FillBytes(make([]byte, c.l*256*c.bits/8))
			slices.Reverse(b) // little-endian
			if got := pq.UnpackZ(s, b); got != want {
				t.Errorf("%s: a coefficient of %d: got %t", s, z, got)
			}
		}
	}
}

// rising returns n places.
func rising(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// TestSizes: of seeds, keys, signatures, ciphertexts and mu, whatever has another length is refused.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, s := range every {
		for _, n := range []int{0, s.SeedSize() - 1, s.SeedSize() + 1} {
			_, signs := pq.NewSigningKey(s, make([]byte, n))
			_, decapsulates := pq.NewDecapsulationKey(s, make([]byte, n))
			if signs == nil || decapsulates == nil || !errors.Is(signs, pq.ErrSize) && !errors.Is(decapsulates, pq.ErrSize) {
				t.Errorf("%s takes a seed of %d bytes: %v, %v", s, n, signs, decapsulates)
			}
		}
		public := publicOf(t, s, random(s.SeedSize()))
		for _, raw := range [][]byte{nil, public[1:], append(bytes.Clone(public), 0)} {
			_, verifies := pq.NewVerifyingKey(s, raw)
			_, encapsulates := pq.NewEncapsulationKey(s, raw)
			if verifies == nil || encapsulates == nil {
				t.Errorf("%s takes a public key of %d bytes", s, len(raw))
			}
		}
	}
	for _, none := range []pq.Set{0, 7, 255} {
		_, a := pq.NewSigningKey(none, make([]byte, 32))
		_, b := pq.NewDecapsulationKey(none, make([]byte, 64))
		_, c := pq.NewVerifyingKey(none, nil)
		_, d := pq.NewEncapsulationKey(none, nil)
		if a == nil || b == nil || c == nil || d == nil {
			t.Errorf("there is a set %d", none)
		}
	}
	for _, s := range signing {
		private, public := signingKey(t, s, random(32))
		mu := random(64)
		signature, err := private.Sign(nil, mu, pq.Mu)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 63, 65} {
			if _, err := private.Sign(nil, make([]byte, n), pq.Mu); err == nil {
				t.Errorf("%s signs a mu of %d bytes", s, n)
			}
			if public.Valid(make([]byte, n), signature, pq.Mu) {
				t.Errorf("%s: a mu of %d bytes is valid", s, n)
			}
		}
		for _, other := range [][]byte{nil, signature[1:], signature[:len(signature)-1], append(bytes.Clone(signature), 0), make([]byte, len(signature)), bytes.Repeat([]byte{0xff}, len(signature))} {
			if public.Valid(mu, other, pq.Mu) || public.Valid(mu, other, pq.Message) {
				t.Errorf("%s: %d bytes are a signature", s, len(other))
			}
		}
	}
}

// TestEncapsulation: of each set, against circl, which is another implementation of two of them. A ciphertext that
// nobody made gives the secret of FIPS 203, algorithm 18, line 7: SHAKE256(z ‖ ciphertext).
func TestEncapsulation(t *testing.T) {
	t.Parallel()
	for i, s := range encapsulating {
		other := []kem.Scheme{mlkem512.Scheme(), mlkem768.Scheme(), mlkem1024.Scheme()}[i]
		seed := random(64)
		private, public := kemKey(t, s, seed)
		otherPublic, otherPrivate := other.DeriveKeyPair(seed)
		if raw, err := otherPublic.MarshalBinary(); err != nil || !bytes.Equal(raw, public.Bytes()) || public.Set() != s {
			t.Fatalf("%s: circl derives another public key (%v)", s, err)
		}
		for range 10 {
			secret, ciphertext := public.Encapsulate()
			if len(secret) != pq.SharedSecret || len(ciphertext) != s.OutputSize() {
				t.Fatalf("%s: %d and %d bytes", s, len(secret), len(ciphertext))
			}
			again, err := private.Decapsulate(ciphertext)
			if err != nil || !bytes.Equal(again, secret) {
				t.Fatalf("%s: decapsulated %x (%v), want %x", s, again, err, secret)
			}
			if theirs, err := other.Decapsulate(otherPrivate, ciphertext); err != nil || !bytes.Equal(theirs, secret) {
				t.Errorf("%s: circl decapsulates %x (%v), want %x", s, theirs, err, secret)
			}
			ciphertext[int(secret[0])] ^= 1 << (secret[1] % 8)
			rejected, err := private.Decapsulate(ciphertext)
			if want := sha3.SumSHAKE256(append(bytes.Clone(seed[32:]), ciphertext...), 32); err != nil || !bytes.Equal(rejected, want) {
				t.Errorf("%s: a changed ciphertext gives %x (%v), want %x", s, rejected, err, want)
			}
		}
		for _, n := range []int{0, s.OutputSize() - 1, s.OutputSize() + 1} {
			if _, err := private.Decapsulate(make([]byte, n)); !errors.Is(err, pq.ErrSize) {
				t.Errorf("%s: a ciphertext of %d bytes: %v", s, n, err)
			}
		}
		raw := bytes.Clone(public.Bytes())
		raw[0], raw[1] = 0xff, raw[1]|0x0f // a coefficient of 4095
		if _, err := pq.NewEncapsulationKey(s, raw); err == nil {
			t.Errorf("%s takes a public key that is not reduced", s)
		}
	}
}

// TestExamplesOfTheRFCs: the DER of the keys that RFC 9881, appendix C, and RFC 9935, appendix C, derive from the seeds
// 00 01 02 and so on; of the public ones the SHA-256.
func TestExamplesOfTheRFCs(t *testing.T) {
	t.Parallel()
	counting := make([]byte, 64)
	for i := range counting {
		counting[i] = byte(i)
	}
	for s, want := range map[pq.Set][2]string{
		pq.MLDSA44:   {"837832708c5236d951581f1fddf2b79991b3424a0486d16da1ddad0fd69701be", "3034020100300b060960864801650304031104228020"},
		pq.MLDSA65:   {"b8b62131bfbe84433efb2273d7f5b87f7a22854a2cfd366fc2aead86d837c52d", "3034020100300b060960864801650304031204228020"},
		pq.MLDSA87:   {"07e57c4f14dbad1267f621ec3777b4e2e6c4fbc4c22fbb87510ff8e0b3c6a642", "3034020100300b060960864801650304031304228020"},
		pq.MLKEM512:  {"0e3c8b89b54202d2545f7aba2e2aaa3cffa7b6191919ad738fab35b4f313cf71", "3054020100300b060960864801650304040104428040"},
		pq.MLKEM768:  {"c23e23dd3d485a9256cda09358a4a286e00b373db10761eadf99f710649ca31c", "3054020100300b060960864801650304040204428040"},
		pq.MLKEM1024: {"d2b7480ae006a14b37c1e8a8e45ea39022e32a9b1a7b90d594c84d869c6ac420", "3054020100300b060960864801650304040304428040"},
	} {
		seed := counting[:s.SeedSize()]
		der := pq.MarshalPKIX(s, publicOf(t, s, seed))
		if got := fmt.Sprintf("%x", sha256.Sum256(der)); got != want[0] {
			t.Errorf("%s: the public key's SHA-256 is %s, want %s", s, got, want[0])
		}
		private, err := pq.AppendPKCS8(nil, s, seed)
		if got := fmt.Sprintf("%x", private); err != nil || got != want[1]+fmt.Sprintf("%x", seed) {
			t.Errorf("%s: the private key is %s (%v), want %s and the seed", s, got, err, want[1])
		}
	}
}
