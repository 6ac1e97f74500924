package kms_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
)

// TestStoredPastMaterialIsDamaged: the error says so, nothing of it is kept, the current material serves, and once the store is
// healed so does the past one.
func TestStoredPastMaterialIsDamaged(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	secret := kms.Secret(t, r.KMS(), id)
	material := kms.MaterialID(id, secret)
	old := encrypt(t, r, arn, []byte("x"))
	mustRotate(t, r, arn)
	put := func(row []byte) {
		t.Helper()
		if _, err := kms.Rows(r.KMS()).Update(t.Context(), func(tx keystore.Tx) error {
			return tx.Put(keystore.MakeName(keystore.SpaceMaterial, string(id[:]), string(material[:])), row)
		}); err != nil {
			t.Fatal(err)
		}
	}
	good := append([]byte{byte(kmsapi.KeySpecSymmetricDefault)}, secret...)
	flipped := bytes.Clone(good)
	flipped[17] ^= 4
	for name, row := range map[string][]byte{"a bit": flipped, "the tag": append([]byte{9}, secret...), "a byte less": good[:32], "nothing left": {}} {
		put(row)
		for range 2 {
			_, err := decrypt(t, r.Client, old)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.KindInternal || e.Reason != "store-damaged" {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if got, err := decrypt(t, r.Client, encrypt(t, r, arn, []byte("y"))); err != nil || string(got) != "y" {
			t.Errorf("%s: the current material: %q, %v", name, got, err)
		}
		if n := kms.Pasts(r.KMS(), id); n != 0 {
			t.Errorf("%s: %d past materials are kept", name, n)
		}
		put(good)
		if got, err := decrypt(t, r.Client, old); err != nil || string(got) != "x" {
			t.Errorf("%s: once the store is healed: %q, %v", name, got, err)
		}
		if n := kms.Pasts(r.KMS(), id); n != 1 {
			t.Errorf("%s: %d past materials are kept once the store is healed", name, n)
		}
	}
}

// TestRecordsOfWhatWasLeftOut: a number that the caller leaves to the appliance stands in the record as it was taken.
func TestRecordsOfWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	if err := rotateEvery(t, r.Client, arn, 0); err != nil {
		t.Fatal(err)
	}
	d := newDesk(r)
	if err := d.serve(t, rootOf(racktest.Account), kmsapi.ScheduleKeyDeletion.Op, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(arn)}); err != nil {
		t.Fatal(err)
	}
	want := map[uint16][]byte{
		kmsapi.EnableKeyRotation.Number:   kmsapi.EnableKeyRotation.In.AppendAudit(nil, &kmsapi.EnableKeyRotationRequest{KeyId: ref(arn), RotationPeriodInDays: api.RotationPeriod}),
		kmsapi.ScheduleKeyDeletion.Number: kmsapi.ScheduleKeyDeletion.In.AppendAudit(nil, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(arn), PendingWindowInDays: api.MaxDeletionWindow}),
	}
	for _, rec := range r.Records() {
		if shown := want[rec.Op]; shown != nil {
			if !bytes.Equal(rec.Request, shown) {
				t.Errorf("operation %d is recorded with %x, want %x", rec.Op, rec.Request, shown)
			}
			delete(want, rec.Op)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d operations have no record", len(want))
	}
}
