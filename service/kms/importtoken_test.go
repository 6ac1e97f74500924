package kms_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// TestImportTokens: a token is good for its key, for one import, for eight tries, until the
// next one and for a day, also over a restart; and for nothing when a bit of it differs.
func TestImportTokens(t *testing.T) {
	t.Parallel()
	r := startTimed(t, racktest.OnDisk)
	key, other, secret := secretKey(t, r.Rack), secretKey(t, r.Rack), randomBytes(32)
	const a = kmsapi.WrapOAEPSHA256
	get := func() *kmsapi.GetParametersForImportResponse {
		return parameters(t, r.Rack, key, a, kmsapi.WrappingRSA2048)
	}
	try := func(key string, p *kmsapi.GetParametersForImportResponse, token, blob []byte) error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &kmsapi.ImportKeyMaterialRequest{
			KeyId: ref(key), ImportToken: token, EncryptedKeyMaterial: blob, ExpirationModel: kmsapi.MaterialDoesNotExpire})
		return err
	}
	p := get()
	good := wrap(t, a, p.PublicKey, secret)
	parameters(t, r.Rack, other, a, kmsapi.WrappingRSA2048)
	wantKind(t, try(other, p, p.ImportToken, good), api.KindInvalidImportToken)
	for at := 0; at < len(p.ImportToken); at += 5 {
		b := bytes.Clone(p.ImportToken)
		b[at] ^= 0x10
		wantKind(t, try(key, p, b, good), api.KindInvalidImportToken)
	}
	wantKind(t, try(key, p, p.ImportToken[1:], good), api.KindInvalidImportToken)
	wantKind(t, try(key, p, append(bytes.Clone(p.ImportToken), 0), good), api.KindInvalidImportToken)
	wantKind(t, try(key, p, []byte{3}, good), api.KindInvalidImportToken)
	r.Restart(nil)
	if err := try(key, p, p.ImportToken, good); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	wantKind(t, try(key, p, p.ImportToken, good), api.KindInvalidImportToken) // used

	old, p := get(), get()
	wantKind(t, try(key, old, old.ImportToken, wrap(t, a, old.PublicKey, secret)), api.KindInvalidImportToken)
	for range 4 { // wrong material counts as damaged material does
		wantKind(t, try(key, p, p.ImportToken, randomBytes(256)), api.KindInvalidCiphertext)
		wantKind(t, try(key, p, p.ImportToken, wrap(t, a, p.PublicKey, randomBytes(32))), api.KindIncorrectKeyMaterial)
	}
	wantKind(t, try(key, p, p.ImportToken, wrap(t, a, p.PublicKey, secret)), api.KindInvalidImportToken)

	p = get()
	for range 7 {
		wantKind(t, try(key, p, p.ImportToken, randomBytes(256)), api.KindInvalidCiphertext)
	}
	if err := try(key, p, p.ImportToken, wrap(t, a, p.PublicKey, secret)); err != nil {
		t.Errorf("the eighth try: %v", err)
	}
	p = get()
	r.advance(24*time.Hour + time.Second)
	wantKind(t, try(key, p, p.ImportToken, wrap(t, a, p.PublicKey, secret)), api.KindExpiredImportToken)
	wantSound(t, r.Rack)
}

// TestMaterialExpires: at its end, which a new import moves, and no sooner; the same
// material brings the key back, and what it encrypted.
func TestMaterialExpires(t *testing.T) {
	t.Parallel()
	r := startTimed(t, racktest.OnDisk)
	key, secret := secretKey(t, r.Rack), randomBytes(32)
	bring := func(after time.Duration) api.Time {
		end := api.TimeOf(r.clock.Now().Add(after))
		if _, err := importMaterial(t, r.Rack, key, secret, kmsapi.ImportKeyMaterialRequest{ExpirationModel: kmsapi.MaterialExpires, ValidTo: end}); err != nil {
			t.Fatal(err)
		}
		if m := describe(t, r.Rack, key); m.ExpirationModel != kmsapi.MaterialExpires || m.ValidTo != end || m.KeyState != kmsapi.StateEnabled {
			t.Fatalf("described as %+v", m)
		}
		return end
	}
	bring(time.Hour)
	blob := encrypt(t, r.Rack, key, []byte("x"))
	bring(3 * time.Hour)
	r.advance(2 * time.Hour)
	r.settled()
	if r.state(key) != kmsapi.StateEnabled {
		t.Error("it expired at an end that was moved")
	}
	wantSound(t, r.Rack)
	r.advance(2 * time.Hour)
	r.until("expiry", func() bool { return r.state(key) == kmsapi.StatePendingImport })
	_, err := decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindInvalidState)
	if m := describe(t, r.Rack, key); m.ExpirationModel != 0 || m.ValidTo != 0 || m.CurrentKeyMaterialId == "" {
		t.Errorf("described as %+v", m)
	}
	wantSound(t, r.Rack)
	bring(time.Hour)
	if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestNewMaterial: it waits for its rotation, is forgotten when it is deleted, and
// then the key goes on; once it was current, its loss ends all use.
func TestNewMaterial(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key, first, second := secretKey(t, r), randomBytes(32), randomBytes(32)
	old, err := forever(t, r, key, first, kmsapi.ImportKeyMaterialRequest{KeyMaterialDescription: "one"})
	if err != nil {
		t.Fatal(err)
	}
	blob := encrypt(t, r, key, []byte("x"))
	fresh := kmsapi.ImportKeyMaterialRequest{ImportType: kmsapi.NewKeyMaterial}
	_, err = forever(t, r, key, first, fresh)
	wantKind(t, err, api.KindIncorrectKeyMaterial)
	_, err = forever(t, r, key, second, kmsapi.ImportKeyMaterialRequest{})
	wantKind(t, err, api.KindIncorrectKeyMaterial)
	_, err = forever(t, r, key, first, kmsapi.ImportKeyMaterialRequest{KeyMaterialId: old.KeyMaterialId[:63] + "g"})
	wantKind(t, err, api.KindValidation)
	for range 2 {
		out, err := forever(t, r, key, second, fresh)
		if err != nil {
			t.Fatal(err)
		}
		_, err = forever(t, r, key, randomBytes(32), fresh)
		wantKind(t, err, api.KindInvalidState)
		if _, err := removeMaterial(t, r, key, out.KeyMaterialId); err != nil || describe(t, r, key).KeyState != kmsapi.StateEnabled {
			t.Fatalf("pending material cannot be deleted: %v", err)
		}
	}
	if _, err = forever(t, r, key, second, fresh); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), r.Client, kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(key)}); err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	if out, err := removeMaterial(t, r, key, old.KeyMaterialId); err != nil || out.KeyMaterialId != old.KeyMaterialId || describe(t, r, key).KeyState != kmsapi.StatePendingImport {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := forever(t, r, key, first, kmsapi.ImportKeyMaterialRequest{KeyMaterialId: old.KeyMaterialId}); err != nil || describe(t, r, key).KeyState != kmsapi.StateEnabled {
		t.Errorf("the old material does not come back: %v", err)
	}
	_, err = removeMaterial(t, r, key, string(bytes.Repeat([]byte("0"), 64)))
	wantKind(t, err, api.KindNotFound)
	wantSound(t, r)
}

// TestImportRefusals: what is asked for wrongly, before anything is opened.
func TestImportRefusals(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	key, own, mac := secretKey(t, r), r.CreateKey(), external(t, r, kmsapi.KeySpecHMAC256, kmsapi.UsageGenerateVerifyMac)
	in := func(change func(*kmsapi.ImportKeyMaterialRequest)) kmsapi.ImportKeyMaterialRequest {
		q := kmsapi.ImportKeyMaterialRequest{KeyId: ref(key), ImportToken: []byte{1}, EncryptedKeyMaterial: []byte{1}, ExpirationModel: kmsapi.MaterialDoesNotExpire}
		change(&q)
		return q
	}
	ends := func(after time.Duration) func(*kmsapi.ImportKeyMaterialRequest) {
		return func(q *kmsapi.ImportKeyMaterialRequest) {
			q.ExpirationModel, q.ValidTo = kmsapi.MaterialExpires, api.TimeOf(time.Now().Add(after))
		}
	}
	for name, c := range map[string]struct {
		change func(*kmsapi.ImportKeyMaterialRequest)
		want   api.Kind
	}{
		"no token":            {func(q *kmsapi.ImportKeyMaterialRequest) { q.ImportToken = nil }, api.KindValidation},
		"no material":         {func(q *kmsapi.ImportKeyMaterialRequest) { q.EncryptedKeyMaterial = nil }, api.KindValidation},
		"a long token":        {func(q *kmsapi.ImportKeyMaterialRequest) { q.ImportToken = make([]byte, 6145) }, api.KindValidation},
		"no end":              {func(q *kmsapi.ImportKeyMaterialRequest) { q.ExpirationModel = 0 }, api.KindValidation},
		"an end, and none":    {func(q *kmsapi.ImportKeyMaterialRequest) { q.ValidTo = 1 }, api.KindValidation},
		"an end that is past": {ends(-time.Second), api.KindValidation},
		"an end in 366 days":  {ends(366 * day), api.KindValidation},
		"an end in 364 days":  {ends(364 * day), api.KindInvalidImportToken},
		"new, and an id": {func(q *kmsapi.ImportKeyMaterialRequest) {
			q.ImportType, q.KeyMaterialId = kmsapi.NewKeyMaterial, string(bytes.Repeat([]byte("0"), 64))
		}, api.KindValidation},
		"a key that makes its own": {func(q *kmsapi.ImportKeyMaterialRequest) { q.KeyId = ref(own) }, api.KindUnsupportedOperation},
		"a type of an HMAC key":    {func(q *kmsapi.ImportKeyMaterialRequest) { q.KeyId, q.ImportType = ref(mac), kmsapi.ExistingKeyMaterial }, api.KindUnsupportedOperation},
		"words of an HMAC key":     {func(q *kmsapi.ImportKeyMaterialRequest) { q.KeyId, q.KeyMaterialDescription = ref(mac), "x" }, api.KindUnsupportedOperation},
		"an alias":                 {func(q *kmsapi.ImportKeyMaterialRequest) { q.KeyId = ref("alias/none") }, api.KindNotFound},
		"no parameters":            {func(*kmsapi.ImportKeyMaterialRequest) {}, api.KindInvalidImportToken},
	} {
		q := in(c.change)
		_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &q)
		if api.KindOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	rsaKey := external(t, r, kmsapi.KeySpecRSA2048, signsAndVerifies)
	p521 := external(t, r, kmsapi.KeySpecECCNISTP521, signsAndVerifies)
	for name, q := range map[string]kmsapi.GetParametersForImportRequest{
		"PKCS #1":       {KeyId: ref(key), WrappingAlgorithm: kmsapi.WrapPKCS1V15, WrappingKeySpec: kmsapi.WrappingRSA2048},
		"SM2":           {KeyId: ref(key), WrappingAlgorithm: kmsapi.WrapSM2PKE, WrappingKeySpec: kmsapi.WrappingSM2},
		"a key of SM2":  {KeyId: ref(key), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingSM2},
		"RSA in OAEP":   {KeyId: ref(rsaKey), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingRSA4096},
		"P-521 in OAEP": {KeyId: ref(p521), WrappingAlgorithm: kmsapi.WrapOAEPSHA1, WrappingKeySpec: kmsapi.WrappingRSA2048},
		"its own":       {KeyId: ref(own), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingRSA2048},
	} {
		_, err := client.Do(t.Context(), r.Client, kmsapi.GetParametersForImport, &q)
		if api.KindOf(err) != api.KindUnsupportedOperation {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzImportToken: of all bytes only the token itself opens.
func FuzzImportToken(f *testing.F) {
	token, open := kms.SealedImportToken(f)
	f.Add(token)
	f.Add(token[:len(token)-1])
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := open(b); (err == nil) != slices.Equal(b, token) {
			t.Errorf("%x: %v", b, err)
		}
	})
}
