package kms_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestMaterialsExpireTogether: each is deleted, and no work is left behind.
func TestMaterialsExpireTogether(t *testing.T) {
	t.Parallel()
	r := startTimed(t)
	key := secretKey(t, r.Rack)
	in := kmsapi.ImportKeyMaterialRequest{ExpirationModel: kmsapi.MaterialExpires, ValidTo: api.TimeOf(r.clock.Now().Add(time.Hour))}
	for range 2 {
		if _, err := importMaterial(t, r.Rack, key, randomBytes(32), in); err != nil {
			t.Fatal(err)
		}
		in.ImportType = kmsapi.NewKeyMaterial
	}
	r.advance(2 * time.Hour)
	r.until("expiry", func() bool { return r.state(key) == kmsapi.StatePendingImport })
	r.settled()
	wantSound(t, r.Rack)
	in.ValidTo = api.TimeOf(r.clock.Now().Add(time.Hour))
	if _, err := importMaterial(t, r.Rack, key, randomBytes(32), in); err != nil {
		t.Errorf("the material that waited is still there: %v", err)
	}
}

// TestImportsAreCut at every use of the store: the key has the material whole, or not
// at all, and takes it then.
func TestImportsAreCut(t *testing.T) {
	t.Parallel()
	for n, whole := 1, false; !whole; n++ {
		if whole = importCutAt(t, n); t.Failed() {
			t.Fatalf("cut at use %d of the store", n)
		}
	}
}

func importCutAt(t *testing.T, n int) (whole bool) {
	t.Helper()
	below, life := keystore.NewMemory(), racktest.NewPower(1<<30)
	var dead, never atomic.Bool
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = cutStore{below, life, &dead} })
	key, secret := secretKey(t, r), randomBytes(32)
	once := r.Config
	once.Retries = -1
	c := r.NewClient(once)
	p := parameters(t, r, key, kmsapi.WrapOAEPSHA256, kmsapi.WrappingRSA2048)
	in := &kmsapi.ImportKeyMaterialRequest{KeyId: ref(key), ImportToken: p.ImportToken, EncryptedKeyMaterial: wrap(t, kmsapi.WrapOAEPSHA256, p.PublicKey, secret), ExpirationModel: kmsapi.MaterialDoesNotExpire}
	life.Last(n)
	_, err := client.Do(t.Context(), c, kmsapi.ImportKeyMaterial, in)
	life.Off()
	r.Restart(func(cfg *rack.Config) { cfg.Store = cutStore{below, racktest.NewPower(1 << 30), &never} })
	wantSound(t, r)
	if state := describe(t, r, key).KeyState; err == nil && state != kmsapi.StateEnabled {
		t.Errorf("an import that was answered is %s", state)
	}
	if _, again := forever(t, r, key, secret, kmsapi.ImportKeyMaterialRequest{}); again != nil {
		t.Errorf("the material does not come in again: %v", again)
	}
	return err == nil
}
