package kms_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

const hidesSecrets = kmsapi.UsageEncapsulateDecapsulate

// kems are the specs of ML-KEM with another implementation and the size of a ciphertext.
var kems = []struct {
	spec       kmsapi.KeySpec
	other      kem.Scheme
	ciphertext int
}{
	{kmsapi.KeySpecMLKEM512, mlkem512.Scheme(), 768},
	{kmsapi.KeySpecMLKEM768, mlkem768.Scheme(), 1088},
	{kmsapi.KeySpecMLKEM1024, mlkem1024.Scheme(), 1568},
}

func encapsulate(tb testing.TB, r *racktest.Rack, key string) (secret, ciphertext []byte, err error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Encapsulate, &kmsapi.EncapsulateRequest{KeyId: ref(key), EncapsulationAlgorithm: kmsapi.MLKEM})
	if err != nil {
		return nil, nil, err
	}
	if out.KeyId != key || out.EncapsulationAlgorithm != kmsapi.MLKEM || len(out.SharedSecret) != 32 {
		tb.Errorf("got %+v", out)
	}
	return out.SharedSecret, out.SharedSecretCiphertextBlob, nil
}

func decapsulate(tb testing.TB, r *racktest.Rack, key string, ciphertext []byte) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Decapsulate,
		&kmsapi.DecapsulateRequest{KeyId: ref(key), EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecretCiphertextBlob: ciphertext})
	if err != nil {
		return nil, err
	}
	if out.KeyId != key || out.EncapsulationAlgorithm != kmsapi.MLKEM || len(out.SharedSecret) != 32 {
		tb.Errorf("got %+v", out)
	}
	return out.SharedSecret, nil
}

// TestEncapsulation: what is encapsulated here and by another implementation is
// decapsulated, also after a restart; a changed ciphertext gives one other secret, and
// only a wrong length is an error.
func TestEncapsulation(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	type made struct {
		arn                string
		secret, ciphertext []byte
	}
	var kept []made
	for _, c := range kems {
		arn := createKey(t, r, c.spec, hidesSecrets)
		out, _, raw := pqPublic(t, r, arn)
		all := []kmsapi.EncapsulationAlgorithm{kmsapi.MLKEM}
		if out.KeySpec != c.spec || out.KeyUsage != hidesSecrets || !slices.Equal(out.EncapsulationAlgorithms, all) || out.SigningAlgorithms != nil {
			t.Errorf("%s: got %+v", c.spec, out)
		}
		if m := describe(t, r, arn); !slices.Equal(m.EncapsulationAlgorithms, all) || m.SigningAlgorithms != nil || m.CurrentKeyMaterialId != "" {
			t.Errorf("%s is described as %+v", c.spec, m)
		}
		public, err := c.other.UnmarshalBinaryPublicKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		ciphertext, secret, err := c.other.Encapsulate(public)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, made{arn, secret, ciphertext})
		seen := map[string]bool{}
		for range 3 {
			secret, ciphertext, err := encapsulate(t, r, arn)
			if err != nil {
				t.Fatal(err)
			}
			if len(ciphertext) != c.ciphertext || seen[string(secret)] || seen[string(ciphertext)] {
				t.Errorf("%s: a ciphertext of %d bytes, seen before: %t", c.spec, len(ciphertext), seen[string(secret)])
			}
			seen[string(secret)], seen[string(ciphertext)] = true, true
			kept = append(kept, made{arn, secret, ciphertext})
		}
	}
	r.Restart(nil)
	for _, m := range kept {
		secret, err := decapsulate(t, r, m.arn, m.ciphertext)
		if err != nil || !bytes.Equal(secret, m.secret) {
			t.Errorf("after a restart: got %x (%v), want %x", secret, err, m.secret)
		}
		bent := bytes.Clone(m.ciphertext)
		bent[len(bent)-1] ^= 0x80
		first, err := decapsulate(t, r, m.arn, bent)
		if err != nil || bytes.Equal(first, m.secret) {
			t.Errorf("a changed ciphertext gives the secret (%v)", err)
		}
		if again, err := decapsulate(t, r, m.arn, bent); err != nil || !bytes.Equal(again, first) {
			t.Errorf("a changed ciphertext gives another secret each time (%v)", err)
		}
		for _, other := range [][]byte{m.ciphertext[1:], append(bytes.Clone(m.ciphertext), 0), {1}, make([]byte, 6144)} {
			_, err := decapsulate(t, r, m.arn, other)
			wantKind(t, err, api.KindInvalidCiphertext)
		}
	}
	wantSound(t, r)
}

// TestEncapsulationRefusals: of both operations. Each is one record.
func TestEncapsulationRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, disabled, symmetric := createKey(t, r, kmsapi.KeySpecMLKEM768, hidesSecrets), createKey(t, r, kmsapi.KeySpecMLKEM512, hidesSecrets), r.CreateKey()
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	const a = kmsapi.MLKEM
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.EncapsulateRequest
		want string
	}{
		"no key":                   {r.Client, kmsapi.EncapsulateRequest{EncapsulationAlgorithm: a}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no algorithm":             {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(arn)}, "ValidationException: 1 validation error detected: Value null at 'encapsulationAlgorithm'"},
		"unknown algorithm":        {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: 2}, "ValidationException: 1 validation error detected: Value"},
		"grant token, unknown key": {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(noSuchID), EncapsulationAlgorithm: a, GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"unknown key":              {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(noSuchID), EncapsulationAlgorithm: a}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"stranger":                 {r.Stranger, kmsapi.EncapsulateRequest{KeyId: ref(disabled), EncapsulationAlgorithm: a}, deniedTo("Encapsulate", disabled)},
		"operator":                 {r.Operator, kmsapi.EncapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: a}, "AccessDeniedException: "},
		"disabled, dry run":        {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(disabled), EncapsulationAlgorithm: a, DryRun: true}, "DisabledException: " + disabled + " is disabled."},
		"a key that encrypts":      {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(symmetric), EncapsulationAlgorithm: a}, "InvalidKeyUsageException: " + symmetric + " key usage is ENCRYPT_DECRYPT which is not valid for Encapsulate."},
		"dry run":                  {r.Client, kmsapi.EncapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: a, DryRun: true}, "DryRunOperationException: "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.Encapsulate.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.Encapsulate, &c.in)
				return err
			})
			want := strings.NewReplacer("kms:Encapsulate", "kms:Decapsulate", "for Encapsulate.", "for Decapsulate.").Replace(c.want)
			refused(t, r, kmsapi.Decapsulate.Op, want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.Decapsulate, &kmsapi.DecapsulateRequest{KeyId: c.in.KeyId,
					EncapsulationAlgorithm: c.in.EncapsulationAlgorithm, SharedSecretCiphertextBlob: make([]byte, 1088), GrantTokens: c.in.GrantTokens, DryRun: c.in.DryRun})
				return err
			})
		})
	}
	for name, c := range map[string]struct {
		ciphertext []byte
		want       string
	}{
		"no ciphertext":            {nil, "ValidationException: 1 validation error detected: Value null at 'sharedSecretCiphertextBlob'"},
		"6145 bytes":               {make([]byte, 6145), "ValidationException: 1 validation error detected: Value at 'sharedSecretCiphertextBlob'"},
		"of another spec, dry run": {make([]byte, 768), "InvalidCiphertextException: the ciphertext has 768 bytes; under a key of ML_KEM_768 it has 1088"},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.Decapsulate.Op, c.want, func() error {
				_, err := client.Do(t.Context(), r.Client, kmsapi.Decapsulate,
					&kmsapi.DecapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: a, SharedSecretCiphertextBlob: c.ciphertext, DryRun: true})
				return err
			})
		})
	}
}

func TestEncapsulationStates(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := createKey(t, r, kmsapi.KeySpecMLKEM512, hidesSecrets)
	_, ciphertext, err := encapsulate(t, r, arn)
	if err != nil {
		t.Fatal(err)
	}
	everyState(t, r, arn, func() error { _, _, err := encapsulate(t, r, arn); return err })
	everyState(t, r, arn, func() error { _, err := decapsulate(t, r, arn, ciphertext); return err })
}

// TestNoFalseSecretLeaves: of a private or public key in which a bit flipped, and of
// material in which one did; the sealed copy serves the next call.
func TestNoFalseSecretLeaves(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	d := newDesk(r)
	for _, c := range kems {
		arn := createKey(t, r, c.spec, hidesSecrets)
		id := keyID(t, arn)
		swap := func(part int) func() { return func() { kms.SwapKEM(t, r.KMS(), id, part) } }
		flip := func() {
			kms.FlipMaterialBit(t, r.KMS(), id, 511)
			advance(api.MessageKeyLife)
		}
		for how, damage := range map[string]func(){"a private key": swap(0), "the other": swap(1), "public key": swap(2), "material": flip} {
			secret, ciphertext, err := encapsulate(t, r, arn) // now it is expanded
			if err != nil {
				t.Fatal(err)
			}
			damage()
			_, err = ask(t, d, rootOf(racktest.Account), kmsapi.Encapsulate, &kmsapi.EncapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: kmsapi.MLKEM})
			wantKind(t, err, api.KindKeyUnavailable)
			if got, err := decapsulate(t, r, arn, ciphertext); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%s: damaged %s: got %x (%v), want %x", c.spec, how, got, err, secret)
			}
			if how == "public key" { // Decapsulate does not use it
				continue
			}
			damage()
			_, err = ask(t, d, rootOf(racktest.Account), kmsapi.Decapsulate,
				&kmsapi.DecapsulateRequest{KeyId: ref(arn), EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecretCiphertextBlob: ciphertext})
			wantKind(t, err, api.KindKeyUnavailable)
			if got, err := decapsulate(t, r, arn, ciphertext); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%s: damaged %s: got %x (%v), want %x", c.spec, how, got, err, secret)
			}
		}
	}
}

// TestRecordsOfSecrets: they show the key and the algorithm, and neither secret nor
// ciphertext.
func TestRecordsOfSecrets(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := createKey(t, r, kmsapi.KeySpecMLKEM1024, hidesSecrets)
	before := len(r.Records())
	secret, ciphertext, err := encapsulate(t, r, arn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decapsulate(t, r, arn, ciphertext); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]int{}
	for _, record := range r.Records()[before:] {
		if record.Op != kmsapi.Encapsulate.Number && record.Op != kmsapi.Decapsulate.Number {
			continue
		}
		seen[uint16(record.Op)]++
		if record.Resource != arn || record.Error != 0 || !bytes.Contains(record.Request, []byte{2, byte(kmsapi.MLKEM)}) {
			t.Errorf("got %+v", record)
		}
		if bytes.Contains(record.Request, secret) || bytes.Contains(record.Request, ciphertext[:32]) {
			t.Errorf("a record shows %x", record.Request)
		}
	}
	if len(seen) != 2 || seen[uint16(kmsapi.Encapsulate.Number)] != 1 || seen[uint16(kmsapi.Decapsulate.Number)] != 1 {
		t.Errorf("got the records %v", seen)
	}
}
