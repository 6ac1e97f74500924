package secp256k1_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/vectors"
)

// TestWycheproof: what Wycheproof says of each signature. Its file of Bitcoin's rules differs in one thing: there the
// larger one of the two s that would do is not valid; here it is, as OpenSSL and FIPS 186-5 have it.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"ecdsa_secp256k1_sha256", "ecdsa_secp256k1_sha256_bitcoin"} {
		seen := map[string]int{}
		for _, g := range vectors.Wycheproof(t, file) {
			public, err := secp256k1.ParsePKIX(g.PublicKeyDer)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range g.Tests {
				seen[v.Result]++
				digest := sha256.Sum256(v.Msg)
				want := v.Valid() || strings.Contains(strings.ToLower(v.Comment), "signature malleability")
				if got := public.Valid(digest[:], v.Sig); got != want {
					t.Errorf("%s %s: got %t, want %s", file, &v, got, v.Result)
				}
			}
		}
		if seen["valid"] < 160 || seen["invalid"] < 300 {
			t.Errorf("%s: there were %v", file, seen)
		}
	}
}
