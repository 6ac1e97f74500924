package kms_test

import (
	"bytes"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// describe returns what a key says of itself.
func describe(tb testing.TB, r *racktest.Rack, key string) kmsapi.KeyMetadata {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(key)})
	if err != nil {
		tb.Fatal(err)
	}
	return out.KeyMetadata
}

// newSecret draws the secret of a symmetric key.
func newSecret(tb testing.TB) []byte {
	tb.Helper()
	return kms.Draw(tb, kmsapi.KeySpecSymmetricDefault)[1:]
}

// addMaterial gives a key a material and returns its secret.
func addMaterial(tb testing.TB, r *racktest.Rack, key string, state kmsapi.KeyMaterialState) (secret []byte) {
	tb.Helper()
	secret = newSecret(tb)
	if err := kms.AddMaterial(tb, r.KMS(), keyID(tb, key), state, secret); err != nil {
		tb.Fatal(err)
	}
	return secret
}

// wantDecrypts checks what a ciphertext holds and which material it names.
func wantDecrypts(tb testing.TB, r *racktest.Rack, blob []byte, want, material string) {
	tb.Helper()
	out, err := client.Do(tb.Context(), r.Client, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob})
	if err != nil {
		tb.Fatal(err)
	}
	if string(out.Plaintext) != want || out.KeyMaterialId != material {
		tb.Errorf("got %q by material %s, want %q by %s", out.Plaintext, out.KeyMaterialId, want, material)
	}
}

// TestCiphertextsOfAllMaterialsDecrypt: each by its own, after a restart too.
func TestCiphertextsOfAllMaterialsDecrypt(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn := r.CreateKey()
	type made struct {
		blob []byte
		by   string
	}
	var all []made
	for range 5 {
		all = append(all, made{encrypt(t, r, arn, []byte("x")), describe(t, r, arn).CurrentKeyMaterialId})
		addMaterial(t, r, arn, kmsapi.MaterialCurrent)
	}
	for range 2 {
		for _, m := range all {
			wantDecrypts(t, r, m.blob, "x", m.by)
		}
		r.Restart(nil)
	}
	wantSound(t, r)
}

// TestWhatAKeyWithoutAMaterialIs: it waits for the import of each one that it had,
// says so whatever is asked of it, and is as it was before once it is whole.
func TestWhatAKeyWithoutAMaterialIs(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn := r.CreateKey()
	id, old := keyID(t, arn), unhex(t, describe(t, r, arn).CurrentKeyMaterialId)
	oldSecret, before := kms.Secret(t, r.KMS(), id), encrypt(t, r, arn, []byte("old"))
	secret := addMaterial(t, r, arn, kmsapi.MaterialCurrent)
	current, after := unhex(t, describe(t, r, arn).CurrentKeyMaterialId), encrypt(t, r, arn, []byte("new"))
	for material, secret := range map[string][]byte{old: oldSecret, current: secret} {
		kms.RemoveMaterial(t, r.KMS(), id, material)
		kms.RemoveMaterial(t, r.KMS(), id, material)
		r.Restart(nil)
		if m := describe(t, r, arn); m.KeyState != kmsapi.StatePendingImport || unhex(t, m.CurrentKeyMaterialId) != current {
			t.Errorf("state %s, current material %s", m.KeyState, m.CurrentKeyMaterialId)
		}
		for _, blob := range [][]byte{before, after} {
			_, err := decrypt(t, r.Client, blob)
			wantKind(t, err, api.KindInvalidState)
		}
		_, err := encryptedBy(t, r.Client, arn)
		wantKind(t, err, api.KindInvalidState)
		if err := kms.RestoreMaterial(t, r.KMS(), id, material, secret); err != nil {
			t.Fatal(err)
		}
		if m := describe(t, r, arn); m.KeyState != kmsapi.StateEnabled {
			t.Errorf("whole, it is %s", m.KeyState)
		}
		for _, blob := range [][]byte{before, after} {
			if _, err := decrypt(t, r.Client, blob); err != nil {
				t.Error(err)
			}
		}
		wantSound(t, r)
	}
}

// TestPendingMaterial encrypts nothing, and opens nothing; without it the key is as
// before, and another one has room in its place.
func TestPendingMaterial(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id, by := keyID(t, arn), describe(t, r, arn).CurrentKeyMaterialId
	blob := encrypt(t, r, arn, []byte("x"))
	for range 2 {
		secret := addMaterial(t, r, arn, kmsapi.MaterialPendingRotation)
		if m := describe(t, r, arn); m.CurrentKeyMaterialId != by || m.KeyState != kmsapi.StateEnabled {
			t.Errorf("current material %s in state %s, want %s", m.CurrentKeyMaterialId, m.KeyState, by)
		}
		wantDecrypts(t, r, blob, "x", by)
		pending := kms.MaterialID(id, secret)
		forged := bytes.Clone(blob)
		copy(forged[17:21], pending[:4])
		_, err := decrypt(t, r.Client, forged)
		wantKind(t, err, api.KindInvalidCiphertext)
		kms.RemoveMaterial(t, r.KMS(), id, string(pending[:]))
		wantSound(t, r)
	}
	if m := describe(t, r, arn); m.KeyState != kmsapi.StateEnabled {
		t.Errorf("without the pending material it is %s", m.KeyState)
	}
}

// TestMaterialsThatAKeyDoesNotTake: one whose ciphertexts could not be told from
// those of another, and more than there is room for.
func TestMaterialsThatAKeyDoesNotTake(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	id := keyID(t, arn)
	if err := kms.AddMaterial(t, r.KMS(), id, kmsapi.MaterialCurrent, kms.Secret(t, r.KMS(), id)); err != kms.ErrShortTaken {
		t.Errorf("the same material again: %v", err)
	}
	kms.FillMaterials(t, r.KMS(), id)
	wantKind(t, kms.AddMaterial(t, r.KMS(), id, kmsapi.MaterialCurrent, newSecret(t)), api.KindLimitExceeded)
	wantSound(t, r)
}

// FuzzMaterials: a row that is read has one current material, and is written the same way again.
func FuzzMaterials(f *testing.F) {
	id := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	for _, ids := range [][][]byte{{id(1)}, {id(1), id(2)}, {id(1), id(2), id(3), id(4)}, {id(1), id(2), id(1)}, {}, {id(1)[1:]}} {
		f.Add(kms.Materials(f, ids...))
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		again, err := kms.ReadMaterials(row)
		if err == nil && !bytes.Equal(again, row) {
			t.Errorf("%x is written again as %x", row, again)
		}
	})
}

// TestRowsOfMaterialsThatNoKeyHas are refused, each for one thing that is wrong.
func TestRowsOfMaterialsThatNoKeyHas(t *testing.T) {
	t.Parallel()
	id := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	near := append(id(1)[:4:4], id(2)[4:]...)
	if _, err := kms.ReadMaterials(kms.Materials(t, id(1), id(2), id(3))); err != nil {
		t.Errorf("a good row: %v", err)
	}
	for what, row := range map[string][]byte{
		"no material":            kms.Materials(t),
		"a short id":             kms.Materials(t, id(1)[1:]),
		"two of one short id":    kms.Materials(t, id(1), near),
		"a byte less":            kms.Materials(t, id(1))[1:],
		"a byte more":            append(kms.Materials(t, id(1)), 0),
		"a state that is not":    bytes.Replace(kms.Materials(t, id(1)), []byte{2, 1, 3, 1}, []byte{2, 4, 3, 1}, 1),
		"none that is current":   bytes.Replace(kms.Materials(t, id(1)), []byte{2, 1, 3, 1}, []byte{2, 2, 3, 1}, 1),
		"two that are current":   bytes.Replace(kms.Materials(t, id(1), id(2)), []byte{2, 3, 3, 1}, []byte{2, 1, 3, 1}, 1),
		"two that are pending":   bytes.Replace(kms.Materials(t, id(1), id(2), id(3)), []byte{2, 2, 3, 1}, []byte{2, 3, 3, 1}, 1),
		"an import that is not":  bytes.Replace(kms.Materials(t, id(1)), []byte{8, 1}, []byte{8, 3}, 1),
		"a rotation that is not": bytes.Replace(kms.Materials(t, id(1)), []byte{5, 2}, []byte{5, 3}, 1),
	} {
		if _, err := kms.ReadMaterials(row); err == nil {
			t.Errorf("%s: %x is read", what, row)
		}
	}
}
