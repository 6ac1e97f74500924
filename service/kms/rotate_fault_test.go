package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

// TestRotationsAreCut at every transaction, before it and behind it: what was
// acknowledged decrypts, the rows agree, and each rotation has one record.
func TestRotationsAreCut(t *testing.T) {
	t.Parallel()
	for n, whole := 1, false; !whole; n++ {
		whole = rotationsCutAt(t, n)
		if t.Failed() {
			t.Fatalf("cut at use %d of the store", n)
		}
	}
}

func rotationsCutAt(t *testing.T, n int) (whole bool) {
	t.Helper()
	below, life := keystore.NewMemory(), racktest.NewPower(1<<30)
	var dead, never atomic.Bool
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = cutStore{below, life, &dead} })
	arn := r.CreateKey()
	once := r.Config
	once.Retries = -1
	c := r.NewClient(once)
	blobs, rotated, tried := [][]byte{encrypt(t, r, arn, []byte("0"))}, 0, 0
	life.Last(n)
	for whole = true; tried < 3 && whole; {
		tried++
		if whole = rotate(t, c, arn) == nil; !whole {
			break
		}
		rotated++
		out, err := client.Do(t.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: []byte(fmt.Sprint(tried))})
		if whole = err == nil; whole {
			blobs = append(blobs, out.CiphertextBlob)
		}
	}
	life.Off()
	r.Restart(func(cfg *rack.Config) { cfg.Store = cutStore{below, racktest.NewPower(1 << 30), &never} })
	wantSound(t, r)
	for i, blob := range blobs {
		if got, err := decrypt(t, r.Client, blob); err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("ciphertext %d decrypts to %q, %v", i, got, err)
		}
	}
	made, _ := rotations(t, r.Client, arn, 0, 0)
	if len(made) < rotated || len(made) > tried {
		t.Errorf("%d rotations are made, %d were answered, of %d", len(made), rotated, tried)
	}
	records := 0
	for _, rec := range r.Records() {
		if rec.Op == kmsapi.RotateKeyOnDemand.Number && rec.Error == 0 {
			records++
		}
	}
	if records != len(made) {
		t.Errorf("%d rotations, and %d records of them", len(made), records)
	}
	mustRotate(t, r, arn)
	return whole
}

// TestAnAutomaticRotationIsCut at every transaction: it is made once in the end.
func TestAnAutomaticRotationIsCut(t *testing.T) {
	t.Parallel()
	for n, whole := 1, false; !whole; n++ {
		whole = automaticCutAt(t, n)
		if t.Failed() {
			t.Fatalf("cut at use %d of the store", n)
		}
	}
}

func automaticCutAt(t *testing.T, n int) (whole bool) {
	t.Helper()
	below, life := keystore.NewMemory(), racktest.NewPower(1<<30)
	var dead, never atomic.Bool
	c := newCalendar(t, func(cfg *rack.Config) { cfg.Store = cutStore{below, life, &dead} })
	arn := c.CreateKey()
	blob := encrypt(t, c.Rack, arn, []byte("x"))
	if err := rotateEvery(t, c.Client, arn, 90); err != nil {
		t.Fatal(err)
	}
	life.Last(n)
	c.later(90 * day)
	for deadline := time.Now().Add(time.Minute); !dead.Load() && !whole; {
		status, err := rotationStatus(t, c.Client, arn)
		whole = err == nil && status.NextRotationDate.Time().After(c.clk.Now())
		if time.Now().After(deadline) {
			t.Fatal("neither cut nor rotated")
		}
	}
	whole = whole && !dead.Load()
	life.Off()
	c.Restart(func(cfg *rack.Config) { cfg.Store = cutStore{below, racktest.NewPower(1 << 30), &never} })
	wantSound(t, c.Rack)
	acceptClock(t, c.Rack) // the process did not live to keep its time
	c.KMS().WakeDue()
	c.rotatedTimes(arn, 1)
	c.settle()
	c.rotatedTimes(arn, 1)
	if got, err := decrypt(t, c.Client, blob); err != nil || string(got) != "x" {
		t.Errorf("it decrypts to %q, %v", got, err)
	}
	wantRecordsOfRotations(t, c.Rack, arn)
	wantSound(t, c.Rack)
	return whole
}

// wornStore is a store whose medium loses a bit of each new row of material while it is worn.
type wornStore struct {
	keystore.Store
	worn *atomic.Bool
	bad  *sync.Map // keystore.Name: rows that are damaged
}

func (w wornStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	return w.Store.Update(ctx, func(tx keystore.Tx) error { return f(wornTx{tx, w}) })
}

func (w wornStore) View(ctx context.Context, f func(keystore.Reader) error) error {
	return w.Store.View(ctx, func(r keystore.Reader) error { return f(wornReader{r, w}) })
}

type wornTx struct {
	keystore.Tx
	w wornStore
}

func (t wornTx) Put(n keystore.Name, value []byte) error {
	if n.Space() == keystore.SpaceMaterial && t.w.worn.Load() {
		t.w.bad.Store(n, true)
	}
	return t.Tx.Put(n, value)
}

type wornReader struct {
	keystore.Reader
	w wornStore
}

func (r wornReader) Get(n keystore.Name) ([]byte, error) {
	b, err := r.Reader.Get(n)
	if _, bad := r.w.bad.Load(n); bad && err == nil {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
	}
	return b, err
}

// TestARotationThatIsNotProved: the medium has not what was written. The key goes on with
// the material of before, and the next rotation works.
func TestARotationThatIsNotProved(t *testing.T) {
	t.Parallel()
	var worn atomic.Bool
	c := newCalendar(t, func(cfg *rack.Config) { cfg.Store = wornStore{keystore.NewMemory(), &worn, new(sync.Map)} })
	for name, turn := range map[string]func(t *testing.T, arn string){
		"on demand": func(t *testing.T, arn string) {
			_, err := ask(t, newDesk(c.Rack), rootOf(racktest.Account), kmsapi.RotateKeyOnDemand, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(arn)})
			wantKind(t, err, api.KindInternal)
		},
		"automatic": func(t *testing.T, arn string) {
			kms.SetDue(t, c.KMS(), keyID(t, arn), 90, api.TimeOf(c.clk.Now()))
			c.KMS().WakeDue()
			c.backAgain(t, arn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			arn := c.CreateKey()
			blob, first := encrypt(t, c.Rack, arn, []byte("x")), describe(t, c.Rack, arn).CurrentKeyMaterialId
			worn.Store(true)
			turn(t, arn)
			worn.Store(false)
			if got := describe(t, c.Rack, arn).CurrentKeyMaterialId; got != first {
				t.Errorf("the material is %s, want %s", got, first)
			}
			wantDecrypts(t, c.Rack, blob, "x", first)
			wantDecrypts(t, c.Rack, encrypt(t, c.Rack, arn, []byte("y")), "y", first)
			next := mustRotate(t, c.Rack, arn)
			wantDecrypts(t, c.Rack, encrypt(t, c.Rack, arn, []byte("z")), "z", next)
			wantDecrypts(t, c.Rack, blob, "x", first)
		})
	}
}

// backAgain waits until a key was rotated and has its first material again. In between it
// cannot be used.
func (c *calendar) backAgain(tb testing.TB, arn string) {
	tb.Helper()
	in := &kmsapi.ListKeyRotationsRequest{KeyId: ref(arn), IncludeKeyMaterial: kmsapi.AllKeyMaterial}
	for deadline := time.Now().Add(time.Minute); ; {
		out, err := client.Do(tb.Context(), c.Client, kmsapi.ListKeyRotations, in)
		if err == nil && len(out.Rotations) == 2 && out.Rotations[0].KeyMaterialState == kmsapi.MaterialCurrent {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("the materials are %+v, %v", out, err)
		}
	}
}

// TestDamagedPastMaterial: a bit that flips in memory is found before anybody is told
// that the ciphertext is bad, and the sealed copy serves the next call; one that
// flipped in the store leaves the other materials as they are.
func TestDamagedPastMaterial(t *testing.T) {
	t.Parallel()
	clk, advance := clock.NewTest(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Clock = clk })
	arn := r.CreateKey()
	id, first := keyID(t, arn), describe(t, r, arn).CurrentKeyMaterialId
	blob := encrypt(t, r, arn, []byte("x"))
	second := mustRotate(t, r, arn)
	newer := encrypt(t, r, arn, []byte("y"))
	in := &kmsapi.DecryptRequest{CiphertextBlob: blob}
	for _, bit := range []int{0, 255} {
		wantDecrypts(t, r, blob, "x", first)
		kms.FlipPastBit(t, r.KMS(), id, bit)
		advance(api.MessageKeyLife)
		_, err := ask(t, newDesk(r), rootOf(racktest.Account), kmsapi.Decrypt, in) // no client, which would try again
		wantKind(t, err, api.KindKeyUnavailable)
		wantDecrypts(t, r, blob, "x", first)
	}
	bad := append([]byte{byte(kmsapi.KeySpecSymmetricDefault)}, newSecret(t)...)
	if _, err := kms.Rows(r.KMS()).Update(t.Context(), func(tx keystore.Tx) error {
		return tx.Put(keystore.MakeName(keystore.SpaceMaterial, string(id[:]), unhex(t, first)), bad)
	}); err != nil {
		t.Fatal(err)
	}
	_, err := ask(t, newDesk(r), rootOf(racktest.Account), kmsapi.Decrypt, in)
	wantKind(t, err, api.KindInternal)
	wantDecrypts(t, r, newer, "y", second)
	wantDecrypts(t, r, encrypt(t, r, arn, []byte("z")), "z", second)
	wantProblems(t, problems(t, r), []string{"does not give its id"})
}

// TestPastMaterialsAreBounded: no more are in memory than is allowed, and every
// ciphertext decrypts all the same.
func TestPastMaterialsAreBounded(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	kms.BoundPasts(r.KMS(), 3)
	arn := r.CreateKey()
	blobs := map[string][]byte{}
	for range 8 {
		blobs[describe(t, r, arn).CurrentKeyMaterialId] = encrypt(t, r, arn, []byte("x"))
		mustRotate(t, r, arn)
	}
	for range 3 {
		for by, blob := range blobs {
			wantDecrypts(t, r, blob, "x", by)
			if n := kms.Pasts(r.KMS(), keyID(t, arn)); n < 1 || n > 3 {
				t.Fatalf("%d materials are in memory, want 1 to 3", n)
			}
		}
	}
}

// TestRotationUnderLoad: while others encrypt and decrypt over their connections, each
// answer is right, and from the answer of a rotation on nobody encrypts under what was current before.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	arn := r.CreateKey()
	blob := encrypt(t, r, arn, []byte("x"))
	var retired sync.Map // KeyMaterialId -> which rotation ended its use
	var ended atomic.Int64
	load := r.Load(t, r.Config, 3,
		func(ctx context.Context, c *client.Client) error {
			before := ended.Load()
			out, err := client.Do(ctx, c, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: ref(arn), KeySpec: kmsapi.AES256})
			if err != nil {
				return err
			}
			if at, ok := retired.Load(out.KeyMaterialId); ok && at.(int64) <= before {
				return fmt.Errorf("material %s was used after rotation %d", out.KeyMaterialId, before)
			}
			back, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob})
			if err == nil && (!bytes.Equal(back.Plaintext, out.Plaintext) || back.KeyMaterialId != out.KeyMaterialId) {
				err = errors.New("a data key decrypts to another one")
			}
			return err
		},
		func(ctx context.Context, c *client.Client) error {
			out, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: blob})
			if err == nil && string(out.Plaintext) != "x" {
				err = fmt.Errorf("the first ciphertext decrypts to %q", out.Plaintext)
			}
			return err
		})
	for n := int64(1); n <= 8; n++ {
		load.Change("rotation", func() error {
			was := describe(t, r, arn).CurrentKeyMaterialId
			err := rotate(t, r.Client, arn)
			retired.Store(was, n)
			ended.Store(n)
			return err
		}, api.KindNone)
	}
	load.Stop()
	wantSound(t, r)
}
