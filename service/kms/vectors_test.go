package kms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/vectors"
	"github.com/keyrack/keyrack/service/kms"
)

// Known answers through the operations, with keys whose secrets were planted.

// planted makes a key with a secret.
func planted(tb testing.TB, r *racktest.Rack, spec kmsapi.KeySpec, usage kmsapi.KeyUsage, secret []byte) string {
	tb.Helper()
	arn := createKey(tb, r, spec, usage)
	kms.Plant(tb, r.KMS(), keyID(tb, arn), secret)
	return arn
}

// primed makes a key of RSA with these primes; making one with primes of its own takes too long.
func primed(tb testing.TB, r *racktest.Rack, arn string, p, q []byte) {
	tb.Helper()
	half := func(b []byte) []byte { return new(big.Int).SetBytes(b).FillBytes(make([]byte, len(p))) }
	kms.Plant(tb, r.KMS(), keyID(tb, arn), append(half(p), half(q)...))
}

// curves are those of NIST that AWS has, with what CAVS calls them.
var curves = []struct {
	spec  kmsapi.KeySpec
	a     kmsapi.SigningAlgorithm
	curve elliptic.Curve
	cavs  string // of ECDSA
	set   string // of ECDH
	hash  crypto.Hash
}{
	{kmsapi.KeySpecECCNISTP256, kmsapi.ECDSASHA256, elliptic.P256(), "P-256,SHA-256", "EC - SHA256", crypto.SHA256},
	{kmsapi.KeySpecECCNISTP384, kmsapi.ECDSASHA384, elliptic.P384(), "P-384,SHA-384", "ED - SHA384", crypto.SHA384},
	{kmsapi.KeySpecECCNISTP521, kmsapi.ECDSASHA512, elliptic.P521(), "P-521,SHA-512", "EE - SHA512", crypto.SHA512},
}

// sized is a number in as many bytes as a curve's scalars have.
func sized(curve elliptic.Curve, b []byte) []byte {
	return new(big.Int).SetBytes(b).FillBytes(make([]byte, (curve.Params().BitSize+7)/8))
}

// point returns the public key of two coordinates, or nil if it is none.
func point(curve elliptic.Curve, x, y []byte) *ecdsa.PublicKey {
	k, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, sized(curve, x)...), sized(curve, y)...))
	if err != nil {
		return nil
	}
	return k
}

// derOf is a signature of r and s.
func derOf(tb testing.TB, c vectors.Case) []byte {
	tb.Helper()
	b, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(c.Bytes(tb, "R")), new(big.Int).SetBytes(c.Bytes(tb, "S"))})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestNISTECDSA: CAVS 11.2, SigGen of FIPS 186-3: the key of each d has its Q, and Verify takes the signature, of the
// message and of its digest, and of no other.
func TestNISTECDSA(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	n := 0
	for _, c := range vectors.NIST(t, "asymmetric/ECDSA/FIPS_186-3/SigGen.txt") {
		for _, of := range curves {
			if !c.Has(of.cavs) {
				continue
			}
			arn := planted(t, r, of.spec, signsAndVerifies, sized(of.curve, c.Bytes(t, "d")))
			if _, public := publicKey(t, r, arn); !point(of.curve, c.Bytes(t, "Qx"), c.Bytes(t, "Qy")).Equal(public) {
				t.Errorf("%s: %s has another public key", of.spec, c["d"])
			}
			message, signature := c.Bytes(t, "Msg"), derOf(t, c)
			if err := verify(t, r, arn, of.a, kmsapi.MessageRaw, message, signature); err != nil {
				t.Errorf("%s: the signature of %s: %v", of.spec, c["Msg"], err)
			}
			digest := digestOf(of.a, message)
			if err := verify(t, r, arn, of.a, kmsapi.MessageDigest, digest, signature); err != nil {
				t.Errorf("%s: the signature of the digest of %s: %v", of.spec, c["Msg"], err)
			}
			digest[0] ^= 1
			wantKind(t, verify(t, r, arn, of.a, kmsapi.MessageDigest, digest, signature), api.KindInvalidSignature)
			n++
		}
	}
	if n != 45 {
		t.Errorf("there were %d, want 45", n)
	}
}

// TestNISTECDSAVerification: CAVS 11.0, SigVer of FIPS 186-3, whose private keys are not known.
func TestNISTECDSAVerification(t *testing.T) {
	t.Parallel()
	seen := map[bool]int{}
	for _, c := range vectors.NIST(t, "asymmetric/ECDSA/FIPS_186-3/SigVer.rsp") {
		for _, of := range curves {
			if !c.Has(of.cavs) {
				continue
			}
			public, want := point(of.curve, c.Bytes(t, "Qx"), c.Bytes(t, "Qy")), strings.HasPrefix(c["Result"], "P")
			got := public != nil && kms.Valid(public, of.a, c.Bytes(t, "Msg"), derOf(t, c))
			if got != want {
				t.Errorf("%s: got %t, want %s: %s", of.cavs, got, c["Result"], c["Msg"])
			}
			seen[want]++
		}
	}
	if seen[true] < 9 || seen[false] < 30 {
		t.Errorf("there were %v", seen)
	}
}

// TestNISTECDH: CAVS 11.0, validity of the primitive of SP 800-56A, section 5.7.1.2, whose Z is known by its hash. A
// Result of what the other side got wrong is refused or another Z; a key pair of our own that is none is not asked for.
func TestNISTECDH(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	seen := map[bool]int{}
	for _, c := range vectors.NIST(t, "asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_init.fax") {
		for _, of := range curves {
			if !c.Has(of.set) || !c.Has("CAVSHashZZ") || strings.Contains(c["Result"], "IUT's") {
				continue
			}
			arn := planted(t, r, of.spec, agrees, sized(of.curve, c.Bytes(t, "dsIUT")))
			got := false
			if spki := rawPoint(t, of.curve, c.Bytes(t, "QsCAVSx"), c.Bytes(t, "QsCAVSy")); spki != nil {
				z, err := derive(t, r.Client, arn, spki)
				h := of.hash.New()
				h.Write(z)
				got = err == nil && bytes.Equal(h.Sum(nil), c.Bytes(t, "CAVSHashZZ"))
				if kind := api.KindOf(err); err != nil && kind != api.KindValidation {
					t.Errorf("%s %s: %v", of.set, c["COUNT"], err)
				}
			}
			want := strings.HasPrefix(c["Result"], "P")
			if got != want {
				t.Errorf("%s %s: got %t, want %s", of.set, c["COUNT"], got, c["Result"])
			}
			seen[want]++
		}
	}
	if seen[true] < 40 || seen[false] < 15 {
		t.Errorf("there were %v", seen)
	}
}

// rawPoint is the DER of a public key whose coordinates may be on no curve.
func rawPoint(tb testing.TB, curve elliptic.Curve, x, y []byte) []byte {
	tb.Helper()
	_, spki := peerOn(tb, curve)
	field := (curve.Params().BitSize + 7) / 8
	return append(append(spki[:len(spki)-2*field], sized(curve, x)...), sized(curve, y)...)
}

// TestNISTRSA: CAVS 11.0, SigVer of PKCS #1 v1.5, of the keys with our exponent. The keys of PSS have salts of other
// lengths than the hash, which AWS's algorithms are not: none of those is valid.
func TestNISTRSA(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	specs := map[string]kmsapi.KeySpec{"2048": kmsapi.KeySpecRSA2048, "3072": kmsapi.KeySpecRSA3072}
	for file, names := range map[string]map[string]kmsapi.SigningAlgorithm{
		"asymmetric/RSA/FIPS_186-2/SigVer15_186-3.rsp":  {"SHA256": kmsapi.RSASSAPKCS1V15SHA256, "SHA384": kmsapi.RSASSAPKCS1V15SHA384, "SHA512": kmsapi.RSASSAPKCS1V15SHA512},
		"asymmetric/RSA/FIPS_186-2/SigVerPSS_186-3.rsp": {"SHA256": kmsapi.RSASSAPSSSHA256, "SHA384": kmsapi.RSASSAPSSSHA384, "SHA512": kmsapi.RSASSAPSSSHA512},
	} {
		arns := map[kmsapi.KeySpec]string{}
		for _, spec := range specs {
			arns[spec] = createKey(t, r, spec, signsAndVerifies)
		}
		group, planted, seen := vectors.Case{}, "", map[bool]int{}
		for _, c := range vectors.NIST(t, file) {
			for _, name := range []string{"n", "p", "q"} {
				if c.Has(name) {
					group[name] = c[name]
				}
			}
			spec, a := specs[c["mod"]], names[c["SHAAlg"]]
			if spec == 0 || a == 0 || new(big.Int).SetBytes(c.Bytes(t, "e")).Int64() != 65537 {
				continue
			}
			arn := arns[spec]
			if planted != group["n"] {
				primed(t, r, arn, group.Bytes(t, "p"), group.Bytes(t, "q"))
				if _, public := publicKey(t, r, arn); public.(*rsa.PublicKey).N.Cmp(new(big.Int).SetBytes(group.Bytes(t, "n"))) != 0 {
					t.Errorf("%s: another modulus than %s", spec, group["n"])
				}
				planted = group["n"]
			}
			err := verify(t, r, arn, a, kmsapi.MessageRaw, c.Bytes(t, "Msg"), c.Bytes(t, "S"))
			want := strings.HasPrefix(c["Result"], "P") && !strings.Contains(file, "PSS")
			if (err == nil) != want || err != nil && api.KindOf(err) != api.KindInvalidSignature {
				t.Errorf("%s %s: got %v, want %s", spec, a, err, c["Result"])
			}
			seen[want]++
		}
		if seen[true]+seen[false] < 30 || seen[true] < 5 && !strings.Contains(file, "PSS") {
			t.Errorf("%s: there were %v", file, seen)
		}
	}
}

// oaepCase is a ciphertext of a file of PKCS #1's vectors.
type oaepCase struct{ p, q, message, ciphertext []byte }

// oaepCases reads the vectors of keys of 2048 bits of a file of RSA Laboratories' OAEP vectors, and of those that
// pyca/cryptography derived from them with SHA-256.
func oaepCases(t *testing.T, file string) (all []oaepCase) {
	var now oaepCase
	label := ""
	values := map[string]*[]byte{"Prime 1:": &now.p, "Prime 2:": &now.q, "Message:": &now.message, "Encryption:": &now.ciphertext}
	for line := range strings.Lines(vectors.Text(t, file)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "# "); ok {
			label = name
			if to := values[label]; to != nil {
				*to = nil
			}
			continue
		}
		if to := values[label]; to != nil && line != "" {
			*to = append(*to, vectors.Hex(t, strings.ReplaceAll(line, " ", ""))...)
			if label == "Encryption:" && len(now.ciphertext) == 256 && len(now.p) == 128 {
				all = append(all, now)
			}
		}
	}
	return all
}

// TestOAEPAnswers: Decrypt finds the message of each ciphertext.
func TestOAEPAnswers(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := createKey(t, r, kmsapi.KeySpecRSA2048, encryptsAndDecrypts)
	for file, a := range map[string]kmsapi.EncryptionAlgorithm{
		"asymmetric/RSA/pkcs-1v2-1d2-vec/oaep-vect.txt":     kmsapi.RSAESOAEPSHA1,
		"asymmetric/RSA/oaep-custom/oaep-sha256-sha256.txt": kmsapi.RSAESOAEPSHA256,
	} {
		all := oaepCases(t, file)
		if len(all) < 6 {
			t.Errorf("%s has %d", file, len(all))
		}
		for _, c := range all {
			primed(t, r, arn, c.p, c.q)
			if got, err := openWith(t, r.Client, arn, a, c.ciphertext); err != nil || !bytes.Equal(got, c.message) {
				t.Errorf("%s: got %x (%v), want %x", a, got, err, c.message)
			}
		}
	}
}

// TestEd25519Answers: the signatures of ed25519.cr.yp.to/python/sign.input, which are the only ones, and what
// Wycheproof says of others. AWS has no empty message.
func TestEd25519Answers(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for i, line := range strings.Split(strings.TrimSpace(vectors.Text(t, "asymmetric/Ed25519/sign.input")), "\n") {
		if i%32 != 31 { // message i has i bytes
			continue
		}
		f := strings.Split(line, ":")
		arn := planted(t, r, kmsapi.KeySpecECCNISTEdwards25519, signsAndVerifies, vectors.Hex(t, f[0])[:32])
		message, want := vectors.Hex(t, f[2]), vectors.Hex(t, f[3])[:64]
		if got, err := sign(t, r, arn, kmsapi.ED25519SHA512, kmsapi.MessageRaw, message); err != nil || !bytes.Equal(got, want) {
			t.Errorf("line %d: got %x (%v), want %x", i, got, err, want)
		}
	}
	var w struct{ TestGroups []vectors.Group } // an older file, which has the private keys
	vectors.JSON(t, "github.com/cloudflare/circl", "sign/ed25519/testdata/wycheproof_Ed25519", &w)
	seen := map[string]int{}
	for _, g := range w.TestGroups {
		arn := planted(t, r, kmsapi.KeySpecECCNISTEdwards25519, signsAndVerifies, g.Key.SK)
		for _, v := range g.Tests {
			if len(v.Msg) == 0 || len(v.Sig) == 0 {
				continue
			}
			err := verify(t, r, arn, kmsapi.ED25519SHA512, kmsapi.MessageRaw, v.Msg, v.Sig)
			if (err == nil) != (v.Result == "valid") || err != nil && api.KindOf(err) != api.KindInvalidSignature {
				t.Errorf("%d, %s: got %v, want %s", v.TcID, v.Comment, err, v.Result)
			}
			seen[v.Result]++
		}
	}
	if seen["valid"] < 60 || seen["invalid"] < 30 {
		t.Errorf("there were %v", seen)
	}
}

// kemAnswers is a file of NIST's ACVP server, ML-KEM-keyGen-FIPS203.
type kemAnswers struct {
	TestGroups []struct {
		ParameterSet string
		Tests        []struct{ D, Z, EK vectors.Octets }
	}
}

// TestMLKEMAnswers: the public key of each seed of NIST's, and the secret of a ciphertext made with it elsewhere.
func TestMLKEMAnswers(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	var prompt, want kemAnswers
	vectors.JSON(t, "github.com/cloudflare/circl", "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203/prompt", &prompt)
	vectors.JSON(t, "github.com/cloudflare/circl", "kem/mlkem/testdata/ML-KEM-keyGen-FIPS203/expectedResults", &want)
	for i, c := range kems {
		g := prompt.TestGroups[i]
		if g.ParameterSet != c.other.Name() || len(g.Tests) < 25 {
			t.Fatalf("%s has %d answers, of %s", c.spec, len(g.Tests), g.ParameterSet)
		}
		for j, v := range g.Tests {
			arn := planted(t, r, c.spec, hidesSecrets, append(bytes.Clone(v.D), v.Z...))
			_, _, raw := pqPublic(t, r, arn)
			if !bytes.Equal(raw, want.TestGroups[i].Tests[j].EK) {
				t.Errorf("%s, seed %d: another public key", c.spec, j)
			}
			public, err := c.other.UnmarshalBinaryPublicKey(want.TestGroups[i].Tests[j].EK)
			if err != nil {
				t.Fatal(err)
			}
			ciphertext, secret, err := c.other.Encapsulate(public)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decapsulate(t, r, arn, ciphertext); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%s, seed %d: got %x (%v), want %x", c.spec, j, got, err, secret)
			}
		}
	}
}
