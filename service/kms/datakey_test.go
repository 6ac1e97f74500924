package kms_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func TestDataKeys(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	createAlias(t, r, "alias/a", arn)
	seen := map[string]bool{}
	for _, c := range []struct {
		spec  kmsapi.DataKeySpec
		n     int64
		bytes int
		pairs []string
	}{
		{kmsapi.AES256, 0, 32, nil},
		{kmsapi.AES128, 0, 16, []string{"purpose", "test"}},
		{0, 16, 16, nil},
		{0, 1024, 1024, []string{"b", "2", "a", "1"}},
		{0, 1, 1, nil},
	} {
		out, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKey,
			&kmsapi.GenerateDataKeyRequest{KeyId: ref("alias/a"), KeySpec: c.spec, NumberOfBytes: c.n, EncryptionContext: bound(c.pairs...)})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := client.Do(t.Context(), r.Client, kmsapi.Decrypt,
			&kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob, EncryptionContext: bound(c.pairs...)})
		if err != nil || !bytes.Equal(opened.Plaintext, out.Plaintext) || opened.KeyMaterialId != out.KeyMaterialId {
			t.Errorf("%s %d: it decrypts to %v, %v, want %v", c.spec, c.n, opened, err, out)
		}
		if len(out.Plaintext) != c.bytes || len(out.CiphertextBlob) != c.bytes+seal.Overhead || out.KeyId != arn {
			t.Errorf("%s %d: got %+v", c.spec, c.n, out)
		}
		sealed, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKeyWithoutPlaintext,
			&kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(arn), KeySpec: c.spec, NumberOfBytes: c.n, EncryptionContext: bound(c.pairs...)})
		if err != nil {
			t.Fatal(err)
		}
		later, err := decrypt(t, r.Client, sealed.CiphertextBlob, c.pairs...)
		if err != nil || len(later) != c.bytes || sealed.KeyId != arn || sealed.KeyMaterialId != out.KeyMaterialId {
			t.Errorf("%s %d: without plaintext %+v, which decrypts to %d bytes, %v", c.spec, c.n, sealed, len(later), err)
		}
		if c.bytes >= 16 && (seen[string(later)] || seen[string(out.Plaintext)] || bytes.Equal(later, out.Plaintext)) {
			t.Errorf("%s %d: a data key came twice", c.spec, c.n)
		}
		seen[string(later)], seen[string(out.Plaintext)] = true, true
		_, err = decrypt(t, r.Client, out.CiphertextBlob, "another", "context")
		wantKind(t, err, api.KindInvalidCiphertext)
	}
}

func TestRandomBytes(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	for _, n := range []int64{1, 16, api.MaxDataKey} {
		var got [2]api.Secret
		for i := range got {
			out, err := client.Do(t.Context(), r.Client, kmsapi.GenerateRandom, &kmsapi.GenerateRandomRequest{NumberOfBytes: n})
			if err != nil {
				t.Fatal(err)
			}
			got[i] = out.Plaintext
		}
		if int64(len(got[0])) != n || int64(len(got[1])) != n {
			t.Errorf("asked for %d bytes, got %v and %v", n, got[0], got[1])
		}
		if n > 1 && (bytes.Equal(got[0], got[1]) || bytes.Equal(got[0][n-8:], make([]byte, 8))) {
			t.Errorf("%d bytes are not random", n)
		}
	}
}

const (
	ours         = "arn:aws:kms:rack-1:111122223333:"
	noSuchID     = "00000000-0000-4000-8000-000000000000"
	oneLength    = "ValidationException: Please specify either number of bytes or key spec."
	beyondLength = "ValidationException: 1 validation error detected: Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"
	belowLength  = "ValidationException: 1 validation error detected: Value '-1' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"
)

// deniedTo is AWS's text for the stranger.
func deniedTo(op, on string) string {
	return "AccessDeniedException: User: arn:aws:iam::444455556666:root is not authorized to perform: kms:" + op + " on resource: " + on
}

// TestDataKeyRefusals: what can be wrong, alone and beside what is answered
// later, of both operations. Each is one record.
func TestDataKeyRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, disabled := r.CreateKey(), r.CreateKey()
	signing, both := createKey(t, r, kmsapi.KeySpecHMAC256, kmsapi.UsageGenerateVerifyMac), createKey(t, r, kmsapi.KeySpecHMAC512, kmsapi.UsageGenerateVerifyMac)
	id := keyID(t, arn).String()
	createAlias(t, r, "alias/taken", arn)
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	kms.SetState(t, r.KMS(), keyID(t, both), kmsapi.StateDisabled)
	tokens, recipient := []string{"t"}, kmsapi.RecipientInfo{AttestationDocument: []byte("a")}
	const op, aes = "GenerateDataKey", kmsapi.AES256
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.GenerateDataKeyRequest
		want string
	}{
		"no length":                   {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn)}, oneLength},
		"two lengths":                 {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, NumberOfBytes: 32}, oneLength},
		"1025 bytes":                  {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), NumberOfBytes: 1025}, beyondLength},
		"-1 bytes":                    {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), NumberOfBytes: -1}, belowLength},
		"two lengths, one too long":   {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, NumberOfBytes: 1025}, beyondLength},
		"unknown spec":                {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: 3}, "ValidationException: 1 validation error detected: Value"},
		"no key":                      {r.Client, kmsapi.GenerateDataKeyRequest{KeySpec: aes}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no key, no length":           {r.Client, kmsapi.GenerateDataKeyRequest{}, "ValidationException: 1 validation error detected: Value null at 'keyId'"},
		"no length, grant token":      {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), GrantTokens: tokens}, oneLength},
		"grant token":                 {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, GrantTokens: tokens}, "InvalidGrantTokenException: "},
		"grant token, unknown key":    {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(noSuchID), KeySpec: aes, GrantTokens: tokens}, "InvalidGrantTokenException: "},
		"grant token, recipient":      {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, GrantTokens: tokens, Recipient: recipient}, "InvalidGrantTokenException: "},
		"recipient":                   {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, Recipient: recipient}, "UnsupportedOperationException: Recipient "},
		"recipient, unknown key":      {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(noSuchID), KeySpec: aes, Recipient: recipient}, "UnsupportedOperationException: Recipient "},
		"unknown key":                 {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(noSuchID), KeySpec: aes}, "NotFoundException: Key '" + ours + "key/" + noSuchID + "' does not exist"},
		"unknown key, dry run":        {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(noSuchID), KeySpec: aes, DryRun: true}, "NotFoundException: "},
		"unknown alias":               {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref("alias/none"), KeySpec: aes}, "NotFoundException: Alias " + ours + "alias/none is not found."},
		"no key id":                   {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref("nonsense"), KeySpec: aes}, "NotFoundException: Invalid keyId 'nonsense'"},
		"another region":              {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(strings.Replace(arn, "rack-1", "rack-2", 1)), KeySpec: aes}, "NotFoundException: Invalid arn "},
		"stranger, by ARN":            {r.Stranger, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes}, deniedTo(op, arn)},
		"stranger, by id":             {r.Stranger, kmsapi.GenerateDataKeyRequest{KeyId: ref(id), KeySpec: aes}, "NotFoundException: Key 'arn:aws:kms:rack-1:444455556666:key/" + id + "' does not exist"},
		"stranger, by alias":          {r.Stranger, kmsapi.GenerateDataKeyRequest{KeyId: ref(ours + "alias/taken"), KeySpec: aes}, deniedTo(op, ours+"alias/taken")},
		"stranger, disabled, dry run": {r.Stranger, kmsapi.GenerateDataKeyRequest{KeyId: ref(disabled), KeySpec: aes, DryRun: true}, deniedTo(op, disabled)},
		"operator":                    {r.Operator, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes}, "AccessDeniedException: "},
		"disabled":                    {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(disabled), KeySpec: aes}, "DisabledException: " + disabled + " is disabled."},
		"disabled, dry run":           {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(disabled), KeySpec: aes, DryRun: true}, "DisabledException: "},
		"disabled, signs":             {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(both), KeySpec: aes}, "DisabledException: "},
		"signs":                       {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(signing), KeySpec: aes}, "InvalidKeyUsageException: " + signing + " key usage is GENERATE_VERIFY_MAC which is not valid for GenerateDataKey"},
		"signs, dry run":              {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(signing), KeySpec: aes, DryRun: true}, "InvalidKeyUsageException: "},
		"dry run":                     {r.Client, kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: aes, DryRun: true}, "DryRunOperationException: The request would have succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second) // or refusals of one second share a record
			refused(t, r, kmsapi.GenerateDataKey.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateDataKey, &c.in)
				return err
			})
			if c.in.Recipient.AttestationDocument != nil {
				return
			}
			refused(t, r, kmsapi.GenerateDataKeyWithoutPlaintext.Op, strings.Replace(c.want, "kms:"+op, "kms:GenerateDataKeyWithoutPlaintext", 1), func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateDataKeyWithoutPlaintext, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{
					KeyId: c.in.KeyId, KeySpec: c.in.KeySpec, NumberOfBytes: c.in.NumberOfBytes, GrantTokens: c.in.GrantTokens, DryRun: c.in.DryRun})
				return err
			})
		})
	}
}

// refused checks that try is refused in these words, and that its one record says so.
func refused(t *testing.T, r *racktest.Rack, op *api.Op, want string, try func() error) {
	t.Helper()
	before := len(r.Records())
	err := try()
	wantSays(t, err, want)
	records := r.Records()[before:]
	if len(records) != 1 || records[0].Op != op.Number || records[0].Error != uint16(api.KindOf(err)) || records[0].Response != nil {
		t.Errorf("got records %+v, want one of %v", records, err)
	}
}

func TestRandomRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	recipient := kmsapi.RecipientInfo{AttestationDocument: []byte("a")}
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.GenerateRandomRequest
		want string
	}{
		"no length":                   {r.Client, kmsapi.GenerateRandomRequest{}, "ValidationException: NumberOfBytes is required."},
		"no length, operator":         {r.Operator, kmsapi.GenerateRandomRequest{}, "ValidationException: NumberOfBytes is required."},
		"1025 bytes":                  {r.Client, kmsapi.GenerateRandomRequest{NumberOfBytes: 1025}, beyondLength},
		"-1 bytes":                    {r.Client, kmsapi.GenerateRandomRequest{NumberOfBytes: -1}, belowLength},
		"operator":                    {r.Operator, kmsapi.GenerateRandomRequest{NumberOfBytes: 1}, "AccessDeniedException: "},
		"operator, store, recipient":  {r.Operator, kmsapi.GenerateRandomRequest{NumberOfBytes: 1, CustomKeyStoreId: "cks-1", Recipient: recipient}, "AccessDeniedException: "},
		"custom key store":            {r.Client, kmsapi.GenerateRandomRequest{NumberOfBytes: 1, CustomKeyStoreId: "cks-1"}, "UnsupportedOperationException: CustomKeyStoreId "},
		"custom key store, recipient": {r.Client, kmsapi.GenerateRandomRequest{NumberOfBytes: 1, CustomKeyStoreId: "cks-1", Recipient: recipient}, "UnsupportedOperationException: CustomKeyStoreId "},
		"recipient":                   {r.Client, kmsapi.GenerateRandomRequest{NumberOfBytes: 1, Recipient: recipient}, "UnsupportedOperationException: Recipient "},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.GenerateRandom.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.GenerateRandom, &c.in)
				return err
			})
		})
	}
}

// TestDataKeysAllocateNothing: random bytes cost the resource "*", a ciphertext's
// move the record's list of two keys.
func TestDataKeysAllocateNothing(t *testing.T) {
	r := racktest.Start(t)
	d, arn, other := newDesk(r), r.CreateKey(), r.CreateKey()
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	blob := encrypt(t, r, arn, make([]byte, 32), "purpose", "test")
	encrypt(t, r, other, []byte("x"))
	for _, c := range []struct {
		op   *api.Op
		in   any
		most float64
	}{
		{kmsapi.GenerateDataKey.Op, &kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: kmsapi.AES256, EncryptionContext: bound("purpose", "test")}, 0},
		{kmsapi.GenerateDataKeyWithoutPlaintext.Op, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(arn), NumberOfBytes: 64}, 0},
		{kmsapi.GenerateRandom.Op, &kmsapi.GenerateRandomRequest{NumberOfBytes: 64}, 2},
		{kmsapi.ReEncrypt.Op, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: bound("purpose", "test"), DestinationKeyId: ref(other)}, 2},
	} {
		body := c.op.In.AppendCBOR(nil, c.in)
		serve := func() {
			if class := d.routes[c.op].Serve(s.Call(1), protocol.Native{}, body); class != work.None {
				t.Fatalf("%s yields for %s", c.op, class)
			}
		}
		for range 3 {
			serve()
		}
		if n := racktest.Allocs(15, serve, func() { held := s.Flush(false); held.Release() }); n > c.most {
			t.Errorf("%s: %.0f allocations, want %.0f", c.op, n, c.most)
		}
	}
}
