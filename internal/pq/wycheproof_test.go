package pq_test

import (
	"bytes"
	"crypto/sha3"
	"testing"

	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/vectors"
)

// muIn is muOf with a context (FIPS 204, algorithm 2, line 10).
func muIn(public, context, message []byte) []byte {
	m := append(sha3.SumSHAKE256(public, 64), 0, byte(len(context)))
	return sha3.SumSHAKE256(append(append(m, context...), message...), 64)
}

// wycheproof reads a file of Wycheproof's vectors from the module of circl, which carries them.
func wycheproof(t *testing.T, name string) (w vectors.Wycheproof) {
	t.Helper()
	vectors.JSON(t, "github.com/cloudflare/circl", "sign/schemes/testdata/wycheproof/"+name, &w)
	return w
}

// TestWycheproof: what Wycheproof says of each signature, of its message and of its mu. A context of more than 255
// bytes has no mu.
func TestWycheproof(t *testing.T) {
	t.Parallel()
	for s, name := range map[pq.Set]string{pq.MLDSA44: "mldsa_44_verify_test", pq.MLDSA65: "mldsa_65_verify_test", pq.MLDSA87: "mldsa_87_verify_test"} {
		seen := map[string]int{}
		for _, g := range wycheproof(t, name).TestGroups {
			k, err := pq.NewVerifyingKey(s, g.PublicKey)
			for _, v := range g.Tests {
				seen[v.Result]++
				if err != nil || len(v.Ctx) > 255 {
					if v.Result == "valid" {
						t.Errorf("%s %d, %s: %v", s, v.TcID, v.Comment, err)
					}
					continue
				}
				if valid := k.Valid(muIn(g.PublicKey, v.Ctx, v.Msg), v.Sig, pq.Mu); valid != (v.Result == "valid") {
					t.Errorf("%s %d, %s: its mu is valid: %t", s, v.TcID, v.Comment, valid)
				}
				if valid := k.Valid(v.Msg, v.Sig, pq.Message); len(v.Ctx) == 0 && valid != (v.Result == "valid") {
					t.Errorf("%s %d, %s: its message is valid: %t", s, v.TcID, v.Comment, valid)
				}
			}
		}
		if seen["valid"] < 50 || seen["invalid"] < 15 {
			t.Errorf("%s: there are %v", s, seen)
		}
	}
}

// TestWycheproofSeeds: the key of each seed signs the mu that Wycheproof's signature is one of; seeds of another length are
// refused.
func TestWycheproofSeeds(t *testing.T) {
	t.Parallel()
	for s, name := range map[pq.Set]string{pq.MLDSA44: "mldsa_44_sign_seed_test", pq.MLDSA65: "mldsa_65_seed_sign_test", pq.MLDSA87: "mldsa_87_sign_seed_test"} {
		valid := 0
		for _, g := range wycheproof(t, name).TestGroups {
			private, err := pq.NewSigningKey(s, g.PrivateSeed)
			for _, v := range g.Tests {
				if err != nil || len(v.Ctx) > 255 {
					if v.Result == "valid" {
						t.Errorf("%s %d, %s: %v", s, v.TcID, v.Comment, err)
					}
					continue
				}
				if v.TcID%8 != 1 { // TestMLDSAAnswers of service/kms has them all
					continue
				}
				public := private.Public().(*pq.VerifyingKey)
				mu := muIn(public.Bytes(), v.Ctx, v.Msg)
				ours, err := private.Sign(nil, mu, pq.Mu)
				if err != nil || !public.Valid(mu, ours, pq.Mu) || !public.Valid(mu, v.Sig, pq.Mu) || bytes.Equal(ours, v.Sig) {
					t.Errorf("%s %d, %s: theirs or ours does not verify, or ours is not hedged (%v)", s, v.TcID, v.Comment, err)
				}
				valid++
			}
		}
		if valid < 5 {
			t.Errorf("%s: there are %d", s, valid)
		}
	}
}
