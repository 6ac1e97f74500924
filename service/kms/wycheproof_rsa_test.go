package kms_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/vectors"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// What Wycheproof says of RSA, and of keys as they come in. Its keys of RSA are imported, each once.

var rsaSpecs = map[int]kmsapi.KeySpec{2048: kmsapi.KeySpecRSA2048, 3072: kmsapi.KeySpecRSA3072, 4096: kmsapi.KeySpecRSA4096}

// rsaFile reads a private key.
func rsaFile(tb testing.TB, file []byte) *rsa.PrivateKey {
	tb.Helper()
	k, err := x509.ParsePKCS8PrivateKey(file)
	if err != nil {
		tb.Fatal(err)
	}
	return k.(*rsa.PrivateKey)
}

// TestWycheproofOAEP: Decrypt finds each message. Whatever is wrong is InvalidCiphertext, and so is what Wycheproof
// calls valid with a label, with another hash in MGF1, or without a byte in it. The file rsa_oaep_misc has a key for
// each pair of hashes, of which two pairs are AWS's.
func TestWycheproofOAEP(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	seen, keys := map[string]int{}, map[string]string{}
	algorithms := map[string]kmsapi.EncryptionAlgorithm{"SHA-1": kmsapi.RSAESOAEPSHA1, "SHA-256": kmsapi.RSAESOAEPSHA256}
	for _, file := range []string{"rsa_oaep_2048_sha1_mgf1sha1", "rsa_oaep_2048_sha256_mgf1sha256", "rsa_oaep_2048_sha256_mgf1sha1",
		"rsa_oaep_3072_sha256_mgf1sha256", "rsa_oaep_4096_sha256_mgf1sha256", "rsa_oaep_misc"} {
		for _, g := range vectors.Wycheproof(t, file) {
			a, spec := algorithms[g.Sha], rsaSpecs[g.KeySize]
			if a == 0 || spec == 0 || file == "rsa_oaep_misc" && g.Sha != g.MgfSha {
				continue
			}
			n := string(rsaFile(t, g.PrivateKeyPkcs8).N.Bytes())
			if keys[n] == "" {
				keys[n] = imported(t, r, spec, encryptsAndDecrypts, g.PrivateKeyPkcs8)
			}
			for _, v := range g.Tests {
				got, err := openWith(t, r.Client, keys[n], a, v.CT)
				want := v.Valid() && len(v.Label) == 0 && len(v.Msg) > 0 && g.Sha == g.MgfSha
				kind := api.KindInvalidCiphertext
				if len(v.CT) == 0 {
					kind = api.KindValidation
				}
				if want && (err != nil || !bytes.Equal(got, v.Msg)) || !want && api.KindOf(err) != kind {
					t.Errorf("%s %s: got %x (%v), want %x, %s", file, &v, got, err, v.Msg, v.Result)
				}
				seen[fmt.Sprint(want)]++
			}
		}
	}
	wantCases(t, seen, map[string]int{"true": 45, "false": 140})
}

// signatures is a file of signatures of RSA.
type signatures struct {
	file string
	a    kmsapi.SigningAlgorithm
	ours bool   // false: its padding is another than AWS's
	also string // comment of one whose padding is AWS's all the same, and so is valid here
}

// rsaSignatures are the files for keys of 2048, 3072 and 4096 bits.
func rsaSignatures() (all []signatures) {
	for i, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		pkcs, pss := kmsapi.RSASSAPKCS1V15SHA256+kmsapi.SigningAlgorithm(i), kmsapi.RSASSAPSSSHA256+kmsapi.SigningAlgorithm(i)
		number := strings.TrimPrefix(h.String(), "SHA-")
		for bits := range rsaSpecs {
			all = append(all, signatures{fmt.Sprintf("rsa_signature_%d_sha%s", bits, number), pkcs, true, ""})
		}
		for _, bits := range [][]int{{2048, 3072, 4096}, {2048, 4096}, {4096}}[i] {
			all = append(all, signatures{fmt.Sprintf("rsa_pss_%d_sha%s_mgf1_%d", bits, number, h.Size()), pss, true, ""})
		}
	}
	return append(all,
		signatures{"rsa_pss_2048_sha256_mgf1_0", kmsapi.RSASSAPSSSHA256, false, "s_len changed to 32"},
		signatures{"rsa_pss_2048_sha256_mgf1sha1_20", kmsapi.RSASSAPSSSHA256, false, ""},
		signatures{"rsa_pss_4096_sha512_mgf1_32", kmsapi.RSASSAPSSSHA512, false, ""})
}

// rsaSigners imports each key that Wycheproof has for signing, by its modulus, and signs with it: the signatures of
// PKCS #1 v1.5 are the only ones. Keys with 3 for an exponent are none here.
func rsaSigners(t *testing.T, r *racktest.Rack, seen map[string]int) map[string]string {
	t.Helper()
	keys := map[string]string{}
	pkcs := map[string]kmsapi.SigningAlgorithm{"SHA-256": kmsapi.RSASSAPKCS1V15SHA256, "SHA-384": kmsapi.RSASSAPKCS1V15SHA384, "SHA-512": kmsapi.RSASSAPKCS1V15SHA512}
	for bits, spec := range rsaSpecs {
		for _, g := range vectors.Wycheproof(t, fmt.Sprintf("rsa_pkcs1_%d_sig_gen", bits)) {
			private, a := rsaFile(t, g.PrivateKeyPkcs8), pkcs[g.Sha]
			if a == 0 || private.E != 65537 {
				continue
			}
			arn := imported(t, r, spec, signsAndVerifies, g.PrivateKeyPkcs8)
			keys[string(private.N.Bytes())] = arn
			for _, v := range g.Tests {
				got, err := sign(t, r, arn, a, kmsapi.MessageDigest, digestOf(a, v.Msg))
				if err != nil || !bytes.Equal(got, v.Sig) {
					t.Errorf("%d %s: got %x (%v), want %x", bits, &v, got, err, v.Sig)
				}
				seen["signed"]++
			}
		}
	}
	return keys
}

// TestWycheproofRSASignatures: Verify says of each what Wycheproof does, and KMSInvalidSignature of what is acceptable to
// it, or has another salt or MGF1 than AWS's.
func TestWycheproofRSASignatures(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	seen := map[string]int{}
	keys := rsaSigners(t, r, seen)
	for _, f := range rsaSignatures() {
		for _, g := range vectors.Wycheproof(t, f.file) {
			public, err := x509.ParsePKIXPublicKey(g.PublicKeyDer)
			if err != nil {
				t.Fatal(err)
			}
			arn := keys[string(public.(*rsa.PublicKey).N.Bytes())]
			if public.(*rsa.PublicKey).E != 65537 {
				seen["exponent 3"]++
				continue
			}
			for _, v := range g.Tests {
				mt, message, kind := kmsapi.MessageDigest, digestOf(f.a, v.Msg), api.KindInvalidSignature
				if v.TcID%2 == 0 && len(v.Msg) > 0 {
					mt, message = kmsapi.MessageRaw, v.Msg
				}
				if len(v.Sig) == 0 {
					kind = api.KindValidation
				}
				err := verify(t, r, arn, f.a, mt, message, v.Sig)
				want := v.Valid() && f.ours || f.also != "" && v.Comment == f.also
				if (err == nil) != want || err != nil && api.KindOf(err) != kind {
					t.Errorf("%s %s: got %v, want %s", f.file, &v, err, v.Result)
				}
				seen[v.Result]++
			}
		}
	}
	wantCases(t, seen, map[string]int{"signed": 72, "valid": 820, "invalid": 2600, "acceptable": 9, "exponent 3": 4})
}

// TestWycheproofPSSParameters: of every hash, MGF1 and salt together, AWS's three are valid: with what Verify checks.
func TestWycheproofPSSParameters(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for _, g := range vectors.Wycheproof(t, "rsa_pss_misc") {
		public, err := x509.ParsePKIXPublicKey(g.PublicKeyDer)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			want := g.Sha == h.String() && g.MgfSha == g.Sha && g.SLen == h.Size()
			for _, v := range g.Tests {
				if got := kms.Valid(public, kmsapi.RSASSAPSSSHA256+kmsapi.SigningAlgorithm(i), v.Msg, v.Sig); got != want {
					t.Errorf("%s: %s, MGF1 of %s, a salt of %d bytes: got %t", h, g.Sha, g.MgfSha, g.SLen, got)
				}
				seen[fmt.Sprint(want)]++
			}
		}
	}
	wantCases(t, seen, map[string]int{"true": 3, "false": 440})
}

// TestWycheproofForeignKeys: keys of three primes, and of sizes that AWS has not, are refused for what they are.
func TestWycheproofForeignKeys(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	refuse := func(spec kmsapi.KeySpec, file []byte, why string) {
		t.Helper()
		_, err := forever(t, r, external(t, r, spec, encryptsAndDecrypts), file, kmsapi.ImportKeyMaterialRequest{})
		wantKind(t, err, api.KindIncorrectKeyMaterial)
		if err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want %s", err, why)
		}
	}
	refuse(kmsapi.KeySpecRSA2048, vectors.Wycheproof(t, "rsa_three_primes_oaep_2048_sha1_mgf1sha1")[0].PrivateKeyPkcs8, "more than two primes")
	sizes := 0
	for _, g := range vectors.Wycheproof(t, "rsa_oaep_misc") {
		if g.KeySize == 2688 || g.KeySize == 3104 || g.KeySize == 1024 && g.Sha == g.MgfSha && g.Sha == "SHA-256" {
			refuse(kmsapi.KeySpecRSA3072, g.PrivateKeyPkcs8, fmt.Sprintf("this one %d", g.KeySize))
			sizes++
		}
	}
	if sizes != 3 {
		t.Errorf("there were %d", sizes)
	}
}

// TestWycheproofKeyWrap: what an import unwraps: a key of 32 bytes comes in. Other lengths, what is wrong with a wrap, and
// KW instead of KWP are all one InvalidCiphertext. Each wrapped key of 32 bytes and every eighth other one.
func TestWycheproofKeyWrap(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	var p *kmsapi.GetParametersForImportResponse
	arn, tries, seen := secretKey(t, r), 0, map[string]int{}
	for _, file := range []string{"aes_kwp", "aes_wrap"} {
		for _, g := range vectors.Wycheproof(t, file) {
			for _, v := range g.Tests {
				if len(v.Key) != 32 || len(v.Msg) != 32 && v.TcID%8 != 0 {
					continue
				}
				if tries++; tries%7 == 1 {
					p = parameters(t, r, arn, kmsapi.WrapAESKeyWrapSHA256, kmsapi.WrappingRSA2048)
				}
				_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &kmsapi.ImportKeyMaterialRequest{KeyId: ref(arn), ImportToken: p.ImportToken,
					EncryptedKeyMaterial: append(oaep(t, crypto.SHA256.New(), p.PublicKey, v.Key), v.CT...), ExpirationModel: kmsapi.MaterialDoesNotExpire})
				want := file == "aes_kwp" && v.Valid() && len(v.Msg) == 32
				seen[fmt.Sprint(want)]++
				if !want {
					if api.KindOf(err) != api.KindInvalidCiphertext {
						t.Errorf("%s %s: got %v", file, &v, err)
					}
					continue
				}
				if err != nil || !bytes.Equal(kms.Secret(t, r.KMS(), keyID(t, arn)), v.Msg) {
					t.Errorf("%s %s: another secret, or %v", file, &v, err)
				}
				arn, tries = secretKey(t, r), 0
			}
		}
	}
	wantCases(t, seen, map[string]int{"true": 3, "false": 30})
}
