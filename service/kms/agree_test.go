package kms_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const agrees = kmsapi.UsageKeyAgreement

// agreers are the specs that agree, with their curves and the lengths of their secrets.
var agreers = []struct {
	spec  kmsapi.KeySpec
	curve elliptic.Curve
	bytes int
	name  string // openssl's
}{
	{kmsapi.KeySpecECCNISTP256, elliptic.P256(), 32, "P-256"},
	{kmsapi.KeySpecECCNISTP384, elliptic.P384(), 48, "P-384"},
	{kmsapi.KeySpecECCNISTP521, elliptic.P521(), 66, "P-521"},
}

func derive(tb testing.TB, c *client.Client, key string, spki []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.DeriveSharedSecret, &kmsapi.DeriveSharedSecretRequest{KeyId: ref(key), KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: spki})
	if err != nil {
		return nil, err
	}
	if out.KeyId != key || out.KeyAgreementAlgorithm != kmsapi.ECDH || out.KeyOrigin != kmsapi.OriginAWSKMS {
		tb.Errorf("got %+v", out)
	}
	return out.SharedSecret, nil
}

// peerOn makes the other side on a curve, with its public key as it is sent.
func peerOn(tb testing.TB, curve elliptic.Curve) (*ecdh.PrivateKey, []byte) {
	tb.Helper()
	signs, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	k, err := signs.ECDH()
	if err != nil {
		tb.Fatal(err)
	}
	return k, spkiOf(tb, k.PublicKey())
}

func spkiOf(tb testing.TB, public any) []byte {
	tb.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	return spki
}

// TestDeriveSharedSecret: both sides have the same secret, also after a restart, and it
// is as long as the field even where it begins with zeros.
func TestDeriveSharedSecret(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	keys := map[kmsapi.KeySpec]string{}
	same := func(when string) {
		for _, c := range agreers {
			_, public := publicKey(t, r, keys[c.spec])
			ours, err := public.(*ecdsa.PublicKey).ECDH()
			if err != nil {
				t.Fatal(err)
			}
			for zeros := false; !zeros; {
				k, spki := peerOn(t, c.curve)
				want, err := k.ECDH(ours)
				if err != nil {
					t.Fatal(err)
				}
				zeros = want[0] == 0 || c.bytes > 32
				if got, err := derive(t, r.Client, keys[c.spec], spki); err != nil || !bytes.Equal(got, want) || len(got) != c.bytes {
					t.Fatalf("%s, %s: got %x, %v, want %x", c.spec, when, got, err, want)
				}
			}
		}
	}
	for _, c := range agreers {
		keys[c.spec] = createKey(t, r, c.spec, agrees)
		out, _ := publicKey(t, r, keys[c.spec])
		if !slices.Equal(out.KeyAgreementAlgorithms, []kmsapi.KeyAgreementAlgorithm{kmsapi.ECDH}) || out.SigningAlgorithms != nil || out.KeyUsage != agrees {
			t.Errorf("%s: got %+v", c.spec, out)
		}
		described, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(keys[c.spec])})
		if m := described.KeyMetadata; err != nil || !slices.Equal(m.KeyAgreementAlgorithms, out.KeyAgreementAlgorithms) || m.SigningAlgorithms != nil || m.CurrentKeyMaterialId != "" {
			t.Errorf("%s: got %+v, %v", c.spec, m, err)
		}
	}
	same("made")
	r.Restart(nil)
	same("after a restart")
	wantSound(t, r)
}

// TestTwoKeysOfTheApplianceAgree: from both sides it is one secret.
func TestTwoKeysOfTheApplianceAgree(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	a, b := createKey(t, r, kmsapi.KeySpecECCNISTP384, agrees), createKey(t, r, kmsapi.KeySpecECCNISTP384, agrees)
	ofA, _ := publicKey(t, r, a)
	ofB, _ := publicKey(t, r, b)
	one, err := derive(t, r.Client, a, ofB.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := derive(t, r.Client, b, ofA.PublicKey); err != nil || !bytes.Equal(one, two) {
		t.Errorf("got %x and %x, %v", one, two, err)
	}
}

// TestOpenSSLAgrees: with another implementation on the other side.
func TestOpenSSLAgrees(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for _, c := range agreers {
		arn, dir := createKey(t, r, c.spec, agrees), t.TempDir()
		out, _ := publicKey(t, r, arn)
		if err := os.WriteFile(filepath.Join(dir, "ours"), out.PublicKey, 0o600); err != nil {
			t.Fatal(err)
		}
		openssl := func(args ...string) []byte {
			t.Helper()
			cmd := exec.Command("openssl", args...)
			cmd.Dir = dir
			got, err := cmd.Output()
			if err != nil {
				t.Fatalf("openssl %q: %v", args, err)
			}
			return got
		}
		openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:"+c.name, "-out", "theirs")
		spki := openssl("pkey", "-in", "theirs", "-pubout", "-outform", "DER")
		want := openssl("pkeyutl", "-derive", "-inkey", "theirs", "-peerform", "DER", "-peerkey", "ours")
		if got, err := derive(t, r.Client, arn, spki); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", c.spec, got, err, want)
		}
		for what, args := range map[string][]string{
			"explicit parameters": {"-param_enc", "explicit"},
			"a compressed point":  {"-conv_form", "compressed"},
			"a hybrid point":      {"-conv_form", "hybrid"},
		} {
			other := openssl(append([]string{"ec", "-in", "theirs", "-pubout", "-outform", "DER"}, args...)...)
			_, err := derive(t, r.Client, arn, other)
			wantSays(t, err, "ValidationException: PublicKey is no public key that "+arn+" can agree with: it is not the DER of ")
			if bytes.Equal(other, spki) {
				t.Errorf("openssl writes %s as it writes any key", what)
			}
		}
	}
}

// peers are public keys that no key on P-256 can agree with.
func peers(t *testing.T) map[string][]byte {
	_, good := peerOn(t, elliptic.P256())
	const at = 26 // of the bit string's first octet: header, algorithm, header
	off, infinity := bytes.Clone(good), append(bytes.Clone(good[:at]), 0, 0)
	off[len(off)-1] ^= 1
	infinity[1], infinity[at-2], infinity[at-1], infinity[at] = byte(at), 3, 2, 0
	zeros, large := append(bytes.Clone(good[:at+1]), make([]byte, 64)...), bytes.Clone(good)
	for i := at + 2; i < at+34; i++ {
		large[i] = 0xff
	}
	padded := bytes.Clone(good) // a bit string that leaves bits over
	padded[at] = 1
	_, p384 := peerOn(t, elliptic.P384())
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	unnamed := bytes.Clone(good)
	unnamed[at-3] ^= 2 // the last byte of the curve's name
	long := append([]byte{0x30, 0x81, good[1]}, good[2:]...)
	return map[string][]byte{
		"nothing but a byte": {0x30}, "a point off the curve": off, "infinity": infinity, "a point of zeros": zeros, "x beyond the field": large,
		"bits left over": padded, "another curve": p384, "Ed25519": spkiOf(t, ed), "X25519": spkiOf(t, x.PublicKey()), "a curve without a name": unnamed,
		"a byte behind": append(bytes.Clone(good), 0), "a key behind": append(bytes.Clone(good), good...), "a byte less": good[:len(good)-1],
		"a length in two bytes": long, "the point alone": good[at+1:], "a PEM block": []byte("-----BEGIN PUBLIC KEY-----\n"), "8192 bytes": make([]byte, 8192),
		"secp256k1": append([]byte(unhex(t, "3056301006072a8648ce3d020106052b8104000a034200")), good[at+1:]...),
	}
}

// TestPeersThatNobodyAgreesWith: each is one answer, before a dry run's.
func TestPeersThatNobodyAgreesWith(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := createKey(t, r, kmsapi.KeySpecECCNISTP256, agrees)
	for what, spki := range peers(t) {
		var info struct {
			Algorithm asn1.RawValue
			Key       asn1.BitString
		}
		if rest, err := asn1.Unmarshal(spki, &info); (what == "infinity" || what == "a point of zeros") && (err != nil || len(rest) > 0) {
			t.Errorf("%s is not made right: %v", what, err)
		}
		for _, dry := range []bool{false, true} {
			_, err := client.Do(t.Context(), r.Client, kmsapi.DeriveSharedSecret,
				&kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: spki, DryRun: dry})
			if api.KindOf(err) != api.KindValidation {
				t.Errorf("%s: got %v", what, err)
				continue
			}
			wantSays(t, err, "ValidationException: PublicKey is no public key that "+arn+" can agree with: it is ")
		}
	}
}

// TestDeriveRefusals: what can be wrong beside the other's key, alone and beside what is
// answered later. Each is one record.
func TestDeriveRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, signing := createKey(t, r, kmsapi.KeySpecECCNISTP256, agrees), createKey(t, r, kmsapi.KeySpecECCNISTP256, signsAndVerifies)
	disabled, symmetric := createKey(t, r, kmsapi.KeySpecECCNISTP256, agrees), r.CreateKey()
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	_, spki := peerOn(t, elliptic.P256())
	const ecdh = kmsapi.ECDH
	recipient, bad := kmsapi.RecipientInfo{AttestationDocument: []byte("x")}, []byte("x")
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.DeriveSharedSecretRequest
		want string
	}{
		"no key":                   {r.Client, kmsapi.DeriveSharedSecretRequest{KeyAgreementAlgorithm: ecdh, PublicKey: spki}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no algorithm":             {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), PublicKey: spki}, "ValidationException: 1 validation error detected: Value null at 'keyAgreementAlgorithm'"},
		"unknown algorithm":        {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: 2, PublicKey: spki}, "ValidationException: 1 validation error detected: Value"},
		"no public key":            {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: ecdh}, "ValidationException: 1 validation error detected: Value null at 'publicKey'"},
		"8193 bytes":               {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: ecdh, PublicKey: make([]byte, 8193)}, "ValidationException: 1 validation error detected: Value at 'publicKey'"},
		"grant token, unknown key": {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(noSuchID), KeyAgreementAlgorithm: ecdh, PublicKey: bad, GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"recipient, unknown key":   {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(noSuchID), KeyAgreementAlgorithm: ecdh, PublicKey: bad, Recipient: recipient}, "UnsupportedOperationException: Recipient "},
		"unknown key, bad peer":    {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(noSuchID), KeyAgreementAlgorithm: ecdh, PublicKey: bad}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"stranger, bad peer":       {r.Stranger, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: ecdh, PublicKey: bad}, deniedTo("DeriveSharedSecret", arn)},
		"operator":                 {r.Operator, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: ecdh, PublicKey: spki}, "AccessDeniedException: "},
		"disabled, bad peer":       {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(disabled), KeyAgreementAlgorithm: ecdh, PublicKey: bad}, "DisabledException: " + disabled + " is disabled."},
		"a key that signs":         {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(signing), KeyAgreementAlgorithm: ecdh, PublicKey: bad}, "InvalidKeyUsageException: " + signing + " key usage is SIGN_VERIFY which is not valid for DeriveSharedSecret."},
		"a symmetric key":          {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(symmetric), KeyAgreementAlgorithm: ecdh, PublicKey: spki}, "InvalidKeyUsageException: " + symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for DeriveSharedSecret."},
		"dry run":                  {r.Client, kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: ecdh, PublicKey: spki, DryRun: true}, "DryRunOperationException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.DeriveSharedSecret.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.DeriveSharedSecret, &c.in)
				return err
			})
		})
	}
	everyState(t, r, arn, func() error { _, err := derive(t, r.Client, arn, spki); return err })
	_, err := sign(t, r, arn, kmsapi.ECDSASHA256, kmsapi.MessageRaw, bad)
	wantSays(t, err, "InvalidKeyUsageException: "+arn+" key usage is KEY_AGREEMENT which is not valid for Sign.")
}

// TestABentKeyAgreesOnNothing: of either copy of the private key, or of material; the
// sealed copy serves the next call.
func TestABentKeyAgreesOnNothing(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	d, who := newDesk(r), rootOf(racktest.Account)
	for _, c := range agreers {
		arn := createKey(t, r, c.spec, agrees)
		_, spki := peerOn(t, c.curve)
		for how, damage := range map[string]func(){
			"first copy":  func() { kms.SwapAgreement(t, r.KMS(), keyID(t, arn), false) },
			"second copy": func() { kms.SwapAgreement(t, r.KMS(), keyID(t, arn), true) },
			"material":    func() { kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), 255); advance(api.MessageKeyLife) },
		} {
			want, err := derive(t, r.Client, arn, spki) // now it is expanded
			if err != nil {
				t.Fatal(err)
			}
			damage()
			_, err = ask(t, d, who, kmsapi.DeriveSharedSecret, &kmsapi.DeriveSharedSecretRequest{KeyId: ref(arn), KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: spki})
			wantKind(t, err, api.KindKeyUnavailable)
			if got, err := derive(t, r.Client, arn, spki); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: damaged %s: then %x, %v", c.spec, how, got, err)
			}
		}
	}
}
