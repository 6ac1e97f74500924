package kms_test

import (
	"maps"
	"reflect"
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
)

// startLate starts an appliance that sees what is due when it is woken, and not by itself.
func startLate(tb testing.TB, options ...func(*rack.Config)) *timed {
	tb.Helper()
	c, advance, set := clock.NewTestWall(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	options = append(options, func(cfg *rack.Config) { cfg.Clock, cfg.DueEvery = c, time.Hour })
	return &timed{Rack: racktest.Start(tb, options...), tb: tb, advance: advance, set: set, clock: c}
}

// until1h is how material is imported that ends in an hour.
func (r *timed) until1h() kmsapi.ImportKeyMaterialRequest {
	return kmsapi.ImportKeyMaterialRequest{ExpirationModel: kmsapi.MaterialExpires, ValidTo: api.TimeOf(r.clock.Now().Add(time.Hour))}
}

// TestNothingIsDoneWithMaterialThatIsOver by any operation, though what is due has not been looked at.
func TestNothingIsDoneWithMaterialThatIsOver(t *testing.T) {
	t.Parallel()
	r := startLate(t)
	d := newDesk(r.Rack)
	over := map[string]*tried{}
	for _, name := range slices.Sorted(maps.Keys(tries)) {
		try := tries[name]
		if outcomes(t, name)[0] == outcomes(t, name)[4] || outcomes(t, name)[4] == "7" {
			continue
		}
		try = try.ofImported(r.until1h())
		over[name] = newTried(t, d, strings.ReplaceAll(name, " ", "-"), &try)
	}
	if len(over) < 20 {
		t.Fatalf("only %d operations are tried", len(over))
	}
	r.advance(time.Hour - time.Microsecond)
	for _, f := range over {
		if state := r.state(f.arn); state != kmsapi.StateEnabled {
			t.Fatalf("before its end a key is %s", state)
		}
	}
	r.advance(time.Microsecond)
	for name, f := range over {
		try := tries[name]
		op, in := try.request(f)
		if err := d.serve(t, rootOf(racktest.Account), op, in); err == nil || !strings.HasPrefix(err.Error(), strings.Replace(footnotes["5"], "%s", f.arn, 1)) {
			t.Errorf("%s: %v", name, err)
		}
		if state := r.state(f.arn); state != kmsapi.StatePendingImport {
			t.Errorf("%s: the key is %s", name, state)
		}
	}
}

// TestAKeyNeedsAllItsMaterials until the end of the first: also those that are not current, and not the one that waits. It
// is the same whether or not what is due was done, before and behind a restart.
func TestAKeyNeedsAllItsMaterials(t *testing.T) {
	t.Parallel()
	r := startLate(t, racktest.OnDisk)
	key, first := secretKey(t, r.Rack), randomBytes(32)
	old, err := importMaterial(t, r.Rack, key, first, r.until1h())
	if err != nil {
		t.Fatal(err)
	}
	blobs := [][]byte{encrypt(t, r.Rack, key, []byte("x"))}
	if _, err := forever(t, r.Rack, key, randomBytes(32), kmsapi.ImportKeyMaterialRequest{ImportType: kmsapi.NewKeyMaterial}); err != nil {
		t.Fatal(err)
	}
	mustRotate(t, r.Rack, key)
	blobs = append(blobs, encrypt(t, r.Rack, key, []byte("x")))
	waits := r.until1h()
	waits.ImportType, waits.ValidTo = kmsapi.NewKeyMaterial, waits.ValidTo-api.Time(30*time.Minute/time.Microsecond)
	if _, err := importMaterial(t, r.Rack, key, randomBytes(32), waits); err != nil {
		t.Fatal(err)
	}
	opens := func(want api.Kind) {
		t.Helper()
		for _, blob := range blobs {
			_, err := decrypt(t, r.Client, blob)
			wantKind(t, err, want)
		}
	}
	r.advance(45 * time.Minute)
	opens(api.KindNone)
	wantKind(t, rotate(t, r.Client, key), api.KindInvalidState)
	r.advance(15 * time.Minute)
	late := describe(t, r.Rack, key)
	if late.KeyState != kmsapi.StatePendingImport || late.Enabled || late.ExpirationModel != kmsapi.MaterialDoesNotExpire {
		t.Errorf("described as %+v", late)
	}
	opens(api.KindInvalidState)
	r.Restart(nil)
	opens(api.KindInvalidState)
	r.settled()
	opens(api.KindInvalidState)
	if m := describe(t, r.Rack, key); !reflect.DeepEqual(m, late) {
		t.Errorf("described as %+v, before what was due was done %+v", m, late)
	}
	wantSound(t, r.Rack)
	if _, err := forever(t, r.Rack, key, first, kmsapi.ImportKeyMaterialRequest{KeyMaterialId: old.KeyMaterialId}); err != nil {
		t.Fatal(err)
	}
	opens(api.KindNone)
}

// TestALateKeyTakesItsMaterialAgain, and is not switched before.
func TestALateKeyTakesItsMaterialAgain(t *testing.T) {
	t.Parallel()
	r := startLate(t)
	key, secret := secretKey(t, r.Rack), randomBytes(32)
	if _, err := importMaterial(t, r.Rack, key, secret, r.until1h()); err != nil {
		t.Fatal(err)
	}
	blob := encrypt(t, r.Rack, key, []byte("x"))
	for range 2 {
		r.advance(time.Hour)
		_, err := decrypt(t, r.Client, blob)
		wantKind(t, err, api.KindInvalidState)
		_, err = client.Do(t.Context(), r.Client, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(key)})
		wantKind(t, err, api.KindInvalidState)
		if _, err := importMaterial(t, r.Rack, key, secret, r.until1h()); err != nil {
			t.Fatal(err)
		}
		if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != "x" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	r.doom(key)
	r.advance(2 * time.Hour)
	if state := r.state(key); state != kmsapi.StatePendingDeletion {
		t.Errorf("a key that is to be deleted is %s once its material is over", state)
	}
}

// TestEndsGoByAcceptedTime: a clock that jumped ahead ends no material, and one that is set back keeps none.
func TestEndsGoByAcceptedTime(t *testing.T) {
	t.Parallel()
	r := startLate(t)
	begun := r.clock.Now()
	key := secretKey(t, r.Rack)
	if _, err := importMaterial(t, r.Rack, key, randomBytes(32), r.until1h()); err != nil {
		t.Fatal(err)
	}
	blob := encrypt(t, r.Rack, key, []byte("x"))
	r.set(begun.Add(100 * day))
	if _, err := decrypt(t, r.Client, blob); err != nil {
		t.Errorf("a clock that jumped has ended the material: %v", err)
	}
	r.set(begun.Add(-100 * day))
	if _, err := decrypt(t, r.Client, blob); err != nil {
		t.Errorf("a clock that was set back has ended the material: %v", err)
	}
	r.advance(time.Hour)
	_, err := decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindInvalidState)
	r.set(begun)
	_, err = decrypt(t, r.Client, blob)
	wantKind(t, err, api.KindInvalidState)
}

// TestImportsGoByAcceptedTime: while the clock says a time that is not believed, tokens end, and material may end, as if it did not.
func TestImportsGoByAcceptedTime(t *testing.T) {
	t.Parallel()
	r := startLate(t)
	const a = kmsapi.WrapOAEPSHA256
	begun := r.clock.Now()
	key, secret := secretKey(t, r.Rack), randomBytes(32)
	try := func(p *kmsapi.GetParametersForImportResponse, end time.Time) error {
		_, err := client.Do(t.Context(), r.Client, kmsapi.ImportKeyMaterial, &kmsapi.ImportKeyMaterialRequest{
			KeyId: ref(key), ImportToken: p.ImportToken, EncryptedKeyMaterial: wrap(t, a, p.PublicKey, secret), ExpirationModel: kmsapi.MaterialExpires, ValidTo: api.TimeOf(end)})
		return err
	}
	p := parameters(t, r.Rack, key, a, kmsapi.WrappingRSA2048)
	r.set(begun.Add(100 * day))
	wantKind(t, try(p, begun), api.KindValidation)
	wantKind(t, try(p, begun.Add(365*day+time.Second)), api.KindValidation)
	if err := try(p, begun.Add(50*day)); err != nil {
		t.Errorf("a token of today: %v", err)
	}
	p = parameters(t, r.Rack, key, a, kmsapi.WrappingRSA2048)
	if got, want := p.ParametersValidTo.Time(), begun.Add(api.ImportParametersLife); !got.Equal(want) {
		t.Errorf("parameters that were asked for under a clock that jumped are good until %s, want %s", got, want)
	}
	r.set(begun)
	r.advance(25 * time.Hour)
	wantKind(t, try(p, begun.Add(50*day)), api.KindExpiredImportToken)
	if all, _ := rotations(t, r.Client, key, kmsapi.AllKeyMaterial, 0); len(all) != 1 || all[0].ValidTo != api.TimeOf(begun.Add(50*day)) {
		t.Errorf("listed as %+v", all)
	}
}

// TestMaterialThatEndsCostsNoAllocation where it is used, before its end.
func TestMaterialThatEndsCostsNoAllocation(t *testing.T) {
	r := startLate(t)
	key := secretKey(t, r.Rack)
	if _, err := importMaterial(t, r.Rack, key, randomBytes(32), r.until1h()); err != nil {
		t.Fatal(err)
	}
	d := newDesk(r.Rack)
	body := kmsapi.Encrypt.In.AppendCBOR(nil, &kmsapi.EncryptRequest{KeyId: ref(key), Plaintext: make(api.Secret, 32)})
	encrypt(t, r.Rack, key, []byte("x"))
	s := r.Gate().Session(t.Context(), identity.Always(rootOf(racktest.Account)), "test")
	defer s.Close()
	serve := func() {
		if class := d.routes[kmsapi.Encrypt.Op].Serve(s.Call(1), protocol.Native{}, body); class != work.None {
			t.Fatalf("Encrypt yields for %s", class)
		}
	}
	serve()
	flush := func() {
		held := s.Flush(false)
		held.Release()
	}
	if n := racktest.Allocs(60, serve, flush); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}
