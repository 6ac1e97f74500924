package kms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"hash"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/kwp"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// external makes a key whose material is to be imported.
func external(tb testing.TB, r *racktest.Rack, spec kmsapi.KeySpec, usage kmsapi.KeyUsage) string {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{KeySpec: spec, KeyUsage: usage, Origin: kmsapi.OriginExternal})
	if err != nil {
		tb.Fatal(err)
	}
	return out.KeyMetadata.Arn
}

// secretKey makes a symmetric one.
func secretKey(tb testing.TB, r *racktest.Rack) string {
	tb.Helper()
	return external(tb, r, kmsapi.KeySpecSymmetricDefault, kmsapi.UsageEncryptDecrypt)
}

func parameters(tb testing.TB, r *racktest.Rack, key string, a kmsapi.WrappingAlgorithm, spec kmsapi.WrappingKeySpec) *kmsapi.GetParametersForImportResponse {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.GetParametersForImport, &kmsapi.GetParametersForImportRequest{KeyId: ref(key), WrappingAlgorithm: a, WrappingKeySpec: spec})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// wrap encrypts material as somebody outside does, who has the public key.
func wrap(tb testing.TB, a kmsapi.WrappingAlgorithm, public, material []byte) []byte {
	tb.Helper()
	var h hash.Hash = sha256.New()
	if a == kmsapi.WrapOAEPSHA1 || a == kmsapi.WrapAESKeyWrapSHA1 {
		h = sha1.New()
	}
	if a == kmsapi.WrapOAEPSHA1 || a == kmsapi.WrapOAEPSHA256 {
		return oaep(tb, h, public, material)
	}
	kek := make([]byte, 32)
	rand.Read(kek)
	wrapped, err := kwp.Wrap(kek, material)
	if err != nil {
		tb.Fatal(err)
	}
	return append(oaep(tb, h, public, kek), wrapped...)
}

func oaep(tb testing.TB, h hash.Hash, public, plain []byte) []byte {
	tb.Helper()
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	wrapped, err := rsa.EncryptOAEP(h, rand.Reader, key.(*rsa.PublicKey), plain, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return wrapped
}

// forever imports material that does not expire, as in asks for it.
func forever(tb testing.TB, r *racktest.Rack, key string, material []byte, in kmsapi.ImportKeyMaterialRequest) (*kmsapi.ImportKeyMaterialResponse, error) {
	tb.Helper()
	in.ExpirationModel = kmsapi.MaterialDoesNotExpire
	return importMaterial(tb, r, key, material, in)
}

func importMaterial(tb testing.TB, r *racktest.Rack, key string, material []byte, in kmsapi.ImportKeyMaterialRequest) (*kmsapi.ImportKeyMaterialResponse, error) {
	tb.Helper()
	p := parameters(tb, r, key, kmsapi.WrapAESKeyWrapSHA256, kmsapi.WrappingRSA2048)
	in.KeyId, in.ImportToken, in.EncryptedKeyMaterial = ref(key), p.ImportToken, wrap(tb, kmsapi.WrapAESKeyWrapSHA256, p.PublicKey, material)
	return client.Do(tb.Context(), r.Client, kmsapi.ImportKeyMaterial, &in)
}

func removeMaterial(tb testing.TB, r *racktest.Rack, key, id string) (*kmsapi.DeleteImportedKeyMaterialResponse, error) {
	tb.Helper()
	return client.Do(tb.Context(), r.Client, kmsapi.DeleteImportedKeyMaterial, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: ref(key), KeyMaterialId: id})
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// fileOf returns a private key in PKCS#8.
func fileOf(tb testing.TB, private any) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// fromOpenSSL returns a private key that openssl made.
func fromOpenSSL(tb testing.TB, name string) []byte {
	tb.Helper()
	text, err := os.ReadFile("../../internal/pkcs8/testdata/" + name + ".pem")
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return block.Bytes
}

// TestImportEachWrapping: the same secret comes in each way, and is the secret.
func TestImportEachWrapping(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := secretKey(t, r)
	secret := randomBytes(32)
	m := describe(t, r, key)
	if m.KeyState != kmsapi.StatePendingImport || m.Enabled || m.Origin != kmsapi.OriginExternal || m.CurrentKeyMaterialId != "" || m.ExpirationModel != 0 {
		t.Errorf("a new key: %+v", m)
	}
	var id string
	for _, a := range []kmsapi.WrappingAlgorithm{kmsapi.WrapOAEPSHA1, kmsapi.WrapOAEPSHA256, kmsapi.WrapAESKeyWrapSHA1, kmsapi.WrapAESKeyWrapSHA256} {
		p := parameters(t, r, key, a, kmsapi.WrappingRSA2048)
		if left := time.Until(p.ParametersValidTo.Time()); p.KeyId != key || left < 23*time.Hour || left > 24*time.Hour {
			t.Errorf("got %+v", p)
		}
		out, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &kmsapi.ImportKeyMaterialRequest{
			KeyId: ref(key), ImportToken: p.ImportToken, EncryptedKeyMaterial: wrap(t, a, p.PublicKey, secret), ExpirationModel: kmsapi.MaterialDoesNotExpire})
		if err != nil || out.KeyId != key || len(out.KeyMaterialId) != 64 || id != "" && out.KeyMaterialId != id {
			t.Fatalf("%s: got %+v, %v", a, out, err)
		}
		id = out.KeyMaterialId
	}
	if got := kms.Secret(t, r.KMS(), keyID(t, key)); !bytes.Equal(got, secret) {
		t.Error("another secret is stored")
	}
	m = describe(t, r, key)
	if m.KeyState != kmsapi.StateEnabled || m.CurrentKeyMaterialId != id || m.ExpirationModel != kmsapi.MaterialDoesNotExpire || m.ValidTo != 0 {
		t.Errorf("described as %+v", m)
	}
	if got, err := decrypt(t, r.Client, encrypt(t, r, key, []byte("x"))); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	wantSound(t, r)
}

// TestWrappingKeys: each has the size that was asked for, and no two are one.
func TestWrappingKeys(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := secretKey(t, r)
	seen := map[string]bool{}
	for _, spec := range []kmsapi.WrappingKeySpec{kmsapi.WrappingRSA2048, kmsapi.WrappingRSA2048, kmsapi.WrappingRSA3072} {
		p := parameters(t, r, key, kmsapi.WrapOAEPSHA256, spec)
		public, err := x509.ParsePKIXPublicKey(p.PublicKey)
		if err != nil || !strings.HasSuffix(spec.String(), map[int]string{2048: "2048", 3072: "3072"}[public.(*rsa.PublicKey).N.BitLen()]) {
			t.Errorf("%s: %v", spec, err)
		}
		if seen[string(p.PublicKey)] || seen[string(p.ImportToken)] {
			t.Error("a wrapping key came twice")
		}
		seen[string(p.PublicKey)], seen[string(p.ImportToken)] = true, true
	}
}

// TestImportEverySpec: a key of each spec gets material that was made elsewhere, and
// does with it what who made it can check.
func TestImportEverySpec(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	for spec, n := range map[kmsapi.KeySpec]int{kmsapi.KeySpecHMAC224: 28, kmsapi.KeySpecHMAC256: 32, kmsapi.KeySpecHMAC384: 48, kmsapi.KeySpecHMAC512: 64} {
		secret, key := randomBytes(n), external(t, r, spec, kmsapi.UsageGenerateVerifyMac)
		if out, err := forever(t, r, key, secret, kmsapi.ImportKeyMaterialRequest{}); err != nil || out.KeyMaterialId != "" {
			t.Fatalf("%s: %+v, %v", spec, out, err)
		}
		a := kmsapi.HMACSHA224 + kmsapi.MacAlgorithm(spec-kmsapi.KeySpecHMAC224)
		out, err := client.Do(t.Context(), r.Client, kmsapi.GenerateMac, &kmsapi.GenerateMacRequest{KeyId: ref(key), MacAlgorithm: a, Message: []byte("m")})
		if err != nil || !bytes.Equal(out.Mac, kms.Mac(t, spec, secret, []byte("m"))) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	signers := map[string]struct {
		spec kmsapi.KeySpec
		a    kmsapi.SigningAlgorithm
	}{
		"rsa_2048": {kmsapi.KeySpecRSA2048, kmsapi.RSASSAPSSSHA256},
		"ec_P-256": {kmsapi.KeySpecECCNISTP256, kmsapi.ECDSASHA256},
		"ec_P-384": {kmsapi.KeySpecECCNISTP384, kmsapi.ECDSASHA384},
		"ec_P-521": {kmsapi.KeySpecECCNISTP521, kmsapi.ECDSASHA512},
		"ed25519":  {kmsapi.KeySpecECCNISTEdwards25519, kmsapi.ED25519SHA512},

		"ec_secp256k1": {kmsapi.KeySpecECCSECGP256K1, kmsapi.ECDSASHA256},
	}
	made := map[string]string{}
	for name, c := range signers {
		file, key := fromOpenSSL(t, name), external(t, r, c.spec, signsAndVerifies)
		if _, err := forever(t, r, key, file, kmsapi.ImportKeyMaterialRequest{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		made[name] = key
		checkSigner(t, r, key, file, c.a)
	}
	for set := pq.MLDSA44; set <= pq.MLKEM1024; set++ {
		spec, usage := kmsapi.KeySpecMLDSA44+kmsapi.KeySpec(set-pq.MLDSA44), signsAndVerifies
		if set >= pq.MLKEM512 {
			spec, usage = kmsapi.KeySpecMLKEM512+kmsapi.KeySpec(set-pq.MLKEM512), kmsapi.UsageEncapsulateDecapsulate
		}
		seed, key := randomBytes(set.SeedSize()), external(t, r, spec, usage)
		file, err := pq.AppendPKCS8(nil, set, seed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := forever(t, r, key, file, kmsapi.ImportKeyMaterialRequest{}); err != nil {
			t.Fatalf("%s: %v", set, err)
		}
		if got := kms.Secret(t, r.KMS(), keyID(t, key)); !bytes.Equal(got, seed) {
			t.Errorf("%s: another seed is stored", set)
		}
	}
	r.Restart(nil)
	for name, c := range signers {
		checkSigner(t, r, made[name], fromOpenSSL(t, name), c.a)
	}
	wantSound(t, r)
}

// checkSigner signs with an imported key and verifies with what openssl made.
func checkSigner(tb testing.TB, r *racktest.Rack, key string, file []byte, a kmsapi.SigningAlgorithm) {
	tb.Helper()
	message := []byte("a message")
	signature, err := sign(tb, r, key, a, kmsapi.MessageRaw, message)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(file)
	if err != nil { // secp256k1, which the standard library has not: the point stands at the end of both
		out, err := client.Do(tb.Context(), r.Client, kmsapi.GetPublicKey, &kmsapi.GetPublicKeyRequest{KeyId: ref(key)})
		if err != nil || !bytes.HasSuffix(file, out.PublicKey[len(out.PublicKey)-65:]) {
			tb.Errorf("another public key, %v", err)
		}
		return
	}
	if !holds(private.(crypto.Signer).Public(), a, digestOf(a, message), message, signature) {
		tb.Errorf("%s: the signature is not one of the imported key", a)
	}
}

// spoiled are the ways in which encrypted material can be wrong before it is material.
func spoiled(tb testing.TB, public []byte, good []byte) map[string][]byte {
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	h := sha256.New()
	kek := randomBytes(32)
	behind := func(kek, key []byte) []byte {
		wrapped, err := kwp.Wrap(kek, key)
		if err != nil {
			tb.Fatal(err)
		}
		return wrapped
	}
	return map[string][]byte{
		"first byte":              flip(0),
		"last byte of OAEP":       flip(255),
		"first byte of the wrap":  flip(256),
		"last byte":               flip(len(good) - 1),
		"OAEP alone":              good[:256],
		"part of OAEP":            good[:100],
		"one byte":                {7},
		"a byte behind":           append(bytes.Clone(good), 0),
		"a semiblock less":        good[:len(good)-8],
		"random":                  randomBytes(len(good)),
		"another AES key":         append(oaep(tb, h, public, randomBytes(32)), good[256:]...),
		"an AES-128 key":          append(oaep(tb, h, public, kek[:16]), behind(kek[:16], randomBytes(32))...),
		"OAEP of SHA-1":           append(oaep(tb, sha1.New(), public, kek), behind(kek, randomBytes(32))...),
		"31 bytes":                append(oaep(tb, h, public, kek), behind(kek, randomBytes(31))...),
		"33 bytes":                append(oaep(tb, h, public, kek), behind(kek, randomBytes(33))...),
		"a private key's file":    append(oaep(tb, h, public, kek), behind(kek, fromOpenSSL(tb, "ed25519"))...),
		"as long as can be":       randomBytes(6144),
		"OAEP and half a wrap":    good[:264],
		"the secret without wrap": oaep(tb, h, public, randomBytes(32)),
	}
}

// TestDamagedMaterial: every one is the same answer, whatever is wrong.
func TestDamagedMaterial(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := secretKey(t, r)
	p := parameters(t, r, key, kmsapi.WrapAESKeyWrapSHA256, kmsapi.WrappingRSA2048)
	names := spoiled(t, p.PublicKey, wrap(t, kmsapi.WrapAESKeyWrapSHA256, p.PublicKey, randomBytes(32)))
	var text string
	tries := 0
	for name := range names {
		if tries++; tries%7 == 1 {
			p = parameters(t, r, key, kmsapi.WrapAESKeyWrapSHA256, kmsapi.WrappingRSA2048)
		}
		blob := spoiled(t, p.PublicKey, wrap(t, kmsapi.WrapAESKeyWrapSHA256, p.PublicKey, randomBytes(32)))[name]
		_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &kmsapi.ImportKeyMaterialRequest{
			KeyId: ref(key), ImportToken: p.ImportToken, EncryptedKeyMaterial: blob, ExpirationModel: kmsapi.MaterialDoesNotExpire})
		wantKind(t, err, api.KindInvalidCiphertext)
		if err != nil && text != "" && err.Error() != text {
			t.Errorf("%s: %v, others %s", name, err, text)
		}
		if err != nil {
			text = err.Error()
		}
	}
	if m := describe(t, r, key); m.KeyState != kmsapi.StatePendingImport {
		t.Errorf("described as %+v", m)
	}
}

// TestDamagedDirectOAEP: material of an asymmetric key, encrypted directly.
func TestDamagedDirectOAEP(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key := external(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	p := parameters(t, r, key, kmsapi.WrapOAEPSHA256, kmsapi.WrappingRSA2048)
	file := fromOpenSSL(t, "ec_P-256")
	flipped := wrap(t, kmsapi.WrapOAEPSHA256, p.PublicKey, file)
	flipped[9] ^= 1
	in := kmsapi.ImportKeyMaterialRequest{KeyId: ref(key), ImportToken: p.ImportToken, ExpirationModel: kmsapi.MaterialDoesNotExpire}
	for _, blob := range [][]byte{flipped, wrap(t, kmsapi.WrapOAEPSHA256, p.PublicKey, file[:100]), wrap(t, kmsapi.WrapOAEPSHA1, p.PublicKey, file), wrap(t, kmsapi.WrapOAEPSHA256, p.PublicKey, []byte("x"))} {
		in.EncryptedKeyMaterial = blob
		_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &in)
		wantKind(t, err, api.KindInvalidCiphertext)
	}
	in.EncryptedKeyMaterial = wrap(t, kmsapi.WrapOAEPSHA256, p.PublicKey, file)
	if _, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &in); err != nil {
		t.Fatal(err)
	}
	checkSigner(t, r, key, file, kmsapi.ECDSASHA256)
}

// TestKeysThatAreRefused: key material in the right form that the key does not take.
func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	elliptical := external(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, seeded, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := external(t, r, kmsapi.KeySpecRSA2048, signsAndVerifies)
	for name, c := range map[string]struct {
		key  string
		file []byte
		why  string
	}{
		"another curve": {elliptical, fileOf(t, other), "ECC_NIST_P384"},
		"another type":  {elliptical, fileOf(t, seeded), "ECC_NIST_EDWARDS25519"},
		"a small key":   {rsaKey, fileOf(t, weak), "1024"},
		"another size":  {rsaKey, fromOpenSSL(t, "rsa_3072"), "RSA_3072"},
	} {
		_, err := forever(t, r, c.key, c.file, kmsapi.ImportKeyMaterialRequest{})
		wantKind(t, err, api.KindIncorrectKeyMaterial)
		if err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
