package kms_test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/kms"
)

// TestDeletedMaterialIsShredded: of a key that stays, the material that was deleted is named and counted until it
// is shredded, the one that waited for its rotation too; one that is deleted again meanwhile is not forgotten.
func TestDeletedMaterialIsShredded(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key, secret := secretKey(t, r), randomBytes(32)
	bring := func(secret []byte, in kmsapi.ImportKeyMaterialRequest) string {
		out, err := forever(t, r, key, secret, in)
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyMaterialId
	}
	remove := func(id string) {
		for range 2 { // a second time there is nothing to delete
			if _, err := removeMaterial(t, r, key, id); err != nil && api.KindOf(err) != api.KindNotFound {
				t.Fatal(err)
			}
		}
	}
	first := bring(secret, kmsapi.ImportKeyMaterialRequest{})
	waits := bring(randomBytes(32), kmsapi.ImportKeyMaterialRequest{ImportType: kmsapi.NewKeyMaterial})
	remove(waits)
	wantToShred(t, r, key, waits)
	remove(first)
	before := wantToShred(t, r, key, first, waits)
	wantSound(t, r)

	bring(secret, kmsapi.ImportKeyMaterialRequest{})
	remove(first)
	shredded := func(d kms.Destroyed) {
		if err := r.KMS().Shredded(t.Context(), d, api.TimeOf(time.Now())); err != nil {
			t.Fatal(err)
		}
	}
	shredded(before)
	again := wantToShred(t, r, key, first)
	wantSound(t, r)
	shredded(again)
	shredded(again)
	wantToShred(t, r, key)
	wantSound(t, r)
}

// wantToShred checks which materials of a key wait to be shredded, and returns them.
func wantToShred(t *testing.T, r *racktest.Rack, key string, ids ...string) kms.Destroyed {
	t.Helper()
	d, err := r.KMS().ToShred(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[keystore.Name]bool{}
	for _, text := range ids {
		id, _ := hex.DecodeString(text)
		of := keyID(t, key)
		want[keystore.MakeName(keystore.SpaceMaterial, string(of[:]), string(id))] = true
	}
	for _, n := range d.Materials {
		if !want[n] {
			t.Errorf("%s is to be shredded", n)
		}
	}
	if n, _, err := r.KMS().Unshredded(t.Context()); err != nil || n != len(ids) || d.Len() != len(ids) || len(d.Materials) != len(ids) {
		t.Errorf("%d are counted and %d found, %v; want %d", n, d.Len(), err, len(ids))
	}
	return d
}
