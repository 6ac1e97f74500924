package kms_test

import (
	"bytes"
	"crypto/sha3"
	"slices"
	"strings"
	"testing"
	"time"

	circl "github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const mlDSA, externalMu = kmsapi.MLDSASHAKE256, kmsapi.MessageExternalMu

// mldsaSpecs are the specs of ML-DSA with the sizes of FIPS 204, table 2.
var mldsaSpecs = []struct {
	spec              kmsapi.KeySpec
	other             circl.Scheme // another implementation
	public, signature int
}{
	{kmsapi.KeySpecMLDSA44, mldsa44.Scheme(), 1312, 2420},
	{kmsapi.KeySpecMLDSA65, mldsa65.Scheme(), 1952, 3309},
	{kmsapi.KeySpecMLDSA87, mldsa87.Scheme(), 2592, 4627},
}

// pqPublic returns what GetPublicKey answers of a key of ML-DSA or ML-KEM, and the key in it.
func pqPublic(tb testing.TB, r *racktest.Rack, key string) (*kmsapi.GetPublicKeyResponse, pq.Set, []byte) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.GetPublicKey, &kmsapi.GetPublicKeyRequest{KeyId: ref(key)})
	if err != nil {
		tb.Fatal(err)
	}
	set, public, err := pq.ParsePKIX(out.PublicKey)
	if err != nil {
		tb.Fatal(err)
	}
	return out, set, public
}

// muOf computes the representative of a message with an empty context outside, from the
// public key (FIPS 204, algorithm 7, line 6).
func muOf(public, message []byte) []byte {
	return muIn(public, nil, message)
}

// muIn is muOf with a context (FIPS 204, algorithm 2, line 10).
func muIn(public, context, message []byte) []byte {
	m := append(sha3.SumSHAKE256(public, 64), 0, byte(len(context)))
	return sha3.SumSHAKE256(append(append(m, context...), message...), 64)
}

// TestMLDSA: signatures of a message and of its mu, each one of the other, checked by
// another implementation and after a restart.
func TestMLDSA(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	message := bytes.Repeat([]byte("m"), api.MaxMessage)
	type made struct {
		arn           string
		mu, raw, ofMu []byte
	}
	var kept []made
	for _, c := range mldsaSpecs {
		arn := createKey(t, r, c.spec, signsAndVerifies)
		out, set, public := pqPublic(t, r, arn)
		if set.String() != c.other.Name() || len(public) != c.public || out.KeySpec != c.spec || out.KeyUsage != signsAndVerifies ||
			!slices.Equal(out.SigningAlgorithms, []kmsapi.SigningAlgorithm{mlDSA}) || out.EncapsulationAlgorithms != nil {
			t.Errorf("%s: got %s with %d bytes: %+v", c.spec, set, len(public), out)
		}
		if m := describe(t, r, arn); !slices.Equal(m.SigningAlgorithms, out.SigningAlgorithms) || m.CurrentKeyMaterialId != "" {
			t.Errorf("%s is described as %+v", c.spec, m)
		}
		m := made{arn: arn, mu: muOf(public, message)}
		var err error
		if m.raw, err = sign(t, r, arn, mlDSA, kmsapi.MessageRaw, message); err != nil {
			t.Fatal(err)
		}
		if m.ofMu, err = sign(t, r, arn, mlDSA, externalMu, m.mu); err != nil {
			t.Fatal(err)
		}
		key, err := c.other.UnmarshalBinaryPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		for _, signature := range [][]byte{m.raw, m.ofMu} {
			if len(signature) != c.signature || !c.other.Verify(key, message, signature, nil) {
				t.Errorf("%s: circl does not take the signature of %d bytes", c.spec, len(signature))
			}
		}
		kept = append(kept, m)
	}
	r.Restart(nil)
	for _, m := range kept {
		for _, signature := range [][]byte{m.raw, m.ofMu} {
			if err := verify(t, r, m.arn, mlDSA, kmsapi.MessageRaw, message, signature); err != nil {
				t.Error(err)
			}
			if err := verify(t, r, m.arn, mlDSA, externalMu, m.mu, signature); err != nil {
				t.Error(err)
			}
		}
		wantKind(t, verify(t, r, m.arn, mlDSA, kmsapi.MessageRaw, message[1:], m.raw), api.KindInvalidSignature)
		bent := bytes.Clone(m.mu)
		bent[63] ^= 1
		wantKind(t, verify(t, r, m.arn, mlDSA, externalMu, bent, m.ofMu), api.KindInvalidSignature)
		for i := 0; i < len(m.raw); i += 331 {
			bent := bytes.Clone(m.raw)
			bent[i] ^= 1 << (i % 8)
			wantKind(t, verify(t, r, m.arn, mlDSA, kmsapi.MessageRaw, message, bent), api.KindInvalidSignature)
			wantKind(t, verify(t, r, m.arn, mlDSA, externalMu, m.mu, bent), api.KindInvalidSignature)
		}
		for _, other := range [][]byte{m.raw[1:], append(bytes.Clone(m.raw), 0), {0}} {
			wantKind(t, verify(t, r, m.arn, mlDSA, kmsapi.MessageRaw, message, other), api.KindInvalidSignature)
			wantKind(t, verify(t, r, m.arn, mlDSA, externalMu, m.mu, other), api.KindInvalidSignature)
		}
	}
	wantSound(t, r)
}

// TestMLDSARefusals: of both operations, what is not for ML-DSA or for nothing else.
func TestMLDSARefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, p256 := createKey(t, r, kmsapi.KeySpecMLDSA44, signsAndVerifies), createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	mu := make([]byte, 64)
	signature, err := sign(t, r, arn, mlDSA, externalMu, mu)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in   kmsapi.SignRequest
		want string
	}{
		"digest":            {kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: mlDSA, MessageType: kmsapi.MessageDigest, Message: mu}, "ValidationException: Message type DIGEST is incompatible with key spec ML_DSA_44."},
		"short mu, dry run": {kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: mlDSA, MessageType: externalMu, Message: mu[1:], DryRun: true}, "ValidationException: Message is invalid length for MessageType EXTERNAL_MU: it has 63 bytes, a mu has 64."},
		"long mu":           {kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: mlDSA, MessageType: externalMu, Message: make([]byte, 65)}, "ValidationException: Message is invalid length for MessageType EXTERNAL_MU: it has 65 bytes"},
		"other algorithm":   {kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: kmsapi.ED25519SHA512, MessageType: kmsapi.MessageRaw, Message: mu}, "InvalidKeyUsageException: Algorithm ED25519_SHA_512 is incompatible with key spec ML_DSA_44."},
		"other key":         {kmsapi.SignRequest{KeyId: ref(p256), SigningAlgorithm: mlDSA, MessageType: externalMu, Message: mu}, "InvalidKeyUsageException: Algorithm ML_DSA_SHAKE_256 is incompatible with key spec ECC_NIST_P256."},
		"dry run":           {kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: mlDSA, MessageType: externalMu, Message: mu, DryRun: true}, "DryRunOperationException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.Sign.Op, c.want, func() error {
				_, err := client.Do(t.Context(), r.Client, kmsapi.Sign, &c.in)
				return err
			})
			refused(t, r, kmsapi.Verify.Op, strings.ReplaceAll(c.want, "kms:Sign", "kms:Verify"), func() error {
				_, err := client.Do(t.Context(), r.Client, kmsapi.Verify, &kmsapi.VerifyRequest{KeyId: c.in.KeyId, SigningAlgorithm: c.in.SigningAlgorithm,
					MessageType: c.in.MessageType, Message: c.in.Message, Signature: signature, DryRun: c.in.DryRun})
				return err
			})
		})
	}
	for spec, usage := range map[kmsapi.KeySpec]kmsapi.KeyUsage{
		kmsapi.KeySpecMLDSA44: kmsapi.UsageEncapsulateDecapsulate, kmsapi.KeySpecMLDSA87: kmsapi.UsageEncryptDecrypt, kmsapi.KeySpecMLKEM768: kmsapi.UsageSignVerify,
	} {
		_, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{KeySpec: spec, KeyUsage: usage})
		wantSays(t, err, "ValidationException: KeyUsage "+usage.String()+" is not compatible with KeySpec "+spec.String())
	}
}

// TestNoFalseMLDSASignatureLeaves: of a message or a mu, with a private key or material in
// which a bit flipped; the sealed copy serves the next call.
func TestNoFalseMLDSASignatureLeaves(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	d, arn, mu := newDesk(r), createKey(t, r, kmsapi.KeySpecMLDSA65, signsAndVerifies), make([]byte, 64)
	for _, mt := range []kmsapi.MessageType{kmsapi.MessageRaw, externalMu} {
		in := &kmsapi.SignRequest{KeyId: ref(arn), SigningAlgorithm: mlDSA, MessageType: mt, Message: mu}
		for how, damage := range map[string]func(){
			"private key": func() { kms.SwapPrivateKey(t, r.KMS(), keyID(t, arn)) },
			"material": func() {
				kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), 255)
				advance(api.MessageKeyLife)
			},
		} {
			signature, err := sign(t, r, arn, mlDSA, mt, mu) // now it is expanded
			if err != nil {
				t.Fatal(err)
			}
			damage()
			_, err = ask(t, d, rootOf(racktest.Account), kmsapi.Sign, in) // no client, which would try again
			wantKind(t, err, api.KindKeyUnavailable)
			if err := verify(t, r, arn, mlDSA, mt, mu, signature); err != nil {
				t.Errorf("%s: damaged %s: %v", mt, how, err)
			}
		}
	}
}

// TestExpandedLatticesAreBounded: apart from all others, and every key works all the same.
func TestExpandedLatticesAreBounded(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	kms.BoundLattices(r.KMS(), 2)
	p256 := keyID(t, createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies))
	var ids []api.KeyID
	for _, spec := range []kmsapi.KeySpec{kmsapi.KeySpecMLDSA44, kmsapi.KeySpecMLDSA65, kmsapi.KeySpecMLDSA87} {
		ids = append(ids, keyID(t, createKey(t, r, spec, signsAndVerifies)))
	}
	kem := createKey(t, r, kmsapi.KeySpecMLKEM768, kmsapi.UsageEncapsulateDecapsulate)
	for range 3 {
		for i, id := range ids {
			if _, err := sign(t, r, "arn:aws:kms:rack-1:"+racktest.Account.String()+":key/"+id.String(), mlDSA, kmsapi.MessageRaw, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := encapsulate(t, r, kem); err != nil {
				t.Fatal(err)
			}
			if n := kms.Expanded(r.KMS(), append([]api.KeyID{keyID(t, kem)}, ids...)...); n > 2 || n == 0 {
				t.Errorf("after key %d, %d are expanded", i, n)
			}
		}
	}
	if kms.Expanded(r.KMS(), p256) != 1 {
		t.Error("they took the place of a key of another kind")
	}
}
