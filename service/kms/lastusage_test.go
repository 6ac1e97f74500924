package kms_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func lastUsage(tb testing.TB, c *client.Client, key string) (*kmsapi.GetKeyLastUsageResponse, error) {
	tb.Helper()
	return client.Do(tb.Context(), c, kmsapi.GetKeyLastUsage, &kmsapi.GetKeyLastUsageRequest{KeyId: ref(key)})
}

// wantUsage checks what a key was last used for and the counts, as name and number by turns.
func wantUsage(tb testing.TB, r *racktest.Rack, key string, last kmsapi.UsageOperation, counts ...kmsapi.UsageCount) *kmsapi.GetKeyLastUsageResponse {
	tb.Helper()
	out, err := lastUsage(tb, r.Client, key)
	if err != nil {
		tb.Fatal(err)
	}
	if out.KeyLastUsage.Operation != last || !slices.Equal(out.UsageCounts, counts) || out.KeyId != key {
		tb.Errorf("got %+v, want %v last and %v", out, last, counts)
	}
	return out
}

// TestGetKeyLastUsage tells a story of two keys, through a stop, a start and what does not count.
func TestGetKeyLastUsage(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	a, b, unused := r.CreateKey(), r.CreateKey(), r.CreateKey()
	count := func(op kmsapi.UsageOperation, n int64) kmsapi.UsageCount {
		return kmsapi.UsageCount{Operation: op, Count: n}
	}
	wantUsage(t, r, a, 0)
	encrypt(t, r, a, []byte("x"))
	blob := encrypt(t, r, a, []byte("x"))
	wantUsage(t, r, a, kmsapi.UsedEncrypt, count(kmsapi.UsedEncrypt, 2))
	if _, err := decrypt(t, r.Client, blob); err != nil {
		t.Fatal(err)
	}
	if _, err := decrypt(t, r.Client, blob, "not", "bound"); err == nil {
		t.Fatal("decrypted under another context")
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(a), Plaintext: []byte("x"), DryRun: true}); api.KindOf(err) != api.KindDryRun {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(a)}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, DestinationKeyId: ref(b)}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(b), KeySpec: kmsapi.AES256}); err != nil {
		t.Fatal(err)
	}
	ofA := []kmsapi.UsageCount{count(kmsapi.UsedDecrypt, 1), count(kmsapi.UsedEncrypt, 2), count(kmsapi.UsedReEncrypt, 1)}
	ofB := []kmsapi.UsageCount{count(kmsapi.UsedGenerateDataKey, 1), count(kmsapi.UsedReEncrypt, 1)}
	var events []string
	for _, rec := range r.Records() {
		if rec.Op == kmsapi.ReEncrypt.Number || rec.Op == kmsapi.GenerateDataKey.Number {
			events = append(events, api.EventID(rec.Event).String())
		}
	}
	check := func() {
		t.Helper()
		got := wantUsage(t, r, a, kmsapi.UsedReEncrypt, ofA...)
		if l := got.KeyLastUsage; l.CloudTrailEventId != events[0] || l.KmsRequestId != events[0] || l.Timestamp < got.KeyCreationDate || got.TrackingStartDate > got.KeyCreationDate {
			t.Errorf("last use %+v, want event %s", got, events[0])
		}
		if got := wantUsage(t, r, b, kmsapi.UsedGenerateDataKey, ofB...); got.KeyLastUsage.CloudTrailEventId != events[1] {
			t.Errorf("last use %+v, want event %s", got, events[1])
		}
		wantUsage(t, r, unused, 0)
	}
	check()
	r.Restart(nil)
	check()
	ofA[1].Count++
	encrypt(t, r, a, []byte("x"))
	wantUsage(t, r, a, kmsapi.UsedEncrypt, ofA...)
	r.Restart(nil)
	wantUsage(t, r, a, kmsapi.UsedEncrypt, ofA...)
	wantClean(t, r)
	now := time.Now()
	for days, at := range map[int]time.Time{0: now.Add(time.Hour), 1: now.Add(25 * time.Hour), 90: now.Add(90*24*time.Hour + time.Hour)} {
		for _, key := range []string{a, unused} {
			if got, err := kms.UnusedDays(t.Context(), r.KMS(), keyID(t, key), at); err != nil || got != days {
				t.Errorf("%s: %d days, %v, want %d", key, got, err, days)
			}
		}
	}
}

// wantClean checks that keyrack check finds nothing in the service's rows.
func wantClean(tb testing.TB, r *racktest.Rack) {
	tb.Helper()
	err := kms.Rows(r.KMS()).View(tb.Context(), func(v keystore.Reader) error {
		return r.KMS().Check(tb.Context(), v, func(p string) { tb.Errorf("check: %s", p) })
	})
	if err != nil {
		tb.Error(err)
	}
}

// TestGetKeyLastUsageRefusals: what can be wrong, each one clear error.
func TestGetKeyLastUsageRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn).String()
	if _, err := lastUsage(t, r.Client, id); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		c    *client.Client
		key  string
		want api.Kind
	}{
		"unknown key":      {r.Client, "00000000-0000-4000-8000-000000000000", api.KindNotFound},
		"stranger, by id":  {r.Stranger, id, api.KindNotFound},
		"stranger, by ARN": {r.Stranger, arn, api.KindAccessDenied},
		"operator":         {r.Operator, arn, api.KindAccessDenied},
		"alias":            {r.Client, "alias/mail", api.KindNotFound},
		"no key":           {r.Client, "my key", api.KindNotFound},
		"empty":            {r.Client, "", api.KindValidation},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lastUsage(t, c.c, c.key)
			wantKind(t, err, c.want)
		})
	}
}

// TestDamagedUsageStopsNoKey: a key works as ever while its row of usage cannot be read, and
// check names it.
func TestDamagedUsageStopsNoKey(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn := r.CreateKey()
	id := keyID(t, arn)
	put := func(n keystore.Name, value string) {
		if _, err := kms.Rows(r.KMS()).Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(n, []byte(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	put(kms.UsageName(id), "\x00")
	put(kms.UsageName(api.KeyID{1}), "\x00")
	blob := encrypt(t, r, arn, []byte("x"))
	if got, err := decrypt(t, r.Client, blob); err != nil || !bytes.Equal(got, []byte("x")) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := lastUsage(t, r.Client, arn); api.KindOf(err) != api.KindInternal || !strings.Contains(err.Error(), "keyrack check") {
		t.Errorf("got %v", err)
	}
	var said []string
	if err := kms.Rows(r.KMS()).View(t.Context(), func(v keystore.Reader) error {
		return r.KMS().Check(t.Context(), v, func(p string) { said = append(said, p) })
	}); err != nil || len(said) != 2 || !strings.Contains(said[0], "usage row") {
		t.Errorf("check says %q, %v", said, err)
	}
	r.Restart(nil) // which writes what was counted
	encrypt(t, r, arn, []byte("x"))
	got := wantUsage(t, r, arn, kmsapi.UsedEncrypt, kmsapi.UsageCount{Operation: kmsapi.UsedDecrypt, Count: 1}, kmsapi.UsageCount{Operation: kmsapi.UsedEncrypt, Count: 2})
	if got.TrackingStartDate <= got.KeyCreationDate {
		t.Errorf("what the damaged row said is lost, and %+v claims to know it", got)
	}
}

// TestUsageWritesLeaveNoRecord: what the service notes for itself is no operation.
func TestUsageWritesLeaveNoRecord(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	encrypt(t, r, r.CreateKey(), []byte("x"))
	before := len(r.Records())
	if err := errors.Join(kms.UsageOf(r.KMS()).Reach(context.Background()), kms.UsageOf(r.KMS()).Flush()); err != nil {
		t.Fatal(err)
	}
	if after := len(r.Records()); after != before {
		t.Errorf("%d records were left", after-before)
	}
}

// FuzzUsageRow: what is read is what would be written, with a last use that is counted.
func FuzzUsageRow(f *testing.F) {
	good, err := cbor.Marshal(map[int]any{0: 1, 1: 5, 2: 7, 3: 5, 4: map[int]int{3: 2}, 5: 3, 6: 9, 7: make([]byte, 16)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\xa0"))
	f.Add(bytes.Replace(good, []byte{4, 0xa1, 3, 2}, []byte{4, 0xa1, 3, 0}, 1))
	f.Add(bytes.Replace(good, []byte{4, 0xa1, 3, 2}, []byte{4, 0xa1, 15, 2}, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := kms.RewriteUsageRow(b)
		if bytes.Equal(b, good) && err != nil {
			t.Errorf("a good row: %v", err)
		}
		if err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
		if err != nil && !errors.Is(err, keystore.ErrDamaged) {
			t.Errorf("%x: %v", b, err)
		}
	})
}
