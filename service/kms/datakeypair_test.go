package kms_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/pkcs8"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// dataPairs are the specs of data key pairs (AWS KMS API Reference, GenerateDataKeyPair).
var dataPairs = []kmsapi.DataKeyPairSpec{
	kmsapi.PairRSA2048, kmsapi.PairRSA3072, kmsapi.PairRSA4096, kmsapi.PairECCNISTP256, kmsapi.PairECCNISTP384, kmsapi.PairECCNISTP521,
	kmsapi.PairECCSECGP256K1, kmsapi.PairECCNISTEdwards25519, kmsapi.PairMLKEM512, kmsapi.PairMLKEM768, kmsapi.PairMLKEM1024,
}

// publicOf returns the public half of a PKCS #8 private key as others read it: crypto/x509,
// internal/pq or openssl.
func publicOf(tb testing.TB, spec kmsapi.DataKeyPairSpec, der []byte) []byte {
	tb.Helper()
	switch {
	case spec == kmsapi.PairECCSECGP256K1:
		return opensslPublic(tb, der)
	case spec >= kmsapi.PairMLKEM512:
		set, seed, err := pq.ParsePKCS8(der)
		if err != nil {
			tb.Fatal(err)
		}
		k, err := pq.NewDecapsulationKey(set, seed)
		if err != nil {
			tb.Fatal(err)
		}
		public, err := k.Public()
		if err != nil {
			tb.Fatal(err)
		}
		return pq.MarshalPKIX(set, public.Bytes())
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		tb.Fatal(err)
	}
	return spkiOf(tb, k.(interface{ Public() crypto.PublicKey }).Public())
}

// opensslPublic has openssl check a private key and write its public half.
func opensslPublic(tb testing.TB, der []byte) []byte {
	tb.Helper()
	cmd := exec.Command("openssl", "pkey", "-inform", "DER", "-check", "-pubout", "-outform", "DER", "-out", "/dev/stdout")
	cmd.Stdin = bytes.NewReader(der)
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("openssl takes no key of %d bytes: %v", len(der), err)
	}
	return bytes.TrimPrefix(out, []byte("Key is valid\n"))
}

// TestDataKeyPairs: the private half is that of the public one, in clear and encrypted,
// under its context alone; no two pairs are the same.
func TestDataKeyPairs(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, who := newDesk(r), rootOf(racktest.Account)
	arn, context := r.CreateKey(), bound("purpose", "test")
	opens := func(blob []byte) []byte {
		t.Helper()
		got, err := ask(t, d, who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: context})
		if err != nil {
			t.Fatal(err)
		}
		_, err = ask(t, d, who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob})
		wantKind(t, err, api.KindInvalidCiphertext)
		return got.Plaintext
	}
	for _, spec := range dataPairs {
		out, err := ask(t, d, who, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: spec, EncryptionContext: context})
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		if out.KeyId != arn || out.KeyPairSpec != spec || len(out.KeyMaterialId) != 64 || !bytes.Equal(publicOf(t, spec, out.PrivateKeyPlaintext), out.PublicKey) {
			t.Errorf("%s: got %+v", spec, out)
		}
		if got := opens(out.PrivateKeyCiphertextBlob); !bytes.Equal(got, out.PrivateKeyPlaintext) {
			t.Errorf("%s: %d bytes are encrypted as %d others", spec, len(out.PrivateKeyPlaintext), len(got))
		}
		if k, err := pkcs8.Parse(out.PrivateKeyPlaintext); err != nil || k.Spec != spec.String() {
			t.Errorf("%s: read as %+v, %v", spec, k, err)
		}
		if spec == kmsapi.PairRSA3072 || spec == kmsapi.PairRSA4096 {
			continue // the same code as RSA_2048, and slow to make
		}
		if spec < kmsapi.PairMLKEM512 && !bytes.Equal(opensslPublic(t, out.PrivateKeyPlaintext), out.PublicKey) {
			t.Errorf("%s: openssl finds another public key", spec)
		}
		mute, err := ask(t, d, who, kmsapi.GenerateDataKeyPairWithoutPlaintext, &kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{KeyId: ref(arn), KeyPairSpec: spec, EncryptionContext: context})
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		if mute.KeyId != arn || mute.KeyPairSpec != spec || mute.KeyMaterialId != out.KeyMaterialId || bytes.Equal(mute.PublicKey, out.PublicKey) ||
			!bytes.Equal(publicOf(t, spec, opens(mute.PrivateKeyCiphertextBlob)), mute.PublicKey) {
			t.Errorf("%s, without plaintext: got %+v", spec, mute)
		}
	}
}

// TestDataKeyPairRefusals: what can be wrong, alone and beside what is answered later, of
// both operations. Each is one record, and none takes the time that a key takes.
func TestDataKeyPairRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, disabled := r.CreateKey(), r.CreateKey()
	hmac, p256 := createKey(t, r, kmsapi.KeySpecHMAC256, makesMacs), createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	const rsa, sm2 = kmsapi.PairRSA4096, kmsapi.PairSM2
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.GenerateDataKeyPairRequest
		want string
	}{
		"no key":                      {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyPairSpec: rsa}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no spec":                     {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn)}, "ValidationException: 1 validation error detected: Value null at 'keyPairSpec'"},
		"unknown spec":                {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: 13}, "ValidationException: 1 validation error detected: Value"},
		"grant token, unknown key":    {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(noSuchID), KeyPairSpec: rsa, GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"unknown key, SM2":            {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(noSuchID), KeyPairSpec: sm2}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"stranger, SM2":               {r.Stranger, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: sm2}, deniedTo("GenerateDataKeyPair", arn)},
		"operator":                    {r.Operator, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: rsa}, "AccessDeniedException: "},
		"disabled, SM2":               {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(disabled), KeyPairSpec: sm2}, "DisabledException: " + disabled + " is disabled."},
		"a key for MACs, SM2":         {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(hmac), KeyPairSpec: sm2}, "InvalidKeyUsageException: " + hmac + " key usage is GENERATE_VERIFY_MAC which is not valid for GenerateDataKeyPair"},
		"a key that signs":            {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(p256), KeyPairSpec: rsa}, "InvalidKeyUsageException: " + p256 + " key usage is SIGN_VERIFY which is not valid for GenerateDataKeyPair"},
		"SM2, dry run":                {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: sm2, DryRun: true}, "UnsupportedOperationException: KeyPairSpec SM2 is not supported by this appliance"},
		"dry run":                     {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: rsa, DryRun: true}, "DryRunOperationException: "},
		"dry run of a key that signs": {r.Client, kmsapi.GenerateDataKeyPairRequest{KeyId: ref(p256), KeyPairSpec: rsa, DryRun: true}, "InvalidKeyUsageException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.GenerateDataKeyPair.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateDataKeyPair, &c.in)
				return err
			})
			want := c.want
			if name == "stranger, SM2" {
				want = deniedTo("GenerateDataKeyPairWithoutPlaintext", arn)
			}
			refused(t, r, kmsapi.GenerateDataKeyPairWithoutPlaintext.Op, want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateDataKeyPairWithoutPlaintext, &kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{
					KeyId: c.in.KeyId, KeyPairSpec: c.in.KeyPairSpec, GrantTokens: c.in.GrantTokens, DryRun: c.in.DryRun})
				return err
			})
		})
	}
	_, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{
		KeyId: ref(noSuchID), KeyPairSpec: rsa, Recipient: kmsapi.RecipientInfo{AttestationDocument: []byte("x")}})
	wantSays(t, err, "UnsupportedOperationException: Recipient ")
	everyState(t, r, arn, func() error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: kmsapi.PairECCNISTP256})
		return err
	})
}

// TestDataKeyPairsWait: for the processor where a key of RSA is made, and for it where
// others are, behind the door.
func TestDataKeyPairsWait(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, arn := newDesk(r), r.CreateKey()
	encrypt(t, r, arn, []byte("x")) // it is in memory
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	for spec, want := range map[kmsapi.DataKeyPairSpec]work.Class{kmsapi.PairRSA2048: work.Generate, kmsapi.PairRSA4096: work.Generate, kmsapi.PairECCNISTP256: work.Compute, kmsapi.PairMLKEM512: work.Compute} {
		in := &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: spec}
		if got := d.routes[kmsapi.GenerateDataKeyPair.Op].Serve(s.Call(1), protocol.Native{}, kmsapi.GenerateDataKeyPair.In.AppendCBOR(nil, in)); got != want {
			t.Errorf("%s waits for %s, want %s", spec, got, want)
		}
	}
	held := s.Flush(true)
	held.Release()
}

// TestPrivateHalvesAreWiped: one that leaves in clear is in memory that is wiped with the
// reply, and where the answer has none, it is gone before it.
func TestPrivateHalvesAreWiped(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	var memory, after []byte
	var with kmsapi.GenerateDataKeyPairResponse
	worked(t, r, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: kmsapi.PairECCNISTP256},
		func(c *access.Call, in *kmsapi.GenerateDataKeyPairRequest, out *kmsapi.GenerateDataKeyPairResponse) error {
			memory = unsafe.Slice(&c.Bytes(1)[0], 12<<10) // a call's memory is one piece, larger than that
			err := r.KMS().GenerateDataKeyPair(c, in, out)
			with = *out
			if err == nil && !bytes.Contains(memory, out.PrivateKeyPlaintext) {
				t.Error("the private key is not in the call's memory")
			}
			return err
		})
	if len(with.PrivateKeyPlaintext) == 0 || bytes.Count(memory, []byte{0}) != len(memory) {
		t.Errorf("got %+v, and %d bytes are not wiped", with, len(memory)-bytes.Count(memory, []byte{0}))
	}
	var blob []byte
	worked(t, r, kmsapi.GenerateDataKeyPairWithoutPlaintext, &kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{KeyId: ref(arn), KeyPairSpec: kmsapi.PairECCNISTP256},
		func(c *access.Call, in *kmsapi.GenerateDataKeyPairWithoutPlaintextRequest, out *kmsapi.GenerateDataKeyPairWithoutPlaintextResponse) error {
			memory = unsafe.Slice(&c.Bytes(1)[0], 12<<10)
			err := r.KMS().GenerateDataKeyPairWithoutPlaintext(c, in, out)
			after, blob = bytes.Clone(memory), bytes.Clone(out.PrivateKeyCiphertextBlob)
			return err
		})
	plaintext, err := decrypt(t, r.Client, blob)
	if err != nil || !bytes.Contains(after, blob) || bytes.Contains(after, plaintext[36:68]) {
		t.Errorf("GenerateDataKeyPairWithoutPlaintext returns with the private scalar in memory, or it does not decrypt: %v", err)
	}
}

// worked serves one request as a worker does.
func worked[In, Out any](t *testing.T, r *racktest.Rack, op api.OpOf[In, Out], in *In, f func(*access.Call, *In, *Out) error) {
	t.Helper()
	route := access.Handle(r.Gate(), op, f)
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	c := s.Call(1)
	if class := route.Serve(s.Again(t.Context(), c.Ticket()), protocol.Native{}, op.In.AppendCBOR(nil, in)); class != work.None {
		t.Fatalf("%s yields for %s", op, class)
	}
	held := s.Flush(true)
	held.Release()
}

// TestABentPairLeavesNobody: DER that is not of the secret that was drawn, or of no key.
func TestABentPairLeavesNobody(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	for _, spec := range []kmsapi.DataKeyPairSpec{kmsapi.PairECCNISTP256, kmsapi.PairECCSECGP256K1, kmsapi.PairECCNISTEdwards25519, kmsapi.PairMLKEM512} {
		out, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(arn), KeyPairSpec: spec})
		if err != nil {
			t.Fatal(err)
		}
		k, err := pkcs8.Parse(out.PrivateKeyPlaintext)
		if err != nil {
			t.Fatal(err)
		}
		if err := kms.ReadsBack(out.PrivateKeyPlaintext, out.PublicKey, spec, k.Secret); err != nil {
			t.Errorf("%s: a good one: %v", spec, err)
		}
		version := bytes.Index(out.PrivateKeyPlaintext, []byte{2, 1, 0}) + 2 // 1 says that there may be more behind, which there is not
		for i := range out.PrivateKeyPlaintext {
			bent := bytes.Clone(out.PrivateKeyPlaintext)
			bent[i] ^= 1
			if err := kms.ReadsBack(bent, out.PublicKey, spec, k.Secret); err == nil && i != version {
				t.Errorf("%s: byte %d does not count", spec, i)
			}
		}
		if kms.ReadsBack(out.PrivateKeyPlaintext, out.PublicKey, kmsapi.PairRSA2048, k.Secret) == nil {
			t.Errorf("%s is taken for RSA_2048", spec)
		}
	}
}
