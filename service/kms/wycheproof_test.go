package kms_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/vectors"
	"github.com/keyrack/keyrack/service/kms"
)

// What Wycheproof says of each case, of curves, codes and lattices, through the operations. Where it leaves the choice
// ("acceptable") ours is:
//
//	PKCS #1 v1.5 signature whose DigestInfo has no NULL     refused, as RFC 8017, section 8.2.2, note, allows
//	public key of ECDH that is no DER, or not the one form  refused (RFC 5480: a named curve; SP 800-56A: nothing on points)
//	public key of ECDH with a compressed point              refused: each key has one encoding
//	public key of ECDH with the curve's numbers, not name   refused: RFC 5480, section 2.1.1, and CVE-2020-0601
//
// And what it calls valid is refused where AWS KMS has no such thing: labels of OAEP, other hashes of MGF1, other lengths
// of salts, codes that were truncated, empty messages. Keys are planted unless a test says imported.

// wantCases fails a test of which something has become empty.
func wantCases(t *testing.T, seen, least map[string]int) {
	t.Helper()
	for what, n := range least {
		if seen[what] < n {
			t.Errorf("there were %d of %s, want %d (of %v)", seen[what], what, n, seen)
		}
	}
}

// TestWycheproofECDSA: of signatures of public keys whose private halves nobody has: with what Verify checks.
func TestWycheproofECDSA(t *testing.T) {
	t.Parallel()
	for file, c := range map[string]struct {
		a              kmsapi.SigningAlgorithm
		read           func(spki []byte) (any, error)
		valid, invalid int // at least
	}{
		"ecdsa_secp256r1_sha256": {kmsapi.ECDSASHA256, x509.ParsePKIXPublicKey, 170, 300},
		"ecdsa_secp384r1_sha384": {kmsapi.ECDSASHA384, x509.ParsePKIXPublicKey, 190, 300},
		"ecdsa_secp521r1_sha512": {kmsapi.ECDSASHA512, x509.ParsePKIXPublicKey, 225, 300},
		"ecdsa_secp256k1_sha256": {kmsapi.ECDSASHA256, func(spki []byte) (any, error) { return secp256k1.ParsePKIX(spki) }, 165, 300},
		"ed25519":                {kmsapi.ED25519SHA512, x509.ParsePKIXPublicKey, 85, 60},
	} {
		seen := map[string]int{}
		for _, g := range vectors.Wycheproof(t, file) {
			public, err := c.read(g.PublicKeyDer)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range g.Tests {
				if got := kms.Valid(public, c.a, v.Msg, v.Sig); got != v.Valid() {
					t.Errorf("%s %s: got %t, want %s", file, &v, got, v.Result)
				}
				seen[v.Result]++
			}
		}
		wantCases(t, seen, map[string]int{"valid": c.valid, "invalid": c.invalid})
	}
}

// TestWycheproofECDH: the secret of each pair of keys, as long as the field; a public key that is on no curve, on another
// one, in another form or changed is refused with ValidationException. Of the 1,399 points that meet a doubling, which take
// most of the time, it asks for every 16th.
func TestWycheproofECDH(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for file, c := range map[string]struct {
		spec  kmsapi.KeySpec
		curve elliptic.Curve
		least map[string]int
	}{
		"ecdh_secp256r1": {kmsapi.KeySpecECCNISTP256, elliptic.P256(), map[string]int{"valid": 135, "invalid": 50, "acceptable": 220}},
		"ecdh_secp384r1": {kmsapi.KeySpecECCNISTP384, elliptic.P384(), map[string]int{"valid": 140, "invalid": 45, "acceptable": 220}},
		"ecdh_secp521r1": {kmsapi.KeySpecECCNISTP521, elliptic.P521(), map[string]int{"valid": 130, "invalid": 50, "acceptable": 220}},
	} {
		seen, keys := map[string]int{}, map[string]string{}
		for _, g := range vectors.Wycheproof(t, file) {
			for _, v := range g.Tests {
				if slices.Contains(v.Flags, "EdgeCaseDoubling") && v.TcID%16 != 0 {
					continue
				}
				d := sized(c.curve, vectors.Hex(t, v.Private))
				if keys[string(d)] == "" {
					keys[string(d)] = planted(t, r, c.spec, agrees, d)
				}
				got, err := derive(t, r.Client, keys[string(d)], vectors.Hex(t, v.Public))
				switch {
				case v.Valid() && (err != nil || !bytes.Equal(got, v.Shared) || len(got) != len(d)):
					t.Errorf("%s %s: got %x (%v), want %x", file, &v, got, err, v.Shared)
				case !v.Valid() && api.KindOf(err) != api.KindValidation:
					t.Errorf("%s %s: got %x (%v), want %s", file, &v, got, err, v.Result)
				}
				seen[v.Result]++
			}
		}
		wantCases(t, seen, c.least)
	}
}

// TestWycheproofMacs: GenerateMac makes each code and VerifyMac takes it; another one, one that was truncated, and one under
// a changed key are refused with KMSInvalidMac. Secrets are as long as AWS has them.
func TestWycheproofMacs(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for file, c := range map[string]int{"hmac_sha224": 0, "hmac_sha256": 1, "hmac_sha384": 2, "hmac_sha512": 3} {
		h := hmacs[c]
		seen, keys := map[string]int{}, map[string]string{}
		for _, g := range vectors.Wycheproof(t, file) {
			whole := g.TagSize == 8*h.bytes
			for _, v := range g.Tests {
				if g.KeySize != 8*h.bytes || len(v.Msg) == 0 {
					if want := kms.Mac(t, h.spec, v.Key, v.Msg); bytes.HasPrefix(want, v.Tag) != v.Valid() {
						t.Errorf("%s %s: the code is %x", file, &v, want)
					}
					seen["outside"]++
					continue
				}
				if keys[string(v.Key)] == "" {
					keys[string(v.Key)] = planted(t, r, h.spec, makesMacs, v.Key)
				}
				key := keys[string(v.Key)]
				if err := verifyMac(t, r, key, h.a, v.Msg, v.Tag); (err == nil) != (whole && v.Valid()) || err != nil && api.KindOf(err) != api.KindInvalidMac {
					t.Errorf("%s %s: got %v, want %s", file, &v, err, v.Result)
				}
				if v.Valid() {
					if code, err := generateMac(t, r, key, h.a, v.Msg); err != nil || !bytes.HasPrefix(code, v.Tag) || len(code) != h.bytes {
						t.Errorf("%s %s: got %x, %v", file, &v, code, err)
					}
				}
				seen[v.Result]++
			}
		}
		wantCases(t, seen, map[string]int{"valid": 50, "invalid": 50, "outside": 65})
	}
}

// TestWycheproofMLDSA: of the signatures of each seed, and of others under its public key: of their messages, or of their
// mu where there is a context or no message that AWS takes.
func TestWycheproofMLDSA(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for number, spec := range map[string]kmsapi.KeySpec{"44": kmsapi.KeySpecMLDSA44, "65": kmsapi.KeySpecMLDSA65, "87": kmsapi.KeySpecMLDSA87} {
		seen, keys := map[string]int{}, map[string]string{}
		all := vectors.Wycheproof(t, "mldsa_"+number+"_sign_seed")
		for _, g := range all {
			if len(g.PrivateSeed) == 32 && keys[string(g.PublicKey)] == "" {
				keys[string(g.PublicKey)] = planted(t, r, spec, signsAndVerifies, g.PrivateSeed)
			}
		}
		for _, g := range slices.Concat(all, vectors.Wycheproof(t, "mldsa_"+number+"_verify")) {
			arn := keys[string(g.PublicKey)]
			if arn == "" || len(g.PublicKey) == 0 {
				continue
			}
			for _, v := range g.Tests {
				mt, message := messageOf(&v, g.PublicKey)
				if len(v.Ctx) > 255 || len(v.Sig) == 0 {
					continue
				}
				err := verify(t, r, arn, mlDSA, mt, message, v.Sig)
				if (err == nil) != v.Valid() || err != nil && api.KindOf(err) != api.KindInvalidSignature {
					t.Errorf("%s %s: got %v, want %s", spec, &v, err, v.Result)
				}
				seen[v.Result]++
			}
		}
		wantCases(t, seen, map[string]int{"valid": 150, "invalid": 55})
	}
}

// messageOf returns what to sign of a case of ML-DSA.
func messageOf(v *vectors.Test, public []byte) (kmsapi.MessageType, []byte) {
	switch {
	case v.Mu != nil:
		return externalMu, v.Mu
	case len(v.Ctx) > 0 || len(v.Msg) == 0 || len(v.Msg) > api.MaxMessage:
		return externalMu, muIn(public, v.Ctx, v.Msg)
	}
	return kmsapi.MessageRaw, v.Msg
}

// TestWycheproofMLKEM: the secret of each ciphertext under the key of each seed, also where it is rejected implicitly; a
// ciphertext of another length is InvalidCiphertext. A seed of another length is no key. Of the valid ones without a flag it takes every other one;
// internal/pq has them all.
func TestWycheproofMLKEM(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for i, number := range []string{"512", "768", "1024"} {
		c, seen, keys := kems[i], map[string]int{}, map[string]string{}
		for _, g := range vectors.Wycheproof(t, "mlkem_"+number) {
			for _, v := range g.Tests {
				if len(v.Seed) != 64 || v.Valid() && len(v.Flags) == 0 && v.TcID%2 != 0 {
					continue
				}
				if keys[string(v.Seed)] == "" {
					keys[string(v.Seed)] = planted(t, r, c.spec, hidesSecrets, v.Seed)
				}
				arn := keys[string(v.Seed)]
				if _, _, raw := pqPublic(t, r, arn); !bytes.Equal(raw, v.EK) {
					t.Errorf("%s %s: another public key", c.spec, &v)
				}
				got, err := decapsulate(t, r, arn, v.C)
				switch {
				case v.Valid() && (err != nil || !bytes.Equal(got, v.K)):
					t.Errorf("%s %s: got %x (%v), want %x", c.spec, &v, got, err, v.K)
				case !v.Valid() && api.KindOf(err) != api.KindInvalidCiphertext:
					t.Errorf("%s %s: got %x (%v), want %s", c.spec, &v, got, err, v.Result)
				}
				seen[v.Result]++
			}
		}
		wantCases(t, seen, map[string]int{"valid": 75, "invalid": 15})
	}
}
