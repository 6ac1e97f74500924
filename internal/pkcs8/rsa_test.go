package pkcs8_test

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/pkcs8"
)

// sample returns the RSA key of a line of testdata/primes.txt.
func sample(tb testing.TB, name string) *rsaParts {
	tb.Helper()
	text, err := os.ReadFile("testdata/primes.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == name {
			e, p, q := new(big.Int), new(big.Int), new(big.Int)
			e.SetString(f[1], 10)
			p.SetString(f[2], 16)
			q.SetString(f[3], 16)
			return partsOf(p, q, e)
		}
	}
	tb.Fatalf("there is no %s", name)
	return nil
}

// TestWeakRSA: keys whose file is in order and that must not be used.
func TestWeakRSA(t *testing.T) {
	t.Parallel()
	for name, why := range map[string]string{
		"1024-bits":    "this one 1024",
		"exponent-3":   "exponent is not 65537",
		"unequal":      "half the bits",
		"twin":         "close to each other",
		"within-2^900": "close to each other",
		"within-2^924": "close to each other",
		"roca":         "CVE-2017-15361",
		"composite":    "not prime",
	} {
		k := sample(t, name)
		wantRefused(t, name, k.der(t), why)
		wantRefused(t, name+", swapped", partsOf(k.q, k.p, k.e).der(t), why)
	}
	good := sample(t, "good")
	wantRefused(t, "one prime twice", partsOf(good.p, good.p, good.e).der(t), "close to each other")
	wantRefused(t, "2047 bits", partsOf(new(big.Int).Rsh(good.p, 1), good.q, good.e).der(t), "this one 2047")
	if _, err := pkcs8.Parse(sample(t, "beyond-2^924").der(t)); err != nil {
		t.Errorf("primes as far apart as they must be: %v", err)
	}
}

// TestInconsistentRSA: each number of the file is changed once.
func TestInconsistentRSA(t *testing.T) {
	t.Parallel()
	for i, why := range []string{"", "modulus", "exponent", "private exponents", "modulus", "modulus", "private exponents", "private exponents", "private exponents"} {
		k := sample(t, "good")
		members := []**big.Int{&k.version, &k.n, &k.e, &k.d, &k.p, &k.q, &k.dp, &k.dq, &k.qinv}
		if i == 0 {
			continue // the version: TestMalformed
		}
		*members[i] = new(big.Int).Add(*members[i], big.NewInt(2))
		wantRefused(t, "a number that is 2 greater", k.der(t), why)
	}
	k := sample(t, "good")
	k.qinv.Add(k.qinv, k.p)
	wantRefused(t, "qInv beyond p", k.der(t), "private exponents")
	k = sample(t, "good")
	k.d.Add(k.d, k.n)
	wantRefused(t, "d beyond n", k.der(t), "private exponents")
	k = sample(t, "good")
	k.version.SetInt64(1)
	wantRefused(t, "more primes", k.der(t), "more than two primes")
}

// FuzzParse: what is accepted is a key that the standard library reads, too, as the same one.
func FuzzParse(f *testing.F) {
	f.Add(sample(f, "good").der(f))
	for _, der := range seeds(f) {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		k, err := pkcs8.Parse(der)
		if !bytes.Equal(der, before) {
			t.Fatal("it changed what it read")
		}
		if err != nil || k.Spec == "ECC_SECG_P256K1" || strings.HasPrefix(k.Spec, "ML_") {
			return // the standard library has none of these
		}
		private, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			t.Fatalf("the standard library does not read it: %v", err)
		}
		again, err := pkcs8.Parse(marshal(t, private))
		if err != nil || again.Spec != k.Spec || !bytes.Equal(again.Secret, k.Secret) {
			t.Errorf("the standard library reads another key: %v", err)
		}
	})
}
