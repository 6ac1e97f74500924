package kms_test

import (
	"bytes"
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
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
	"pgregory.net/rapid"
)

// TestReEncryptKeepsThePlaintext: whatever the lengths, keys and contexts are, what
// comes out decrypts to what went in, under the new context and no other.
func TestReEncryptKeepsThePlaintext(t *testing.T) {
	t.Parallel()
	d := newDesk(racktest.Start(t))
	who := rootOf(racktest.Account)
	keys := []string{d.CreateKey(), d.CreateKey()}
	contexts := [][]string{nil, {"purpose", "test"}, {"purpose", "Test"}, {"b", "2", "a", "1"}, {"a", "1"}}
	rapid.Check(t, func(rt *rapid.T) {
		plaintext := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(rt, "plaintext")
		if rapid.Bool().Draw(rt, "longest") {
			plaintext = bytes.Repeat(plaintext[:1], api.MaxPlaintext)
		}
		from, to := rapid.SampledFrom(keys).Draw(rt, "from"), rapid.SampledFrom(keys).Draw(rt, "to")
		old, fresh := rapid.IntRange(0, len(contexts)-1).Draw(rt, "old"), rapid.IntRange(0, len(contexts)-1).Draw(rt, "fresh")
		in := &kmsapi.ReEncryptRequest{
			CiphertextBlob:          encrypt(t, d.Rack, from, plaintext, contexts[old]...),
			SourceEncryptionContext: bound(contexts[old]...), DestinationKeyId: ref(to), DestinationEncryptionContext: bound(contexts[fresh]...),
		}
		if rapid.Bool().Draw(rt, "named") {
			in.SourceKeyId = ref(from)
		}
		out, err := ask(t, d, who, kmsapi.ReEncrypt, in)
		if err != nil {
			rt.Fatal(err)
		}
		if out.SourceKeyId != from || out.KeyId != to || out.SourceEncryptionAlgorithm != 1 || out.DestinationEncryptionAlgorithm != 1 ||
			(out.SourceKeyMaterialId == out.DestinationKeyMaterialId) != (from == to) || len(out.CiphertextBlob) != len(in.CiphertextBlob) {
			rt.Fatalf("from %s to %s: got %+v", from, to, out)
		}
		for i, pairs := range contexts {
			got, err := ask(t, d, who, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob, EncryptionContext: bound(pairs...)})
			if i != fresh && api.KindOf(err) != api.KindInvalidCiphertext {
				rt.Fatalf("bound to %q, under %q: %v", contexts[fresh], pairs, err)
			}
			if i == fresh && (err != nil || !bytes.Equal(got.Plaintext, plaintext) || got.KeyId != to || got.KeyMaterialId != out.DestinationKeyMaterialId) {
				rt.Fatalf("it decrypts to %+v, %v", got, err)
			}
		}
		wrong := contexts[(old+1)%len(contexts)]
		in.SourceEncryptionContext = bound(wrong...)
		if _, err := ask(t, d, who, kmsapi.ReEncrypt, in); api.KindOf(err) != api.KindInvalidCiphertext {
			rt.Fatalf("bound to %q, from %q: %v", contexts[old], wrong, err)
		}
	})
}

// TestReEncryptRefusals: what can be wrong, of either key, alone and beside what
// is answered later. Each is one record.
func TestReEncryptRefusals(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn, to, foreign, disabled := r.CreateKey(), r.CreateKey(), strangersKey(t, r), r.CreateKey()
	signing := createKey(t, r, kmsapi.KeySpecHMAC256, kmsapi.UsageGenerateVerifyMac)
	blob, mute := encrypt(t, r, arn, []byte("x"), "purpose", "test"), encrypt(t, r, disabled, []byte("x"))
	kms.SetState(t, r.KMS(), keyID(t, disabled), kmsapi.StateDisabled)
	unknown := bytes.Clone(blob)
	unknown[5] ^= 1
	bent := bytes.Clone(blob)
	bent[len(bent)-1] ^= 1
	same, ignore := bound("purpose", "test"), []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext}
	const noContext, notTheKey = "InvalidCiphertextException: the ciphertext is damaged, or the encryption context", "IncorrectKeyException: "
	const noSuchKey = "AccessDeniedException: The ciphertext refers to a customer master key that does not exist"
	deniedUs := func(op, on string) string {
		return strings.Replace(deniedTo(op, on), "444455556666", racktest.Account.String(), 1)
	}
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.ReEncryptRequest
		want string
	}{
		"no ciphertext":                        {r.Client, kmsapi.ReEncryptRequest{DestinationKeyId: ref(to)}, "ValidationException: 1 validation error detected: Value null at 'ciphertextBlob'"},
		"no destination":                       {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same}, "ValidationException: 1 validation error detected: Value null at 'destinationKeyId'"},
		"6145 bytes":                           {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: make([]byte, 6145), DestinationKeyId: ref(to)}, "ValidationException: 1 validation error"},
		"modifier, no dry run":                 {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(arn), DestinationKeyId: ref(to), DryRunModifiers: ignore}, "ValidationException: DryRunModifiers are allowed only with DryRun"},
		"modifier, no source":                  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(to), DryRun: true, DryRunModifiers: ignore}, "ValidationException: SourceKeyId is required"},
		"no ciphertext, grant token":           {r.Client, kmsapi.ReEncryptRequest{DestinationKeyId: ref(to), GrantTokens: []string{"t"}}, "ValidationException: "},
		"grant token, no such form":            {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: []byte("x"), DestinationKeyId: ref(to), GrantTokens: []string{"t"}}, "InvalidGrantTokenException: "},
		"no such form, unknown keys":           {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: []byte("x"), SourceKeyId: ref(noSuchID), DestinationKeyId: ref(noSuchID)}, noContext},
		"another context":                      {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(to), DestinationEncryptionContext: same}, noContext},
		"a bent tag":                           {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: bent, SourceEncryptionContext: same, DestinationKeyId: ref(to)}, noContext},
		"another context, dry run":             {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(to), DryRun: true}, noContext},
		"unknown key in it":                    {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: unknown, SourceEncryptionContext: same, DestinationKeyId: ref(to)}, noSuchKey},
		"unknown key in it, and to":            {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: unknown, DestinationKeyId: ref(noSuchID)}, noSuchKey},
		"stranger":                             {r.Stranger, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(foreign)}, noSuchKey},
		"stranger, another context":            {r.Stranger, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(foreign)}, noSuchKey},
		"stranger, named key":                  {r.Stranger, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, SourceKeyId: ref(arn), DestinationKeyId: ref(foreign)}, deniedTo("ReEncryptFrom", arn)},
		"stranger, named and disabled":         {r.Stranger, kmsapi.ReEncryptRequest{CiphertextBlob: mute, SourceKeyId: ref(disabled), DestinationKeyId: ref(foreign)}, deniedTo("ReEncryptFrom", disabled)},
		"unknown source":                       {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(noSuchID), DestinationKeyId: ref(to)}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"unknown source of another":            {r.Stranger, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(ours + "key/" + noSuchID), DestinationKeyId: ref(foreign)}, deniedTo("ReEncryptFrom", ours+"key/"+noSuchID)},
		"another source":                       {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, SourceKeyId: ref(to), DestinationKeyId: ref(to)}, notTheKey},
		"another source, unknown to":           {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(to), DestinationKeyId: ref(noSuchID)}, notTheKey},
		"another source, disabled":             {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(disabled), DestinationKeyId: ref(to)}, notTheKey},
		"to an unknown key":                    {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(noSuchID)}, "NotFoundException: Key '" + ours + "key/" + noSuchID},
		"to an unknown alias":                  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref("alias/none")}, "NotFoundException: Alias "},
		"to another's key":                     {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(foreign)}, deniedUs("ReEncryptTo", foreign)},
		"to another's unknown key":             {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref("arn:aws:kms:rack-1:444455556666:key/" + noSuchID)}, deniedUs("ReEncryptTo", "arn:aws:kms:rack-1:444455556666:key/"+noSuchID)},
		"to another's alias":                   {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref("arn:aws:kms:rack-1:444455556666:alias/a")}, deniedUs("ReEncryptTo", "arn:aws:kms:rack-1:444455556666:alias/a")},
		"of a disabled key to another's":       {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: mute, DestinationKeyId: ref(foreign)}, deniedUs("ReEncryptTo", foreign)},
		"of a disabled key to an unknown one":  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: mute, DestinationKeyId: ref(noSuchID)}, "NotFoundException: "},
		"of a disabled key":                    {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: mute, DestinationKeyId: ref(to)}, "DisabledException: " + disabled + " is disabled."},
		"of a disabled key to one that signs":  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: mute, DestinationKeyId: ref(signing)}, "DisabledException: "},
		"to a disabled key":                    {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(disabled)}, "DisabledException: " + disabled + " is disabled."},
		"to a disabled key, another context":   {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(disabled)}, "DisabledException: "},
		"source algorithm":                     {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(arn), DestinationKeyId: ref(to), SourceEncryptionAlgorithm: 2}, "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_1 is incompatible with key spec SYMMETRIC_DEFAULT."},
		"source algorithm, to a disabled key":  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceKeyId: ref(arn), DestinationKeyId: ref(disabled), SourceEncryptionAlgorithm: 2}, "InvalidKeyUsageException: Algorithm "},
		"destination algorithm":                {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(to), DestinationEncryptionAlgorithm: 3}, "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT."},
		"to a key that signs":                  {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(signing)}, "InvalidKeyUsageException: " + signing + " key usage is GENERATE_VERIFY_MAC which is not valid for ReEncrypt."},
		"operator":                             {r.Operator, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(to)}, noSuchKey},
		"dry run":                              {r.Client, kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: same, DestinationKeyId: ref(to), DryRun: true}, "DryRunOperationException: "},
		"dry run of access":                    {r.Client, kmsapi.ReEncryptRequest{SourceKeyId: ref(arn), DestinationKeyId: ref(to), DryRun: true, DryRunModifiers: ignore}, "DryRunOperationException: "},
		"dry run of access, another's key":     {r.Client, kmsapi.ReEncryptRequest{SourceKeyId: ref(arn), DestinationKeyId: ref(foreign), DryRun: true, DryRunModifiers: ignore}, deniedUs("ReEncryptTo", foreign)},
		"dry run of access, disabled":          {r.Client, kmsapi.ReEncryptRequest{SourceKeyId: ref(disabled), DestinationKeyId: ref(to), DryRun: true, DryRunModifiers: ignore}, "DisabledException: "},
		"stranger's dry run of access":         {r.Stranger, kmsapi.ReEncryptRequest{SourceKeyId: ref(arn), DestinationKeyId: ref(foreign), DryRun: true, DryRunModifiers: ignore}, deniedTo("ReEncryptFrom", arn)},
		"stranger's dry run, to a key of ours": {r.Stranger, kmsapi.ReEncryptRequest{SourceKeyId: ref(foreign), DestinationKeyId: ref(to), DryRun: true, DryRunModifiers: ignore}, deniedTo("ReEncryptTo", to)},
	} {
		t.Run(name, func(t *testing.T) {
			advance(time.Second)
			refused(t, r, kmsapi.ReEncrypt.Op, c.want, func() error {
				_, err := client.Do(t.Context(), c.c, kmsapi.ReEncrypt, &c.in)
				return err
			})
		})
	}
}

// TestRecordsOfDataKeysAndReEncrypt: the one record names both keys of a
// ReEncrypt, shows what was asked, and nothing of what was answered.
func TestRecordsOfDataKeysAndReEncrypt(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, who := newDesk(r), rootOf(racktest.Account)
	from, to := r.CreateKey(), r.CreateKey()
	createAlias(t, r, "alias/to", to)
	blob := encrypt(t, r, from, []byte("attack at dawn"), "a", "1")
	const symmetric = kmsapi.SymmetricDefault
	ctx := t.Context()
	move := func(in *kmsapi.ReEncryptRequest) func() error {
		return func() error { _, err := client.Do(ctx, r.Client, kmsapi.ReEncrypt, in); return err }
	}
	for _, c := range []struct {
		op       *api.Op
		do       func() error
		resource string
		in       any // the shown members
	}{
		{kmsapi.GenerateDataKey.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref("alias/to"), KeySpec: kmsapi.AES128, EncryptionContext: bound("a", "1")})
			return err
		}, to, &kmsapi.GenerateDataKeyRequest{KeyId: ref("alias/to"), KeySpec: kmsapi.AES128, EncryptionContext: bound("a", "1")}},
		{kmsapi.GenerateDataKeyWithoutPlaintext.Op, func() error {
			_, err := ask(t, d, who, kmsapi.GenerateDataKeyWithoutPlaintext, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(to), NumberOfBytes: 9})
			return err
		}, to, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(to), NumberOfBytes: 9}},
		{kmsapi.GenerateRandom.Op, func() error {
			_, err := client.Do(ctx, r.Client, kmsapi.GenerateRandom, &kmsapi.GenerateRandomRequest{NumberOfBytes: 9})
			return err
		}, "*", &kmsapi.GenerateRandomRequest{NumberOfBytes: 9}},
		{kmsapi.ReEncrypt.Op, move(&kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: bound("a", "1"), DestinationKeyId: ref("alias/to"), DestinationEncryptionContext: bound("b", "2")}), from + " " + to,
			&kmsapi.ReEncryptRequest{SourceEncryptionContext: bound("a", "1"), DestinationKeyId: ref("alias/to"), DestinationEncryptionContext: bound("b", "2"),
				SourceEncryptionAlgorithm: symmetric, DestinationEncryptionAlgorithm: symmetric}},
		{kmsapi.ReEncrypt.Op, move(&kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: bound("a", "1"), SourceKeyId: ref(from), DestinationKeyId: ref(from)}), from,
			&kmsapi.ReEncryptRequest{SourceEncryptionContext: bound("a", "1"), SourceKeyId: ref(from), DestinationKeyId: ref(from),
				SourceEncryptionAlgorithm: symmetric, DestinationEncryptionAlgorithm: symmetric}},
	} {
		before := len(r.Records())
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.op, err)
		}
		records := r.Records()[before:]
		if len(records) != 1 {
			t.Fatalf("%s left %d records", c.op, len(records))
		}
		shown := c.op.In.AppendAudit(nil, c.in)
		if got := records[0]; got.Op != c.op.Number || got.Error != 0 || got.Resource != c.resource || !bytes.Equal(got.Request, shown) || got.Response != nil {
			t.Errorf("%s is recorded as %+v, want the resource %s and the members %x", c.op, got, c.resource, shown)
		}
	}
}

// TestReEncryptOfKeysThatAreNotInMemory: the connection yields before any effect,
// whichever key must be read, and a worker answers.
func TestReEncryptOfKeysThatAreNotInMemory(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	d, keys := newDesk(r), []string{r.CreateKey(), r.CreateKey()}
	body := kmsapi.ReEncrypt.In.AppendCBOR(nil, &kmsapi.ReEncryptRequest{CiphertextBlob: encrypt(t, r, keys[0], []byte("x")), DestinationKeyId: ref(keys[1])})
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	for _, gone := range [][]string{keys[:1], keys[1:], keys} {
		for _, arn := range gone {
			kms.SetState(t, r.KMS(), keyID(t, arn), kmsapi.StateDisabled)
			kms.SetState(t, r.KMS(), keyID(t, arn), kmsapi.StateEnabled)
		}
		before := len(r.Records())
		c := s.Call(1)
		if class := d.routes[kmsapi.ReEncrypt.Op].Serve(c, protocol.Native{}, body); class != work.Store || s.Pending() != 0 {
			t.Fatalf("%d keys are not in memory: it yields for %s with %d bytes of reply", len(gone), class, s.Pending())
		}
		d.routes[kmsapi.ReEncrypt.Op].Serve(s.Again(t.Context(), c.Ticket()), protocol.Native{}, body)
		held := s.Flush(true)
		if _, err := held.Bytes(t.Context()); err != nil {
			t.Fatal(err)
		}
		held.Release()
		records := r.Records()[before:]
		if len(records) != 1 || records[0].Error != 0 || !slices.Equal(strings.Fields(records[0].Resource), keys) {
			t.Errorf("%d keys were not in memory: got records %+v, want one of both keys", len(gone), records)
		}
	}
}
