package pq_test

import (
	"bytes"
	"crypto/sha3"
	"testing"

	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/vectors"
)

// answers is a file of NIST's ACVP server (github.com/usnistgov/ACVP-Server, gen-val/json-files): the prompt or the
// expected results.
type answers struct {
	TestGroups []struct {
		ParameterSet string
		PK           vectors.Octets
		Tests        []answer
	}
}

type answer struct {
	TcID                                     int
	Seed, D, Z, PK, EK, SK, DK, Msg, M, C, K vectors.Octets
	Message, Signature                       vectors.Octets
	TestPassed                               bool
}

// acvp reads NIST's answers from the module of circl, which carries them, and calls each with the set, the public key
// of its group, and prompt and answer together.
func acvp(t *testing.T, folder string, test func(s pq.Set, group []byte, prompt, want answer)) {
	t.Helper()
	read := func(name string) (a answers) {
		vectors.JSON(t, "github.com/cloudflare/circl", folder+"/"+name, &a)
		return a
	}
	prompt, expected := read("prompt"), read("expectedResults")
	n := 0
	for i, g := range prompt.TestGroups {
		for j, p := range g.Tests {
			want := expected.TestGroups[i].Tests[j]
			if p.TcID != want.TcID {
				t.Fatalf("question %d has the answer %d", p.TcID, want.TcID)
			}
			for _, s := range every {
				if s.String() == g.ParameterSet {
					test(s, g.PK, p, want)
					n++
				}
			}
		}
	}
	if n < 45 {
		t.Fatalf("there are %d answers in %s", n, folder)
	}
}

// TestNISTKeys: the public key of each seed.
func TestNISTKeys(t *testing.T) {
	t.Parallel()
	acvp(t, "sign/mldsa/testdata/ML-DSA-keyGen-FIPS204", func(s pq.Set, _ []byte, p, want answer) {
		if got := publicOf(t, s, p.Seed); !bytes.Equal(got, want.PK) {
			t.Errorf("%s %d: another public key", s, p.TcID)
		}
	})
	acvp(t, "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203", func(s pq.Set, _ []byte, p, want answer) {
		if got := publicOf(t, s, append(bytes.Clone(p.D), p.Z...)); !bytes.Equal(got, want.EK) {
			t.Errorf("%s %d: another public key", s, p.TcID)
		}
	})
}

// muInside computes the representative of the message of ML-DSA.Verify_internal (FIPS 204, algorithm 8, line 7), which
// has no context in front.
func muInside(public, message []byte) []byte {
	return sha3.SumSHAKE256(append(sha3.SumSHAKE256(public, 64), message...), 64)
}

// TestNISTVerification: what NIST says of each signature of its mu. The reasons of those that are not valid are a
// changed message, challenge, z or hint.
func TestNISTVerification(t *testing.T) {
	t.Parallel()
	valid := map[bool]int{}
	acvp(t, "sign/mldsa/testdata/ML-DSA-sigVer-FIPS204", func(s pq.Set, public []byte, p, want answer) {
		k, err := pq.NewVerifyingKey(s, public)
		if err != nil {
			t.Fatal(err)
		}
		got := k.Valid(muInside(public, p.Message), p.Signature, pq.Mu)
		if got != want.TestPassed {
			t.Errorf("%s %d: valid %t, want %t", s, p.TcID, got, want.TestPassed)
		}
		valid[got]++
	})
	if valid[true] == 0 || valid[false] == 0 {
		t.Errorf("got %v", valid)
	}
}

// TestNISTSignatures: each signature that NIST expects of a private key is one of its mu.
func TestNISTSignatures(t *testing.T) {
	t.Parallel()
	schemes := map[pq.Set]sign.Scheme{pq.MLDSA44: mldsa44.Scheme(), pq.MLDSA65: mldsa65.Scheme(), pq.MLDSA87: mldsa87.Scheme()}
	acvp(t, "sign/mldsa/testdata/ML-DSA-sigGen-FIPS204", func(s pq.Set, _ []byte, p, want answer) {
		private, err := schemes[s].UnmarshalBinaryPrivateKey(p.SK)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := private.Public().(sign.PublicKey).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		k, err := pq.NewVerifyingKey(s, raw)
		if err != nil {
			t.Fatal(err)
		}
		if mu := muInside(raw, p.Message); !k.Valid(mu, want.Signature, pq.Mu) {
			t.Errorf("%s %d: not valid", s, p.TcID)
		}
	})
}
