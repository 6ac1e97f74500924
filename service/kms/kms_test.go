package kms_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func ref(s string) api.KeyRef { return api.ParseKeyRef([]byte(s)) }

func bound(pairs ...string) api.EncryptionContext {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return api.NewEncryptionContext(m)
}

func encrypt(tb testing.TB, r *racktest.Rack, key string, plaintext []byte, pairs ...string) []byte {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Encrypt,
		&kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: plaintext, EncryptionContext: bound(pairs...)})
	if err != nil {
		tb.Fatal(err)
	}
	return out.CiphertextBlob
}

func decrypt(tb testing.TB, c *client.Client, blob []byte, pairs ...string) ([]byte, error) {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.Decrypt,
		&kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: bound(pairs...)})
	if err != nil {
		return nil, err
	}
	return out.Plaintext, nil
}

func keyID(tb testing.TB, arn string) api.KeyID {
	tb.Helper()
	k := ref(arn)
	if k.Form != api.RefKeyARN {
		tb.Fatalf("%q is no key ARN", arn)
	}
	return k.ID
}

func wantKind(tb testing.TB, err error, want api.Kind) {
	tb.Helper()
	if got := api.KindOf(err); got != want {
		tb.Errorf("got %v (%v), want %v", got, err, want)
	}
}

func TestEncryptDecrypt(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	for _, plaintext := range [][]byte{{0}, []byte("attack at dawn"), bytes.Repeat([]byte{9}, api.MaxPlaintext)} {
		for _, pairs := range [][]string{nil, {"purpose", "test"}, {"b", "2", "a", "1", "größe", "groß"}} {
			blob := encrypt(t, r, arn, plaintext, pairs...)
			if len(blob) != len(plaintext)+seal.Overhead {
				t.Errorf("ciphertext of %d bytes has %d", len(plaintext), len(blob))
			}
			got, err := decrypt(t, r.Client, blob, pairs...)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes, context %q: got %d bytes, %v", len(plaintext), pairs, len(got), err)
			}
		}
	}
}

func TestCreateKeyAnswersItsMetadata(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	out, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: "invoices"})
	if err != nil {
		t.Fatal(err)
	}
	m := out.KeyMetadata
	if m.Arn != "arn:aws:kms:rack-1:"+racktest.Account.String()+":key/"+m.KeyId || m.AWSAccountId != racktest.Account.String() ||
		!m.Enabled || m.KeyState != kmsapi.StateEnabled || m.KeySpec != kmsapi.KeySpecSymmetricDefault || m.Description != "invoices" ||
		m.KeyUsage != kmsapi.UsageEncryptDecrypt || m.Origin != kmsapi.OriginAWSKMS || m.KeyManager != kmsapi.ManagerCustomer ||
		len(m.CurrentKeyMaterialId) != 64 || m.MultiRegion {
		t.Errorf("got %+v", m)
	}
	opened, err := client.Do(t.Context(), r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: encrypt(t, r, m.Arn, []byte("x"))})
	if err != nil || opened.KeyMaterialId != m.CurrentKeyMaterialId || opened.KeyId != m.Arn || opened.EncryptionAlgorithm != kmsapi.SymmetricDefault {
		t.Errorf("got %+v, %v", opened, err)
	}
}

func TestCreateKeyRefusesWhatItWouldIgnore(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	policy := `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow",` +
		`"Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"%s","Resource":"*"}]}`
	for name, c := range map[string]struct {
		in   kmsapi.CreateKeyRequest
		want api.Kind
	}{
		"default policy":     {kmsapi.CreateKeyRequest{Policy: fmt.Sprintf(policy, racktest.Account, "kms:*")}, api.KindNone},
		"another policy":     {kmsapi.CreateKeyRequest{Policy: fmt.Sprintf(policy, racktest.Account, "kms:Decrypt")}, api.KindMalformedPolicyDocument},
		"a stranger's root":  {kmsapi.CreateKeyRequest{Policy: fmt.Sprintf(policy, racktest.Other, "kms:*")}, api.KindMalformedPolicyDocument},
		"oversized policy":   {kmsapi.CreateKeyRequest{Policy: "{" + strings.Repeat(" ", api.MaxKeyPolicy) + "}"}, api.KindLimitExceeded},
		"no policy document": {kmsapi.CreateKeyRequest{Policy: "{}"}, api.KindMalformedPolicyDocument},
		"explicit spec":      {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecSymmetricDefault, KeyUsage: kmsapi.UsageEncryptDecrypt}, api.KindNone},
		"deprecated spec":    {kmsapi.CreateKeyRequest{CustomerMasterKeySpec: kmsapi.KeySpecSymmetricDefault}, api.KindNone},
		"both specs":         {kmsapi.CreateKeyRequest{KeySpec: 1, CustomerMasterKeySpec: 1}, api.KindValidation},
		"secp256k1 to agree": {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCSECGP256K1, KeyUsage: kmsapi.UsageKeyAgreement}, api.KindValidation},
		"RSA to agree":       {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecRSA2048, KeyUsage: kmsapi.UsageKeyAgreement}, api.KindValidation},
		"a curve to encrypt": {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCNISTP256, KeyUsage: kmsapi.UsageEncryptDecrypt}, api.KindValidation},
		"Ed25519 to agree":   {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCNISTEdwards25519, KeyUsage: kmsapi.UsageKeyAgreement}, api.KindValidation},
		"RSA, no usage":      {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecRSA4096}, api.KindValidation},
		"RSA for MACs":       {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecRSA4096, KeyUsage: kmsapi.UsageGenerateVerifyMac}, api.KindValidation},
		"SM2":                {kmsapi.CreateKeyRequest{KeySpec: 20}, api.KindUnsupportedOperation},
		"HMAC":               {kmsapi.CreateKeyRequest{CustomerMasterKeySpec: kmsapi.KeySpecHMAC384, KeyUsage: kmsapi.UsageGenerateVerifyMac}, api.KindNone},
		"HMAC, no usage":     {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC384}, api.KindValidation},
		"HMAC that encrypts": {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC384, KeyUsage: kmsapi.UsageEncryptDecrypt}, api.KindValidation},
		"usage, then origin": {kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC384, Origin: 2}, api.KindValidation},
		"sign":               {kmsapi.CreateKeyRequest{KeyUsage: 2}, api.KindValidation},
		"external origin":    {kmsapi.CreateKeyRequest{Origin: 2}, api.KindNone},
		"custom key store":   {kmsapi.CreateKeyRequest{CustomKeyStoreId: "cks-1"}, api.KindUnsupportedOperation},
		"external key":       {kmsapi.CreateKeyRequest{XksKeyId: "x"}, api.KindUnsupportedOperation},
		"multi-Region":       {kmsapi.CreateKeyRequest{MultiRegion: true}, api.KindNone},
		"bypass":             {kmsapi.CreateKeyRequest{BypassPolicyLockoutSafetyCheck: true}, api.KindNone},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &c.in)
			wantKind(t, err, c.want)
		})
	}
}

// TestEncryptRefusals: what can be wrong with an Encrypt, each one clear error
// and one record.
func TestEncryptRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	text := []byte("x")
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.EncryptRequest
		want api.Kind
		says string
	}{
		"key id":                  {r.Client, kmsapi.EncryptRequest{KeyId: ref(id.String()), Plaintext: text}, api.KindNone, ""},
		"unknown key":             {r.Client, kmsapi.EncryptRequest{KeyId: ref("00000000-0000-4000-8000-000000000000"), Plaintext: text}, api.KindNotFound, "does not exist"},
		"unknown key by ARN":      {r.Client, kmsapi.EncryptRequest{KeyId: ref(strings.Replace(arn, id.String(), "00000000-0000-4000-8000-000000000000", 1)), Plaintext: text}, api.KindNotFound, "does not exist"},
		"no key reference":        {r.Client, kmsapi.EncryptRequest{KeyId: ref("my key"), Plaintext: text}, api.KindNotFound, "Invalid keyId"},
		"wrong prefix":            {r.Client, kmsapi.EncryptRequest{KeyId: ref("mrk-" + strings.ReplaceAll(id.String(), "-", "")), Plaintext: text}, api.KindNotFound, "does not exist"},
		"upper-case id":           {r.Client, kmsapi.EncryptRequest{KeyId: ref(strings.ToUpper(id.String())), Plaintext: text}, api.KindNotFound, "Invalid keyId"},
		"another region":          {r.Client, kmsapi.EncryptRequest{KeyId: ref(strings.Replace(arn, "rack-1", "rack-2", 1)), Plaintext: text}, api.KindNotFound, "region rack-1"},
		"unknown alias":           {r.Client, kmsapi.EncryptRequest{KeyId: ref("alias/invoices"), Plaintext: text}, api.KindNotFound, "Alias arn:aws:kms:rack-1:111122223333:alias/invoices is not found."},
		"empty plaintext":         {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn)}, api.KindValidation, "Value null at 'plaintext'"},
		"4097 bytes":              {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: make([]byte, 4097)}, api.KindValidation, "less than or equal to 4096"},
		"grant token":             {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, GrantTokens: []string{"t"}}, api.KindInvalidGrantToken, "send none"},
		"algorithm":               {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionAlgorithm: 3}, api.KindInvalidKeyUsage, "RSAES_OAEP_SHA_256"},
		"dry run":                 {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, DryRun: true}, api.KindDryRun, "would have succeeded"},
		"stranger, by id":         {r.Stranger, kmsapi.EncryptRequest{KeyId: ref(id.String()), Plaintext: text}, api.KindNotFound, "does not exist"},
		"stranger, by ARN":        {r.Stranger, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text}, api.KindAccessDenied, "is not authorized to perform: kms:Encrypt on resource: " + arn},
		"stranger's unknown ARN":  {r.Stranger, kmsapi.EncryptRequest{KeyId: ref(strings.Replace(arn, id.String(), "00000000-0000-4000-8000-000000000000", 1)), Plaintext: text}, api.KindAccessDenied, "is not authorized to perform: kms:Encrypt"},
		"operator":                {r.Operator, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text}, api.KindAccessDenied, "is not authorized"},
		"oversized context":       {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionContext: bound("k", strings.Repeat("v", api.MaxEncryptionContext))}, api.KindValidation, "canonical encoding"},
		"context out of order":    {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionContext: append(append([]byte{0xa2}, "\x61b\x611"...), "\x61a\x611"...)}, api.KindSerialization, "canonical order"},
		"context, the same twice": {r.Client, kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: text, EncryptionContext: append(append([]byte{0xa2}, "\x61a\x611"...), "\x61a\x611"...)}, api.KindSerialization, "not unique"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(r.Records())
			_, err := client.Do(t.Context(), c.c, kmsapi.Encrypt, &c.in)
			wantKind(t, err, c.want)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
			records := r.Records()[before:]
			if len(records) != 1 || records[0].Error != uint16(c.want) || records[0].Op != kmsapi.Encrypt.Number {
				t.Errorf("got records %+v, want one with error %v", records, c.want)
			}
		})
	}
}

// TestEveryByteOfACiphertextCounts: a changed key id is a key that does not
// exist, every other change one and the same error.
func TestEveryByteOfACiphertextCounts(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	blob := encrypt(t, r, r.CreateKey(), []byte("attack at dawn"), "purpose", "test")
	messages := map[string]bool{}
	for i := range blob {
		damaged := bytes.Clone(blob)
		damaged[i] ^= 0x10
		_, err := decrypt(t, r.Client, damaged, "purpose", "test")
		want := api.KindInvalidCiphertext
		if 1 <= i && i < 17 {
			want = api.KindAccessDenied
		}
		wantKind(t, err, want)
		messages[fmt.Sprint(err)] = true
	}
	for n := range blob {
		if _, err := decrypt(t, r.Client, blob[:n], "purpose", "test"); err == nil {
			t.Errorf("the first %d bytes decrypt", n)
		}
	}
	if len(messages) != 2 {
		t.Errorf("got %d different errors, want 2: %v", len(messages), messages)
	}
}

func TestDecryptRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, other := r.CreateKey(), r.CreateKey()
	blob := encrypt(t, r, arn, []byte("x"), "purpose", "test")
	same := bound("purpose", "test")
	ignore := []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext}
	for name, c := range map[string]struct {
		c    *client.Client
		in   kmsapi.DecryptRequest
		want api.Kind
	}{
		"named key":               {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same, KeyId: ref(arn)}, api.KindNone},
		"no context":              {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob}, api.KindInvalidCiphertext},
		"another value":           {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: bound("purpose", "Test")}, api.KindInvalidCiphertext},
		"one pair more":           {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: bound("purpose", "test", "a", "b")}, api.KindInvalidCiphertext},
		"another key":             {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same, KeyId: ref(other)}, api.KindIncorrectKey},
		"stranger":                {r.Stranger, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same}, api.KindAccessDenied},
		"stranger, wrong context": {r.Stranger, kmsapi.DecryptRequest{CiphertextBlob: blob}, api.KindAccessDenied},
		"stranger, named key":     {r.Stranger, kmsapi.DecryptRequest{CiphertextBlob: blob, KeyId: ref(arn)}, api.KindAccessDenied},
		"recipient":               {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same, Recipient: kmsapi.RecipientInfo{AttestationDocument: []byte("a")}}, api.KindUnsupportedOperation},
		"grant token":             {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same, GrantTokens: []string{"t"}}, api.KindInvalidGrantToken},
		"nothing":                 {r.Client, kmsapi.DecryptRequest{}, api.KindValidation},
		"6145 bytes":              {r.Client, kmsapi.DecryptRequest{CiphertextBlob: make([]byte, 6145)}, api.KindValidation},
		"dry run":                 {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, EncryptionContext: same, DryRun: true}, api.KindDryRun},
		"dry run, wrong context":  {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, DryRun: true}, api.KindInvalidCiphertext},
		"dry run of access":       {r.Client, kmsapi.DecryptRequest{KeyId: ref(arn), DryRun: true, DryRunModifiers: ignore}, api.KindDryRun},
		"stranger's dry run":      {r.Stranger, kmsapi.DecryptRequest{KeyId: ref(arn), DryRun: true, DryRunModifiers: ignore}, api.KindAccessDenied},
		"modifier, no dry run":    {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, DryRunModifiers: ignore}, api.KindValidation},
		"modifier, no key":        {r.Client, kmsapi.DecryptRequest{CiphertextBlob: blob, DryRun: true, DryRunModifiers: ignore}, api.KindValidation},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Do(t.Context(), c.c, kmsapi.Decrypt, &c.in)
			wantKind(t, err, c.want)
		})
	}
}

// salt returns what tells message keys apart.
func salt(tb testing.TB, blob []byte) [seal.Salt]byte {
	tb.Helper()
	h, ok := seal.ParseMessage(blob)
	if !ok {
		tb.Fatal("not a ciphertext")
	}
	return h.Salt
}

func TestMessageKeysEnd(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(c *rack.Config) { c.Clock = clk })
	arn := r.CreateKey()
	first := encrypt(t, r, arn, []byte("x"))
	advance(api.MessageKeyLife - time.Second)
	if again := encrypt(t, r, arn, []byte("x")); salt(t, again) != salt(t, first) {
		t.Error("a message key was not used again within its life")
	}
	advance(2 * time.Second)
	if later := encrypt(t, r, arn, []byte("x")); salt(t, later) == salt(t, first) {
		t.Error("a message key outlived its life")
	}
	if got, err := decrypt(t, r.Client, first); err != nil || string(got) != "x" {
		t.Errorf("an old message decrypts to %q, %v", got, err)
	}
	before := encrypt(t, r, arn, []byte("x"))
	advance(-time.Hour)
	advance(api.MessageKeyLife + time.Second)
	if later := encrypt(t, r, arn, []byte("x")); salt(t, later) == salt(t, before) {
		t.Error("a message key outlived its life because the wall clock was set back")
	}
}

// TestFlippedBit: a memory error must cost one call, never data.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	before := encrypt(t, r, arn, []byte("x"))
	once := r.Config
	once.Retries = -1
	impatient := r.NewClient(once)
	for _, bit := range []int{0, 77, 255} {
		encrypt(t, r, arn, []byte("x")) // reads the key where the last round has dropped it
		kms.ForgetMessageKey(r.KMS(), keyID(t, arn))
		kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), bit)
		_, err := client.Do(t.Context(), impatient, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: []byte("x")})
		wantKind(t, err, api.KindKeyUnavailable)
		if got, err := decrypt(t, r.Client, encrypt(t, r, arn, []byte("y"))); err != nil || string(got) != "y" {
			t.Errorf("bit %d: after the error the key encrypts what decrypts to %q, %v", bit, got, err)
		}
		kms.ForgetMessageKey(r.KMS(), keyID(t, arn))
		kms.FlipMaterialBit(t, r.KMS(), keyID(t, arn), bit)
		_, err = decrypt(t, impatient, before)
		wantKind(t, err, api.KindKeyUnavailable) // not "damaged": nothing is wrong with the ciphertext
	}
	if got, err := decrypt(t, r.Client, before); err != nil || string(got) != "x" {
		t.Errorf("an old message decrypts to %q, %v", got, err)
	}
	if len(r.KMS().Warnings()) == 0 {
		t.Error("status does not warn of it")
	}
}

// TestOnlyWhatVerifiedIsKept: ciphertexts that do not verify leave nothing in
// the cache of message keys.
func TestOnlyWhatVerifiedIsKept(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	blob := encrypt(t, r, arn, []byte("x"))
	for i := range 100 {
		forged := bytes.Clone(blob)
		forged[21+i%24] ^= byte(i + 1)
		if _, err := decrypt(t, r.Client, forged); err == nil {
			t.Fatal("a forged salt decrypts")
		}
	}
	if n := kms.OpenKeys(r.KMS(), keyID(t, arn)); n != 0 {
		t.Errorf("%d message keys of forgeries are kept", n)
	}
	kms.ForgetMessageKey(r.KMS(), keyID(t, arn))
	if _, err := decrypt(t, r.Client, blob); err != nil {
		t.Fatal(err)
	}
	if n := kms.OpenKeys(r.KMS(), keyID(t, arn)); n != 1 {
		t.Errorf("%d message keys are kept, want the one that verified", n)
	}
}

// TestAKeyThatIsGoneIsGoneAtOnce: also where a reader has its row in hand
// already when it is deleted.
func TestAKeyThatIsGoneIsGoneAtOnce(t *testing.T) {
	t.Parallel()
	store := racktest.NewGated()
	r := racktest.Start(t, func(c *rack.Config) { c.Store = store })
	arn, held := r.CreateKey(), r.CreateKey()
	forget := func(arn string) {
		id := keyID(t, arn)
		if _, err := kms.Rows(r.KMS()).Update(t.Context(), func(tx keystore.Tx) error {
			return tx.Delete(keystore.MakeName(keystore.SpaceKey, string(id[:])))
		}); err != nil {
			t.Fatal(err)
		}
	}
	blob := encrypt(t, r, arn, []byte("x"))
	forget(arn)
	_, err := decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindAccessDenied)

	kms.FlipMaterialBit(t, r.KMS(), keyID(t, held), 0) // so that the next call drops it and the one after reads it
	kms.ForgetMessageKey(r.KMS(), keyID(t, held))
	in := &kmsapi.EncryptRequest{KeyId: ref(held), Plaintext: []byte("x")}
	once := r.Config
	once.Retries = -1
	if _, err := client.Do(t.Context(), r.NewClient(once), kmsapi.Encrypt, in); err == nil {
		t.Fatal("damaged material encrypts")
	}
	waiting, release := store.Hold()
	done := make(chan error, 1)
	go func() {
		_, err := client.Do(t.Context(), r.Client, kmsapi.Encrypt, in)
		done <- err
	}()
	<-waiting
	forget(held)
	release()
	if err := <-done; err != nil && !errors.Is(err, &api.Error{Kind: api.KindNotFound}) {
		t.Errorf("a call that had read the key before: %v", err)
	}
	_, err = client.Do(t.Context(), r.Client, kmsapi.Encrypt, in)
	wantKind(t, err, api.KindNotFound)
}
