package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const signsAndVerifies = kmsapi.UsageSignVerify

var rsaAlgorithms = []kmsapi.SigningAlgorithm{
	kmsapi.RSASSAPSSSHA256, kmsapi.RSASSAPSSSHA384, kmsapi.RSASSAPSSSHA512,
	kmsapi.RSASSAPKCS1V15SHA256, kmsapi.RSASSAPKCS1V15SHA384, kmsapi.RSASSAPKCS1V15SHA512,
}

// signers are the specs that sign, with what they offer.
var signers = []struct {
	spec kmsapi.KeySpec
	all  []kmsapi.SigningAlgorithm
	most int // bytes of a signature
}{
	{kmsapi.KeySpecRSA2048, rsaAlgorithms, 256},
	{kmsapi.KeySpecRSA3072, rsaAlgorithms, 384},
	{kmsapi.KeySpecRSA4096, rsaAlgorithms, 512},
	{kmsapi.KeySpecECCNISTP256, []kmsapi.SigningAlgorithm{kmsapi.ECDSASHA256}, 72},
	{kmsapi.KeySpecECCNISTP384, []kmsapi.SigningAlgorithm{kmsapi.ECDSASHA384}, 104},
	{kmsapi.KeySpecECCNISTP521, []kmsapi.SigningAlgorithm{kmsapi.ECDSASHA512}, 139},
	{kmsapi.KeySpecECCSECGP256K1, []kmsapi.SigningAlgorithm{kmsapi.ECDSASHA256}, 72},
	{kmsapi.KeySpecECCNISTEdwards25519, []kmsapi.SigningAlgorithm{kmsapi.ED25519SHA512, kmsapi.ED25519PHSHA512}, 64},
}

// hashOf returns the hash function that an algorithm's name ends with.
func hashOf(a kmsapi.SigningAlgorithm) crypto.Hash {
	switch name := a.String(); {
	case strings.HasSuffix(name, "256"):
		return crypto.SHA256
	case strings.HasSuffix(name, "384"):
		return crypto.SHA384
	}
	return crypto.SHA512
}

func digestOf(a kmsapi.SigningAlgorithm, message []byte) []byte {
	h := hashOf(a).New()
	h.Write(message)
	return h.Sum(nil)
}

// messageTypes returns what an algorithm signs.
func messageTypes(a kmsapi.SigningAlgorithm) []kmsapi.MessageType {
	switch a {
	case kmsapi.ED25519SHA512:
		return []kmsapi.MessageType{kmsapi.MessageRaw}
	case kmsapi.ED25519PHSHA512:
		return []kmsapi.MessageType{kmsapi.MessageDigest}
	}
	return []kmsapi.MessageType{kmsapi.MessageRaw, kmsapi.MessageDigest}
}

func sign(tb testing.TB, r *racktest.Rack, key string, a kmsapi.SigningAlgorithm, t kmsapi.MessageType, message []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Sign, &kmsapi.SignRequest{KeyId: ref(key), SigningAlgorithm: a, MessageType: t, Message: message})
	if err != nil {
		return nil, err
	}
	if out.KeyId != key || out.SigningAlgorithm != a {
		tb.Errorf("got %+v", out)
	}
	return out.Signature, nil
}

func verify(tb testing.TB, r *racktest.Rack, key string, a kmsapi.SigningAlgorithm, t kmsapi.MessageType, message, signature []byte) error {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Verify,
		&kmsapi.VerifyRequest{KeyId: ref(key), SigningAlgorithm: a, MessageType: t, Message: message, Signature: signature})
	if err == nil && (!out.SignatureValid || out.KeyId != key || out.SigningAlgorithm != a) {
		tb.Errorf("got %+v", out)
	}
	return err
}

func publicKey(tb testing.TB, r *racktest.Rack, key string) (*kmsapi.GetPublicKeyResponse, any) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.GetPublicKey, &kmsapi.GetPublicKeyRequest{KeyId: ref(key)})
	if err != nil {
		tb.Fatal(err)
	}
	if out.KeySpec == kmsapi.KeySpecECCSECGP256K1 {
		public, err := secp256k1.ParsePKIX(out.PublicKey)
		if err != nil {
			tb.Fatal(err)
		}
		return out, public
	}
	public, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		tb.Fatal(err)
	}
	return out, public
}

// holds verifies as somebody does who has the public key alone.
func holds(public any, a kmsapi.SigningAlgorithm, digest, raw, signature []byte) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if strings.Contains(a.String(), "PSS") {
			opts := &rsa.PSSOptions{SaltLength: hashOf(a).Size()}
			return rsa.VerifyPSS(public, hashOf(a), digest, signature, opts) == nil
		}
		return rsa.VerifyPKCS1v15(public, hashOf(a), digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case *secp256k1.PublicKey:
		return public.Valid(digest, signature)
	case ed25519.PublicKey:
		if a == kmsapi.ED25519SHA512 {
			return ed25519.Verify(public, raw, signature)
		}
		again := sha512.Sum512(digest) // AWS hashes the digest it is given
		return ed25519.VerifyWithOptions(public, again[:], signature, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	return false
}

// TestSignatures: of each algorithm and message type, checked inside, by hand and,
// after a restart, with every bit of message and signature that counts.
func TestSignatures(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	message := bytes.Repeat([]byte("m"), api.MaxMessage)
	type made struct {
		arn       string
		a         kmsapi.SigningAlgorithm
		t         kmsapi.MessageType
		message   []byte
		signature []byte
	}
	var kept []made
	for _, c := range signers {
		arn := createKey(t, r, c.spec, signsAndVerifies)
		out, public := publicKey(t, r, arn)
		if out.KeyId != arn || out.KeySpec != c.spec || out.CustomerMasterKeySpec != c.spec || out.KeyUsage != signsAndVerifies ||
			!slices.Equal(out.SigningAlgorithms, c.all) || out.EncryptionAlgorithms != nil || out.KeyAgreementAlgorithms != nil {
			t.Errorf("%s: got %+v", c.spec, out)
		}
		if k, ok := public.(*rsa.PublicKey); ok && (k.E != 65537 || k.Size() != c.most) {
			t.Errorf("%s: exponent %d, %d bytes", c.spec, k.E, k.Size())
		}
		for _, a := range c.all {
			for _, mt := range messageTypes(a) {
				m := message
				if mt == kmsapi.MessageDigest {
					m = digestOf(a, message)
				}
				signature, err := sign(t, r, arn, a, mt, m)
				if err != nil {
					t.Fatalf("%s %s %s: %v", c.spec, a, mt, err)
				}
				if n := len(signature); n > c.most || n < c.most-10 || !holds(public, a, digestOf(a, message), message, signature) {
					t.Errorf("%s %s %s: %d bytes do not hold: %x", c.spec, a, mt, n, signature)
				}
				kept = append(kept, made{arn, a, mt, m, signature})
			}
		}
	}
	r.Restart(nil)
	for _, m := range kept {
		if err := verify(t, r, m.arn, m.a, m.t, m.message, m.signature); err != nil {
			t.Errorf("%s %s, after a restart: %v", m.a, m.t, err)
		}
		bent := bytes.Clone(m.message)
		bent[len(bent)-1] ^= 1
		wantKind(t, verify(t, r, m.arn, m.a, m.t, bent, m.signature), api.KindInvalidSignature)
		for i := 0; i < len(m.signature); i += 7 {
			bent := bytes.Clone(m.signature)
			bent[i] ^= 1 << (i % 8)
			wantKind(t, verify(t, r, m.arn, m.a, m.t, m.message, bent), api.KindInvalidSignature)
		}
		for _, other := range [][]byte{m.signature[:1], m.signature[:len(m.signature)-1], append(bytes.Clone(m.signature), 0), make([]byte, api.MaxMac)} {
			wantKind(t, verify(t, r, m.arn, m.a, m.t, m.message, other), api.KindInvalidSignature)
		}
	}
	wantSound(t, r)
}

// TestOpenSSLVerifies: what another implementation says of signatures and public keys.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	message := []byte("attack at dawn")
	in := write("message", message)
	for _, c := range signers {
		if c.spec == kmsapi.KeySpecRSA3072 || c.spec == kmsapi.KeySpecRSA4096 {
			continue // the same code as RSA_2048, and slow to make
		}
		arn := createKey(t, r, c.spec, signsAndVerifies)
		out, _ := publicKey(t, r, arn)
		key := write(c.spec.String(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: out.PublicKey}))
		for _, a := range c.all {
			if a == kmsapi.ED25519PHSHA512 {
				continue // openssl pkeyutl has no ph; TestSignatures checks it
			}
			signature, err := sign(t, r, arn, a, kmsapi.MessageRaw, message)
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", in, "-sigfile", write(a.String(), signature)}
			if a != kmsapi.ED25519SHA512 {
				args = append(args, "-digest", strings.ToLower(strings.ReplaceAll(hashOf(a).String(), "-", "")))
			}
			if strings.Contains(a.String(), "PSS") {
				args = append(args, "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest")
			}
			if said, err := exec.Command("openssl", args...).CombinedOutput(); err != nil || !strings.Contains(string(said), "Verified Successfully") {
				t.Errorf("%s %s: %v: %s", c.spec, a, err, said)
			}
		}
	}
}

// TestSignRefusals: what can be wrong, alone and beside what is answered later, of
// both operations. Each is one record.
func TestSignRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	p256, ed := createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies), createKey(t, r, kmsapi.KeySpecECCNISTEdwards25519, signsAndVerifies)
	disabled, symmetric := createKey(t, r, kmsapi.KeySpecECCNISTP384, signsAndVerifies), r.CreateKey()
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	text, raw, digest := []byte("x"), kmsapi.MessageRaw, kmsapi.MessageDigest
	signature, err := sign(t, r, p256, kmsapi.ECDSASHA256, raw, text)
	if err != nil {
		t.Fatal(err)
	}
	const a = kmsapi.ECDSASHA256
	null := func(member string) string {
		return "ValidationException: 1 validation error detected: Value null at '" + member + "'"
	}
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.SignRequest
		want string
	}{
		"no message":                 {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: raw}, null("message")},
		"4097 bytes":                 {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: raw, Message: make([]byte, 4097)}, "ValidationException: 1 validation error detected: Value at 'message'"},
		"no key":                     {r.Client, kmsapi.SignRequest{SigningAlgorithm: a, MessageType: raw, Message: text}, null("keyId")},
		"no algorithm":               {r.Client, kmsapi.SignRequest{KeyId: ref(p256), MessageType: raw, Message: text}, null("signingAlgorithm")},
		"unknown algorithm":          {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: 14, MessageType: raw, Message: text}, "ValidationException: 1 validation error detected: Value"},
		"unknown type":               {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: 4, Message: text}, "ValidationException: 1 validation error detected: Value"},
		"grant token, unknown key":   {r.Client, kmsapi.SignRequest{KeyId: ref(noSuchID), SigningAlgorithm: a, MessageType: raw, Message: text, GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"unknown key":                {r.Client, kmsapi.SignRequest{KeyId: ref(noSuchID), SigningAlgorithm: a, MessageType: raw, Message: text}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"stranger":                   {r.Stranger, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: digest, Message: text}, deniedTo("Sign", p256)},
		"operator":                   {r.Operator, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: raw, Message: text}, "AccessDeniedException: "},
		"disabled, wrong algorithm":  {r.Client, kmsapi.SignRequest{KeyId: ref(disabled), SigningAlgorithm: a, MessageType: raw, Message: text}, "DisabledException: " + disabled + " is disabled."},
		"a key that encrypts":        {r.Client, kmsapi.SignRequest{KeyId: ref(symmetric), SigningAlgorithm: a, MessageType: digest, Message: text}, "InvalidKeyUsageException: " + symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for Sign."},
		"other hash":                 {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: kmsapi.ECDSASHA384, MessageType: digest, Message: text}, "InvalidKeyUsageException: Algorithm ECDSA_SHA_384 is incompatible with key spec ECC_NIST_P256."},
		"RSA with a curve":           {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: kmsapi.RSASSAPSSSHA256, MessageType: raw, Message: text}, "InvalidKeyUsageException: Algorithm RSASSA_PSS_SHA_256 is"},
		"short digest, dry run":      {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: digest, Message: make([]byte, 31), DryRun: true}, "ValidationException: Digest is invalid length for algorithm ECDSA_SHA_256."},
		"long digest":                {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: digest, Message: make([]byte, 33)}, "ValidationException: Digest is invalid length for algorithm ECDSA_SHA_256."},
		"mu":                         {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: kmsapi.MessageExternalMu, Message: make([]byte, 64)}, "ValidationException: Message type EXTERNAL_MU is incompatible with algorithm ECDSA_SHA_256."},
		"digest for Ed25519":         {r.Client, kmsapi.SignRequest{KeyId: ref(ed), SigningAlgorithm: kmsapi.ED25519SHA512, MessageType: digest, Message: make([]byte, 64)}, "ValidationException: Message type DIGEST is incompatible with algorithm ED25519_SHA_512."},
		"message for Ed25519ph":      {r.Client, kmsapi.SignRequest{KeyId: ref(ed), SigningAlgorithm: kmsapi.ED25519PHSHA512, MessageType: raw, Message: make([]byte, 64)}, "ValidationException: Message type RAW is incompatible with algorithm ED25519_PH_SHA_512."},
		"short digest for Ed25519ph": {r.Client, kmsapi.SignRequest{KeyId: ref(ed), SigningAlgorithm: kmsapi.ED25519PHSHA512, MessageType: digest, Message: make([]byte, 63)}, "ValidationException: Digest is invalid length for algorithm ED25519_PH_SHA_512."},
		"dry run":                    {r.Client, kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: raw, Message: text, DryRun: true}, "DryRunOperationException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.Sign.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.Sign, &c.in)
				return err
			})
			want := strings.NewReplacer("kms:Sign", "kms:Verify", "for Sign.", "for Verify.").Replace(c.want)
			refused(t, r, kmsapi.Verify.Op, want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.Verify, &kmsapi.VerifyRequest{KeyId: c.in.KeyId, SigningAlgorithm: c.in.SigningAlgorithm,
					MessageType: c.in.MessageType, Message: c.in.Message, Signature: signature, GrantTokens: c.in.GrantTokens, DryRun: c.in.DryRun})
				return err
			})
		})
	}
	for name, c := range map[string]struct {
		signature []byte
		want      string
	}{
		"no signature":             {nil, null("signature")},
		"6145 bytes":               {make([]byte, 6145), "ValidationException: 1 validation error detected: Value at 'signature'"},
		"wrong signature, dry run": {signature[1:], "KMSInvalidSignatureException: the signature is not one of the message under this key and algorithm"},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.Verify.Op, c.want, func() error {
				_, err := client.Do(t.Context(), r.Client, kmsapi.Verify,
					&kmsapi.VerifyRequest{KeyId: ref(p256), SigningAlgorithm: a, MessageType: raw, Message: text, Signature: c.signature, DryRun: true})
				return err
			})
		})
	}
}

// TestPublicKeyRefusals: who has no public key to show, or may not.
func TestPublicKeyRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, symmetric, mac := createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies), r.CreateKey(), createKey(t, r, kmsapi.KeySpecHMAC512, makesMacs)
	get := func(c *client.Client, in kmsapi.GetPublicKeyRequest) error {
		_, err := client.Do(t.Context(), c, kmsapi.GetPublicKey, &in)
		return err
	}
	for _, none := range []string{symmetric, mac} {
		wantSays(t, get(r.Client, kmsapi.GetPublicKeyRequest{KeyId: ref(none)}), "UnsupportedOperationException: "+none+" has KeySpec ")
	}
	wantSays(t, get(r.Client, kmsapi.GetPublicKeyRequest{}), "ValidationException: ")
	wantSays(t, get(r.Client, kmsapi.GetPublicKeyRequest{KeyId: ref(noSuchID), GrantTokens: []string{"t"}}), "InvalidGrantTokenException: ")
	wantSays(t, get(r.Client, kmsapi.GetPublicKeyRequest{KeyId: ref(noSuchID)}), "NotFoundException: ")
	wantSays(t, get(r.Stranger, kmsapi.GetPublicKeyRequest{KeyId: ref(symmetric)}), deniedTo("GetPublicKey", symmetric))
	text := []byte("x")
	signature, err := sign(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, text)
	if err != nil {
		t.Fatal(err)
	}
	everyState(t, r, arn, func() error { return get(r.Client, kmsapi.GetPublicKeyRequest{KeyId: ref(arn)}) })
	everyState(t, r, arn, func() error { _, err := sign(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, text); return err })
	everyState(t, r, arn, func() error { return verify(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, text, signature) })
}

// TestNoFalseSignatureLeaves: of a private key in which a bit flipped, and of
// material in which one did; the sealed copy serves the next call.
func TestNoFalseSignatureLeaves(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	d := newDesk(r)
	text := []byte("x")
	for _, c := range signers {
		if c.spec == kmsapi.KeySpecRSA3072 || c.spec == kmsapi.KeySpecRSA4096 {
			continue // the same code as RSA_2048, and slow to make
		}
		arn := createKey(t, r, c.spec, signsAndVerifies)
		in := &kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: c.all[0], MessageType: kmsapi.MessageRaw, Message: text}
		for how, damage := range map[string]func(){
			"private key": func() { kms.SwapPrivateKey(t, r.KMS(), keyID(t, arn)) },
			"material": func() {
				kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), 7)
				advance(api.MessageKeyLife)
			},
		} {
			signature, err := sign(t, r, arn, c.all[0], kmsapi.MessageRaw, text) // now it is expanded
			if err != nil {
				t.Fatal(err)
			}
			damage()
			_, err = ask(t, d, rootOf(racktest.Account), kmsapi.Sign, in) // no client, which would try again
			wantKind(t, err, api.KindKeyUnavailable)
			if err := verify(t, r, arn, c.all[0], kmsapi.MessageRaw, text, signature); err != nil {
				t.Errorf("%s: damaged %s: %v", c.spec, how, err)
			}
		}
	}
}

// TestAFullAccountMakesNoRSAKey: it is refused before the time is spent.
func TestAFullAccountMakesNoRSAKey(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	r.CreateKey()
	kms.SetCount(t, r.KMS(), racktest.Account, api.MaxKeys)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // to make 40 such keys takes longer
	defer cancel()
	for range 40 {
		_, err := client.Do(ctx, r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecRSA4096, KeyUsage: signsAndVerifies})
		wantKind(t, err, api.KindLimitExceeded)
	}
}

// TestWeakPrimesAreNoKey: what a row may hold that is no key of its spec.
func TestWeakPrimesAreNoKey(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		spec   kmsapi.KeySpec
		secret []byte
	}{
		"no primes":             {kmsapi.KeySpecRSA2048, make([]byte, 256)},
		"one prime twice":       {kmsapi.KeySpecRSA2048, bytes.Repeat([]byte{0xff}, 256)},
		"no scalar":             {kmsapi.KeySpecECCNISTP256, make([]byte, 32)},
		"a scalar beyond order": {kmsapi.KeySpecECCNISTP384, bytes.Repeat([]byte{0xff}, 48)},
		"a long scalar":         {kmsapi.KeySpecECCNISTP521, bytes.Repeat([]byte{0xff}, 66)},
	} {
		if err := kms.Expand(c.spec, c.secret); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// TestSlowWorkHasItsOwnPool: a key of RSA, which takes seconds to make, is waited for
// where no signature is, and no signature where Encrypt reads its keys.
func TestSlowWorkHasItsOwnPool(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d := newDesk(r)
	arn := createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	for i, c := range []struct {
		op   *api.Op
		in   any
		want work.Class
	}{
		{kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{Origin: 1}, work.Store},
		{kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{Origin: 1, KeySpec: kmsapi.KeySpecRSA2048, KeyUsage: signsAndVerifies}, work.Generate},
		{kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{Origin: 1, KeySpec: kmsapi.KeySpecECCNISTP521, KeyUsage: signsAndVerifies}, work.Compute},
		{kmsapi.Sign.Op, &kmsapi.SignRequest{KeyId: ref(arn), Message: []byte("x"), MessageType: 1, SigningAlgorithm: kmsapi.ECDSASHA256}, work.Compute},
		{kmsapi.GetPublicKey.Op, &kmsapi.GetPublicKeyRequest{KeyId: ref(arn)}, work.Compute},
	} {
		if got := d.routes[c.op].Serve(s.Call(api.RequestID(i+1)), protocol.Native{}, c.op.In.AppendCBOR(nil, c.in)); got != c.want {
			t.Errorf("%d: %s waits for %s, want %s", i, c.op, got, c.want)
		}
	}
	held := s.Flush(true)
	held.Release()
}

// TestRecordsOfSignatures: they show the key, the algorithm and the message's type,
// and neither the message nor the signature.
func TestRecordsOfSignatures(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, message := createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies), []byte("attack at dawn")
	before := len(r.Records())
	signature, err := sign(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, message)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, message, signature); err != nil {
		t.Fatal(err)
	}
	publicKey(t, r, arn)
	records := r.Records()[before:]
	for i, op := range []*api.Op{kmsapi.Sign.Op, kmsapi.Verify.Op, kmsapi.GetPublicKey.Op} {
		if len(records) != 3 || records[i].Op != op.Number || records[i].Resource != arn || records[i].Error != 0 {
			t.Fatalf("got records %+v, want one of %s", records, op)
		}
		if shown := records[i].Request; bytes.Contains(shown, message) || bytes.Contains(shown, signature) || !bytes.Contains(shown, []byte(arn)) {
			t.Errorf("%s shows %q", op, shown)
		}
	}
	if !bytes.Contains(records[0].Request, []byte{5, byte(kmsapi.ECDSASHA256)}) {
		t.Errorf("Sign does not show its algorithm: %x", records[0].Request)
	}
}
