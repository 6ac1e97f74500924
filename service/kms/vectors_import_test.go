package kms_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/vectors"
	"github.com/keyrack/keyrack/protocol/client"
)

// Known answers of keys that were imported: one of each kind, because each import makes a key of RSA.

// imported makes a key whose private key is a file.
func imported(tb testing.TB, r *racktest.Rack, spec kmsapi.KeySpec, usage kmsapi.KeyUsage, file []byte) string {
	tb.Helper()
	arn := external(tb, r, spec, usage)
	if _, err := forever(tb, r, arn, file, kmsapi.ImportKeyMaterialRequest{}); err != nil {
		tb.Fatal(err)
	}
	return arn
}

// first returns the first case of a file that has these names and is not one of a fault.
func first(tb testing.TB, file string, has ...string) vectors.Case {
	tb.Helper()
	for _, c := range vectors.NIST(tb, file) {
		n := 0
		for _, name := range has {
			if c.Has(name) && !strings.HasPrefix(c["Result"], "F") {
				n++
			}
		}
		if n == len(has) {
			return c
		}
	}
	tb.Fatalf("%s has no %v", file, has)
	return nil
}

// TestImportedAnswersOfCurves: the first answers of TestNISTECDSA, TestNISTECDH and TestEd25519Answers.
func TestImportedAnswersOfCurves(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	of := curves[0]
	private := func(d []byte) []byte {
		k, err := ecdsa.ParseRawPrivateKey(of.curve, sized(of.curve, d))
		if err != nil {
			t.Fatal(err)
		}
		return fileOf(t, k)
	}
	c := first(t, "asymmetric/ECDSA/FIPS_186-3/SigGen.txt", of.cavs, "d")
	arn := imported(t, r, of.spec, signsAndVerifies, private(c.Bytes(t, "d")))
	if err := verify(t, r, arn, of.a, kmsapi.MessageRaw, c.Bytes(t, "Msg"), derOf(t, c)); err != nil {
		t.Error(err)
	}

	c = first(t, "asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_init.fax", of.set, "CAVSHashZZ")
	arn = imported(t, r, of.spec, agrees, private(c.Bytes(t, "dsIUT")))
	out, err := client.Do(t.Context(), r.Client, kmsapi.DeriveSharedSecret, &kmsapi.DeriveSharedSecretRequest{
		KeyId: ref(arn), KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: rawPoint(t, of.curve, c.Bytes(t, "QsCAVSx"), c.Bytes(t, "QsCAVSy"))})
	if err != nil || !strings.HasPrefix(c["Result"], "P") || !bytes.Equal(out.SharedSecret, c.Bytes(t, "Z")) {
		t.Errorf("got %+v (%v), want Z = %s (%s)", out, err, c["Z"], c["Result"])
	}

	f := strings.Split(strings.Split(vectors.Text(t, "asymmetric/Ed25519/sign.input"), "\n")[1], ":") // of one byte
	arn = imported(t, r, kmsapi.KeySpecECCNISTEdwards25519, signsAndVerifies, fileOf(t, ed25519.NewKeyFromSeed(vectors.Hex(t, f[0])[:32])))
	if got, err := sign(t, r, arn, kmsapi.ED25519SHA512, kmsapi.MessageRaw, vectors.Hex(t, f[2])); err != nil || !bytes.Equal(got, vectors.Hex(t, f[3])[:64]) {
		t.Errorf("got %x (%v), want %s", got, err, f[3])
	}
}

// TestImportedAnswersOfRSA: the first answers of TestOAEPAnswers.
func TestImportedAnswersOfRSA(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	c := oaepCases(t, "asymmetric/RSA/oaep-custom/oaep-sha256-sha256.txt")[0]
	p, q := new(big.Int).SetBytes(c.p), new(big.Int).SetBytes(c.q)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, D: new(big.Int).ModInverse(big.NewInt(65537), phi), Primes: []*big.Int{p, q}}
	k.Precompute()
	arn := imported(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts, fileOf(t, k))
	if got, err := openWith(t, r.Client, arn, kmsapi.RSAESOAEPSHA256, c.ciphertext); err != nil || !bytes.Equal(got, c.message) {
		t.Errorf("got %x (%v), want %x", got, err, c.message)
	}
}

// TestImportedAnswersOfLattices: the first answers of TestWycheproofMLDSA and TestMLKEMAnswers, from PKCS#8 with the seed.
func TestImportedAnswersOfLattices(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	file := func(s pq.Set, seed []byte) []byte {
		b, err := pq.AppendPKCS8(nil, s, seed)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	g := vectors.Wycheproof(t, "mldsa_44_sign_seed")[0]
	arn := imported(t, r, kmsapi.KeySpecMLDSA44, signsAndVerifies, file(pq.MLDSA44, g.PrivateSeed))
	if err := verify(t, r, arn, mlDSA, kmsapi.MessageRaw, g.Tests[0].Msg, g.Tests[0].Sig); err != nil || g.Tests[0].Result != "valid" {
		t.Errorf("got %v, want %s", err, g.Tests[0].Result)
	}

	var prompt, want kemAnswers
	vectors.JSON(t, "github.com/cloudflare/circl", "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203/prompt", &prompt)
	vectors.JSON(t, "github.com/cloudflare/circl", "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203/expectedResults", &want)
	v := prompt.TestGroups[1].Tests[0]
	arn = imported(t, r, kmsapi.KeySpecMLKEM768, hidesSecrets, file(pq.MLKEM768, append(bytes.Clone(v.D), v.Z...)))
	if _, _, raw := pqPublic(t, r, arn); !bytes.Equal(raw, want.TestGroups[1].Tests[0].EK) {
		t.Error("another public key than NIST's")
	}
}
