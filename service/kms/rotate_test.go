package kms_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func rotate(tb testing.TB, c *client.Client, key string) error {
	tb.Helper()
	out, err := client.Do(tb.Context(), c, kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(key)})
	if err == nil && !strings.HasSuffix(out.KeyId, keySuffix(key)) {
		tb.Errorf("rotating %s answers %s", key, out.KeyId)
	}
	return err
}

// keySuffix returns how the ARN of a key ends that is named by id or ARN.
func keySuffix(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// mustRotate rotates a key and returns the id of its new material.
func mustRotate(tb testing.TB, r *racktest.Rack, key string) string {
	tb.Helper()
	before := describe(tb, r, key).CurrentKeyMaterialId
	if err := rotate(tb, r.Client, key); err != nil {
		tb.Fatal(err)
	}
	after := describe(tb, r, key).CurrentKeyMaterialId
	if after == before {
		tb.Fatalf("rotated, the material is still %s", after)
	}
	return after
}

// rotations lists the materials of a key, in pages.
func rotations(tb testing.TB, c *client.Client, key string, include kmsapi.IncludeKeyMaterial, limit int64) (all []kmsapi.RotationsListEntry, pages int) {
	tb.Helper()
	for marker := ""; ; {
		out, err := client.Do(tb.Context(), c, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{KeyId: ref(key), IncludeKeyMaterial: include, Limit: limit, Marker: marker})
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, out.Rotations...)
		pages++
		if marker = out.NextMarker; out.Truncated != (marker != "") {
			tb.Fatalf("truncated: %t, marker %q", out.Truncated, marker)
		}
		if !out.Truncated {
			return all, pages
		}
	}
}

// TestRotationOnDemand: new ciphertexts are of the new material, the old ones of
// theirs, and ReEncrypt to the same key takes them over.
func TestRotationOnDemand(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	first := describe(t, r, arn).CurrentKeyMaterialId
	before := encrypt(t, r, arn, []byte("x"))
	second := mustRotate(t, r, arn)
	wantDecrypts(t, r, encrypt(t, r, arn, []byte("y")), "y", second)
	wantDecrypts(t, r, before, "x", first)
	out, err := client.Do(t.Context(), r.Client, kmsapi.ReEncrypt, &kmsapi.ReEncryptRequest{CiphertextBlob: before, DestinationKeyId: ref(arn)})
	if err != nil {
		t.Fatal(err)
	}
	if out.SourceKeyMaterialId != first || out.DestinationKeyMaterialId != second {
		t.Errorf("moved from %s to %s, want %s to %s", out.SourceKeyMaterialId, out.DestinationKeyMaterialId, first, second)
	}
	wantDecrypts(t, r, out.CiphertextBlob, "x", second)
	data, err := client.Do(t.Context(), r.Client, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: kmsapi.AES256})
	if err != nil || data.KeyMaterialId != second {
		t.Errorf("a data key is of material %s, %v; want %s", data.KeyMaterialId, err, second)
	}
	wantSound(t, r)
}

// TestListKeyRotations: what was rotated, and with ALL_KEY_MATERIAL the first one
// and the pending one too, in pages of any length.
func TestListKeyRotations(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	ids := []string{describe(t, r, arn).CurrentKeyMaterialId}
	if all, _ := rotations(t, r.Client, arn, 0, 0); len(all) != 0 {
		t.Errorf("a new key has rotations: %+v", all)
	}
	for i := range 6 {
		all, _ := rotations(t, r.Client, arn, kmsapi.AllKeyMaterial, 0)
		if len(all) != len(ids) {
			t.Fatalf("%d materials, want %d", len(all), len(ids))
		}
		for j, e := range all {
			state, kind := kmsapi.MaterialNonCurrent, kmsapi.RotationOnDemand
			if j == i {
				state = kmsapi.MaterialCurrent
			}
			if j == 0 {
				kind = 0
			}
			want := kmsapi.RotationsListEntry{KeyId: arn, KeyMaterialId: ids[j], KeyMaterialState: state, RotationType: kind, RotationDate: e.RotationDate}
			if e != want || (e.RotationDate == 0) != (j == 0) {
				t.Errorf("material %d of %d is %+v, want %+v", j, i+1, e, want)
			}
		}
		ids = append(ids, mustRotate(t, r, arn))
	}
	for limit := range int64(9) {
		for include, want := range map[kmsapi.IncludeKeyMaterial][]string{0: ids[1:], kmsapi.RotationsOnly: ids[1:], kmsapi.AllKeyMaterial: ids} {
			all, pages := rotations(t, r.Client, arn, include, limit)
			var got []string
			for _, e := range all {
				got = append(got, e.KeyMaterialId)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in pages of %d: got %v, want %v", include, limit, got, want)
			}
			if limit > 0 && pages != (len(want)+int(limit)-1)/int(limit) {
				t.Errorf("%d entries in pages of %d are %d pages", len(want), limit, pages)
			}
		}
	}
}

// TestMarkersOfRotations: of the same list only.
func TestMarkersOfRotations(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn, other := r.CreateKey(), r.CreateKey()
	for range 3 {
		mustRotate(t, r, arn)
		mustRotate(t, r, other)
	}
	list := func(in kmsapi.ListKeyRotationsRequest) (*kmsapi.ListKeyRotationsResponse, error) {
		return client.Do(t.Context(), r.Client, kmsapi.ListKeyRotations, &in)
	}
	page, err := list(kmsapi.ListKeyRotationsRequest{KeyId: ref(arn), Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []kmsapi.ListKeyRotationsRequest{
		{KeyId: ref(other), Marker: page.NextMarker},
		{KeyId: ref(arn), Marker: page.NextMarker, IncludeKeyMaterial: kmsapi.AllKeyMaterial},
		{KeyId: ref(arn), Marker: "x" + page.NextMarker},
	} {
		_, err := list(in)
		wantKind(t, err, api.KindInvalidMarker)
	}
}

// TestAPageBehindMaterialThatIsGone: a pending material that is removed between two
// pages is not missed, and nothing is shown twice.
func TestAPageBehindMaterialThatIsGone(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	kms.SetOrigin(t, r.KMS(), id, kmsapi.OriginExternal)
	secret := addMaterial(t, r, arn, kmsapi.MaterialPendingRotation)
	in := &kmsapi.ListKeyRotationsRequest{KeyId: ref(arn), IncludeKeyMaterial: kmsapi.AllKeyMaterial, Limit: 2}
	page, err := client.Do(t.Context(), r.Client, kmsapi.ListKeyRotations, in)
	if err != nil || len(page.Rotations) != 2 || page.Truncated {
		t.Fatalf("%+v, %v", page, err)
	}
	in.Limit = 1
	if page, err = client.Do(t.Context(), r.Client, kmsapi.ListKeyRotations, in); err != nil {
		t.Fatal(err)
	}
	pending := kms.MaterialID(id, secret)
	kms.RemoveMaterial(t, r.KMS(), id, string(pending[:]))
	in.Marker = page.NextMarker
	if page, err = client.Do(t.Context(), r.Client, kmsapi.ListKeyRotations, in); err != nil || len(page.Rotations) != 0 || page.Truncated {
		t.Errorf("behind the last one: %+v, %v", page, err)
	}
}

// TestRotationOfImportedMaterial makes the pending one current, and needs one.
func TestRotationOfImportedMaterial(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	kms.SetOrigin(t, r.KMS(), id, kmsapi.OriginExternal)
	before, first := encrypt(t, r, arn, []byte("x")), describe(t, r, arn).CurrentKeyMaterialId
	for range 2 {
		wantSays(t, rotate(t, r.Client, arn), "KMSInvalidStateException: "+arn+" has no key material that waits for a rotation")
		secret := addMaterial(t, r, arn, kmsapi.MaterialPendingRotation)
		pending := kms.MaterialID(id, secret)
		if got := mustRotate(t, r, arn); got != fmt.Sprintf("%x", pending) {
			t.Errorf("rotated to %s, want %x", got, pending)
		}
		wantDecrypts(t, r, encrypt(t, r, arn, []byte("y")), "y", fmt.Sprintf("%x", pending))
		wantDecrypts(t, r, before, "x", first)
	}
	all, _ := rotations(t, r.Client, arn, 0, 0)
	if len(all) != 2 || all[1].RotationType != kmsapi.RotationOnDemand || all[1].ImportState != kmsapi.Imported || all[1].ExpirationModel != kmsapi.MaterialDoesNotExpire {
		t.Errorf("the rotations are %+v", all)
	}
	wantSound(t, r)
}

// TestRotationsAreBounded: 25 on demand in the life of a key.
func TestRotationsAreBounded(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	blob, first := encrypt(t, r, arn, []byte("x")), describe(t, r, arn).CurrentKeyMaterialId
	for range api.MaxOnDemandRotations {
		mustRotate(t, r, arn)
	}
	last := describe(t, r, arn).CurrentKeyMaterialId
	wantSays(t, rotate(t, r.Client, arn), "LimitExceededException: "+arn+" was rotated on demand 25 times")
	if got := describe(t, r, arn).CurrentKeyMaterialId; got != last {
		t.Errorf("refused, the material changed from %s to %s", last, got)
	}
	wantDecrypts(t, r, blob, "x", first)
	wantSound(t, r)
}

// TestKeysThatDoNotRotate: those of other kinds, of other accounts, and by alias.
func TestKeysThatDoNotRotate(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	hmac := createKey(t, r, kmsapi.KeySpecHMAC256, makesMacs)
	curve := createKey(t, r, kmsapi.KeySpecECCNISTP256, kmsapi.UsageSignVerify)
	arn, foreign := r.CreateKey(), strangersKey(t, r)
	createAlias(t, r, "alias/a", arn)
	external := r.CreateKey()
	kms.SetOrigin(t, r.KMS(), keyID(t, external), kmsapi.OriginExternal)
	for op, try := range map[string]func(key string) error{
		"EnableKeyRotation":    func(key string) error { return rotateEvery(t, r.Client, key, 100) },
		"DisableKeyRotation":   func(key string) error { return rotateNever(t, r.Client, key) },
		"GetKeyRotationStatus": func(key string) error { _, err := rotationStatus(t, r.Client, key); return err },
		"ListKeyRotations": func(key string) error {
			_, err := client.Do(t.Context(), r.Client, kmsapi.ListKeyRotations, &kmsapi.ListKeyRotationsRequest{KeyId: ref(key)})
			return err
		},
		"RotateKeyOnDemand": func(key string) error { return rotate(t, r.Client, key) },
	} {
		wantSays(t, try(hmac), "UnsupportedOperationException: "+hmac+" key spec is HMAC_256 which is not valid for this operation.")
		wantSays(t, try(curve), "UnsupportedOperationException: "+curve+" key spec is ECC_NIST_P256 which is not valid for this operation.")
		wantSays(t, try(foreign), "AccessDeniedException: ")
		wantSays(t, try("alias/a"), "NotFoundException: ")
		wantSays(t, try(noSuchID), "NotFoundException: ")
		switch op {
		case "EnableKeyRotation", "DisableKeyRotation":
			wantSays(t, try(external), "UnsupportedOperationException: "+external+" origin is EXTERNAL which is not valid for this operation.")
		}
		if err := try(arn); err != nil {
			t.Errorf("%s of a symmetric key: %v", op, err)
		}
	}
	wantSound(t, r)
}

// TestRotationStates is the table of facts: what of rotation a key's state allows.
func TestRotationStates(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	everyState(t, r, arn, func() error { return rotateEvery(t, r.Client, arn, 100) })
	everyState(t, r, arn, func() error { return rotateNever(t, r.Client, arn) })
	for state := kmsapi.StateEnabled; state <= kmsapi.StateUpdating; state++ {
		kms.SetState(t, r.KMS(), keyID(t, arn), state)
		if _, err := rotationStatus(t, r.Client, arn); err != nil {
			t.Errorf("status in state %s: %v", state, err)
		}
		rotations(t, r.Client, arn, 0, 0)
		says := notUsable[state]
		switch state {
		case kmsapi.StateEnabled:
			mustRotate(t, r, arn)
			continue
		case kmsapi.StateUpdating:
			says = "KMSInvalidStateException: %s is updating."
		}
		wantSays(t, rotate(t, r.Client, arn), strings.Replace(says, "%s", arn, 1))
	}
}

// TestMaterialIsDrawnAgain where its short id is that of another one: ciphertexts
// could not tell them apart.
func TestMaterialIsDrawnAgain(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	taken, fresh := kms.Secret(t, r.KMS(), id), newSecret(t)
	if err := kms.RotateTo(t, r.KMS(), id, taken, taken, fresh); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(t, r, arn).CurrentKeyMaterialId, fmt.Sprintf("%x", kms.MaterialID(id, fresh)); got != want {
		t.Errorf("the material is %s, want %s", got, want)
	}
	if err := kms.RotateTo(t, r.KMS(), id, taken, taken, taken, taken, newSecret(t)); err != kms.ErrShortTaken {
		t.Errorf("drawn in vain: %v", err)
	}
	wantSound(t, r)
}
