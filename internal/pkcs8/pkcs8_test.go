package pkcs8_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/secp256k1"
)

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidPSS     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidP256    = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP224    = asn1.ObjectIdentifier{1, 3, 132, 0, 33}
	oidP384    = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidK256    = asn1.ObjectIdentifier{1, 3, 132, 0, 10}
	null       = []byte{5, 0}
)

// element is DER of a tag and what it holds.
func element(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	switch n := len(content); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
}

func number(tb testing.TB, n *big.Int) []byte {
	tb.Helper()
	b, err := asn1.Marshal(n)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func oid(tb testing.TB, o asn1.ObjectIdentifier) []byte {
	tb.Helper()
	b, err := asn1.Marshal(o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// info is PrivateKeyInfo; rest is what stands behind the private key.
func info(tb testing.TB, version int64, algorithm asn1.ObjectIdentifier, parameters, secret []byte, rest ...[]byte) []byte {
	tb.Helper()
	return element(0x30, append([][]byte{number(tb, big.NewInt(version)), element(0x30, oid(tb, algorithm), parameters), element(4, secret)}, rest...)...)
}

func marshal(tb testing.TB, private any) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// rsaParts are the members of RSAPrivateKey in their order.
type rsaParts struct{ version, n, e, d, p, q, dp, dq, qinv *big.Int }

// partsOf computes what belongs to two primes.
func partsOf(p, q, e *big.Int) *rsaParts {
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	k := &rsaParts{version: new(big.Int), n: new(big.Int).Mul(p, q), e: e, p: p, q: q}
	phi := new(big.Int).Mul(p1, q1)
	if k.d = new(big.Int).ModInverse(k.e, phi); k.d == nil {
		k.d = big.NewInt(3)
	}
	k.dp, k.dq = new(big.Int).Mod(k.d, p1), new(big.Int).Mod(k.d, q1)
	if k.qinv = new(big.Int).ModInverse(q, p); k.qinv == nil {
		k.qinv = big.NewInt(3)
	}
	return k
}

func (k *rsaParts) inner(tb testing.TB) []byte {
	var parts [][]byte
	for _, x := range []*big.Int{k.version, k.n, k.e, k.d, k.p, k.q, k.dp, k.dq, k.qinv} {
		parts = append(parts, number(tb, x))
	}
	return element(0x30, parts...)
}

func (k *rsaParts) der(tb testing.TB) []byte { return info(tb, 0, oidRSA, null, k.inner(tb)) }

// TestKeysOfOpenSSL: keys that `openssl genpkey` made.
func TestKeysOfOpenSSL(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{
		"rsa_2048": "RSA_2048", "rsa_3072": "RSA_3072", "rsa_4096": "RSA_4096",
		"ec_P-256": "ECC_NIST_P256", "ec_P-384": "ECC_NIST_P384", "ec_P-521": "ECC_NIST_P521",
		"ed25519": "ECC_NIST_EDWARDS25519",
	} {
		der := fromPEM(t, name)
		private, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			t.Fatal(err)
		}
		wantKey(t, der, spec, secretOf(t, private))
	}
	k, err := pkcs8.Parse(fromPEM(t, "ec_secp256k1"))
	if err != nil || k.Spec != "ECC_SECG_P256K1" {
		t.Fatalf("secp256k1: %v", err)
	}
	again, err := secp256k1.NewPrivateKey(k.Secret)
	if err != nil || !bytes.Equal(again.AppendPKCS8(nil), fromPEM(t, "ec_secp256k1")) {
		t.Errorf("secp256k1: another key, or %v", err)
	}
	wantRefused(t, "secp256k1, scalar beyond the order", info(t, 0, oidEC, oid(t, oidK256), element(0x30, number(t, big.NewInt(1)), element(4, bytes.Repeat([]byte{0xff}, 32)))), "scalar is not one of")
}

func fromPEM(tb testing.TB, name string) []byte {
	tb.Helper()
	text, err := os.ReadFile("testdata/" + name + ".pem")
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return block.Bytes
}

// secretOf returns what the standard library holds of a key.
func secretOf(tb testing.TB, private any) []byte {
	tb.Helper()
	switch k := private.(type) {
	case *rsa.PrivateKey:
		return primesOf(k.Primes[0], k.Primes[1])
	case *ecdsa.PrivateKey:
		scalar, _ := ecParts(tb, k)
		return scalar
	}
	return private.(ed25519.PrivateKey).Seed()
}

// primesOf is the secret of an RSA key: the greater prime, and the other.
func primesOf(p, q *big.Int) []byte {
	if p.Cmp(q) < 0 {
		p, q = q, p
	}
	return append(p.Bytes(), q.Bytes()...)
}

func wantKey(tb testing.TB, der []byte, spec string, secret []byte) {
	tb.Helper()
	k, err := pkcs8.Parse(der)
	if err != nil {
		tb.Fatalf("%s: %v", spec, err)
	}
	if k.Spec != spec || !bytes.Equal(k.Secret, secret) {
		tb.Errorf("%s is read as %s, another secret: %v", spec, k.Spec, !bytes.Equal(k.Secret, secret))
	}
	for i := range 40 { // cut off anywhere, it is nothing
		if _, err := pkcs8.Parse(der[:len(der)*i/40]); !errors.Is(err, pkcs8.ErrForm) {
			tb.Errorf("%s, %d of %d bytes: %v", spec, len(der)*i/40, len(der), err)
		}
	}
}

// TestOneKeyHasOneSecret: whichever way its file is written.
func TestOneKeyHasOneSecret(t *testing.T) {
	t.Parallel()
	lcm := sample(t, "good")
	p, q, e := lcm.p, lcm.q, lcm.e
	one := big.NewInt(1)
	p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	lambda := new(big.Int).Div(new(big.Int).Mul(p1, q1), new(big.Int).GCD(nil, nil, p1, q1))
	lcm.d = new(big.Int).ModInverse(lcm.e, lambda)
	for name, der := range map[string][]byte{
		"primes swapped":   partsOf(q, p, e).der(t),
		"d modulo phi":     partsOf(p, q, e).der(t),
		"d modulo the lcm": lcm.der(t),
		"attributes":       info(t, 0, oidRSA, null, lcm.inner(t), element(0xa0, element(0x30))),
	} {
		got, err := pkcs8.Parse(der)
		if err != nil || !bytes.Equal(got.Secret, primesOf(p, q)) {
			t.Errorf("%s: another secret, or %v", name, err)
		}
	}
}

func TestOptionalMembersOfEC(t *testing.T) {
	t.Parallel()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, point := ecParts(t, k)
	compressed := append([]byte{2 | point[64]&1}, point[1:33]...)
	scalarOnly := append(number(t, big.NewInt(1)), element(4, scalar)...)
	named := element(0xa0, oid(t, oidP256))
	for name, inner := range map[string][]byte{
		"bare":       element(0x30, scalarOnly),
		"named":      element(0x30, scalarOnly, named),
		"point":      element(0x30, scalarOnly, publicPoint(point)),
		"both":       element(0x30, scalarOnly, named, publicPoint(point)),
		"compressed": element(0x30, scalarOnly, publicPoint(compressed)),
	} {
		got, err := pkcs8.Parse(info(t, 0, oidEC, oid(t, oidP256), inner))
		if err != nil || !bytes.Equal(got.Secret, scalar) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantRefused(t, "the point of another curve", info(t, 0, oidEC, oid(t, oidK256), element(0x30, scalarOnly, publicPoint(point))), "public point")
	wantKey(t, info(t, 0, oidEC, oid(t, oidK256), element(0x30, scalarOnly)), "ECC_SECG_P256K1", scalar)
}

func ecParts(tb testing.TB, k *ecdsa.PrivateKey) (scalar, point []byte) {
	tb.Helper()
	scalar, err := k.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	if point, err = k.PublicKey.Bytes(); err != nil {
		tb.Fatal(err)
	}
	return scalar, point
}

func publicPoint(point []byte) []byte { return element(0xa1, element(3, []byte{0}, point)) }

func TestEd25519WithItsPublicKey(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	inner := element(4, private.Seed())
	wantKey(t, info(t, 1, oidEd25519, nil, inner, element(0x81, []byte{0}, public)), "ECC_NIST_EDWARDS25519", private.Seed())
	public[0] ^= 1
	wantRefused(t, "another public key", info(t, 1, oidEd25519, nil, inner, element(0x81, []byte{0}, public)), "public key")
}

// TestMalformed: every one is the same error, which says no more.
func TestMalformed(t *testing.T) {
	t.Parallel()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, point := ecParts(t, k)
	scalarOnly := append(number(t, big.NewInt(1)), element(4, scalar)...)
	ec := func(parts ...[]byte) []byte { return info(t, 0, oidEC, oid(t, oidP256), element(0x30, parts...)) }
	seed := element(4, bytes.Repeat([]byte{7}, 32))
	parts := sample(t, "good")
	good := parts.der(t)
	long := bytes.Clone(ec(scalarOnly))
	long = append([]byte{0x30, 0x81}, long[1:]...)
	sec1, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"nothing":                    nil,
		"random bytes":               bytes.Repeat([]byte{0xa5}, 300),
		"a sequence of nothing":      {0x30, 0},
		"PKCS#1":                     parts.inner(t),
		"SEC 1":                      sec1,
		"a byte behind the end":      append(bytes.Clone(good), 0),
		"too long":                   append(bytes.Clone(good), make([]byte, pkcs8.MaxSize)...),
		"a length of two bytes":      long,
		"indefinite length":          append([]byte{0x30, 0x80}, good[4:]...),
		"version 2":                  info(t, 2, oidRSA, null, parts.inner(t)),
		"more than attributes":       info(t, 0, oidRSA, null, parts.inner(t), element(0xa2, nil)),
		"public key in version 0":    info(t, 0, oidEd25519, nil, seed, element(0x81, []byte{0}, make([]byte, 32))),
		"public key, 3 bits over":    info(t, 1, oidEd25519, nil, seed, element(0x81, []byte{3}, make([]byte, 32))),
		"RSA, no parameters":         info(t, 0, oidRSA, nil, parts.inner(t)),
		"RSA, more parameters":       info(t, 0, oidRSA, append(null, null...), parts.inner(t)),
		"RSA, eight numbers":         info(t, 0, oidRSA, null, element(0x30, parts.inner(t)[4:len(parts.inner(t))-131])),
		"RSA, a byte behind":         info(t, 0, oidRSA, null, append(parts.inner(t), 0)),
		"RSA, a public key":          info(t, 1, oidRSA, null, parts.inner(t), element(0x81, []byte{0}, make([]byte, 32))),
		"RSA, version 2":             (&rsaParts{big.NewInt(2), parts.n, parts.e, parts.d, parts.p, parts.q, parts.dp, parts.dq, parts.qinv}).der(t),
		"RSA, a negative number":     (&rsaParts{parts.version, parts.n, big.NewInt(-65537), parts.d, parts.p, parts.q, parts.dp, parts.dq, parts.qinv}).der(t),
		"EC, version 0":              ec(number(t, new(big.Int)), element(4, scalar)),
		"EC, a short scalar":         ec(number(t, big.NewInt(1)), element(4, scalar[1:])),
		"EC, a long scalar":          ec(number(t, big.NewInt(1)), element(4, []byte{0}, scalar)),
		"EC, no scalar":              ec(number(t, big.NewInt(1))),
		"EC, another curve inside":   ec(scalarOnly, element(0xa0, oid(t, oidP384))),
		"EC, more than a curve":      ec(scalarOnly, element(0xa0, oid(t, oidP256), null)),
		"EC, more than a point":      ec(scalarOnly, element(0xa1, element(3, []byte{0}, point), null)),
		"EC, a point with bits over": ec(scalarOnly, element(0xa1, element(3, []byte{1}, point))),
		"EC, members swapped":        ec(scalarOnly, publicPoint(point), element(0xa0, oid(t, oidP256))),
		"EC, explicit curve":         info(t, 0, oidEC, element(0x30, number(t, big.NewInt(1))), element(0x30, scalarOnly)),
		"EC, no curve":               info(t, 0, oidEC, nil, element(0x30, scalarOnly)),
		"Ed25519, parameters":        info(t, 0, oidEd25519, null, seed),
		"Ed25519, 31 bytes":          info(t, 0, oidEd25519, nil, element(4, make([]byte, 31))),
		"Ed25519, a bare seed":       info(t, 0, oidEd25519, nil, make([]byte, 32)),
	} {
		if got, err := pkcs8.Parse(der); err != pkcs8.ErrForm || got != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func wantRefused(tb testing.TB, name string, der []byte, why string) {
	tb.Helper()
	got, err := pkcs8.Parse(der)
	if got != nil || !errors.Is(err, pkcs8.ErrRefused) || !strings.Contains(err.Error(), why) {
		tb.Errorf("%s: got %v, %v, want a refusal with %q", name, got, err, why)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scalar, point := ecParts(t, k)
	order := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	ec := func(curve asn1.ObjectIdentifier, scalar []byte, rest ...[]byte) []byte {
		return info(t, 0, oidEC, oid(t, curve), element(0x30, append([][]byte{number(t, big.NewInt(1)), element(4, scalar)}, rest...)...))
	}
	flipped := bytes.Clone(point)
	flipped[40] ^= 1
	wantRefused(t, "another curve", ec(oidP224, scalar[:28]), "P-256, P-384")
	wantRefused(t, "scalar of zero", ec(oidP256, make([]byte, 32)), "scalar is not one of")
	wantRefused(t, "scalar of the order", ec(oidP256, order), "scalar is not one of")
	wantRefused(t, "scalar beyond the order", ec(oidP256, bytes.Repeat([]byte{0xff}, 32)), "scalar is not one of")
	wantRefused(t, "point off the curve", ec(oidP256, scalar, publicPoint(flipped)), "public point")
	wantRefused(t, "compressed point of the other sign", ec(oidP256, scalar, publicPoint(append([]byte{3 ^ point[64]&1}, point[1:33]...))), "public point")
	wantRefused(t, "point at infinity", ec(oidP256, scalar, publicPoint([]byte{0})), "public point")
	wantRefused(t, "RSA-PSS alone", info(t, 0, oidPSS, nil, sample(t, "good").inner(t)), "none of RSA, EC")
}

// seeds are small keys of each type.
func seeds(tb testing.TB) (all [][]byte) {
	tb.Helper()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, marshal(tb, k))
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return append(all, marshal(tb, private), info(tb, 1, oidEd25519, nil, element(4, private.Seed()), element(0xa0, element(0x30)), element(0x81, []byte{0}, public)))
}

// TestPostQuantum: keys with their seed, alone or beside the expanded key.
func TestPostQuantum(t *testing.T) {
	t.Parallel()
	for set := pq.MLDSA44; set <= pq.MLKEM1024; set++ {
		seed := bytes.Repeat([]byte{byte(set)}, set.SeedSize())
		der, err := pq.AppendPKCS8(nil, set, seed)
		if err != nil {
			t.Fatal(err)
		}
		wantKey(t, der, strings.ReplaceAll(set.String(), "-", "_"), seed)
		if _, err := pkcs8.Parse(append(der, 0)); err != pkcs8.ErrForm {
			t.Errorf("%s, a byte behind the end: %v", set, err)
		}
	}
	expanded := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}
	wantRefused(t, "expanded", info(t, 0, expanded, nil, element(4, make([]byte, 2560))), "expanded")
	wantRefused(t, "not of the seed", info(t, 0, expanded, nil, element(0x30, element(4, make([]byte, 32)), element(4, make([]byte, 2560)))), "does not give")
	if _, err := pkcs8.Parse(info(t, 0, expanded, nil, element(0x80, make([]byte, 31)))); err != pkcs8.ErrForm {
		t.Errorf("a short seed: %v", err)
	}
}
