package rack_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"github.com/keyrack/keyrack/protocol/client"
)

// keys is how many keys TestRotateUnderLoad has; more take longer to wrap anew.
var keys = flag.Int("keys", 500, "how many keys TestRotateUnderLoad creates")

// TestRotateUnderLoad rotates the domain key while clients encrypt, decrypt and create. No request fails. Afterwards the
// store from before does not open with the token, and the slot from before is refused in the store of now.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arns := createKeys(t, r, *keys)
	store := filepath.Join(r.Dir, "store.db")
	before := store + ".before"
	r.Restart(func(*rack.Config) { copyFile(t, store, before) })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var calls atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n += 8 {
				if err := use(r.Client, arns[n*7919%len(arns)], n%50 == 0); err != nil {
					t.Errorf("during the rotation: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	begin := time.Now()
	took := rotate(t, r)
	stop()
	wg.Wait()
	t.Logf("%d keys: rotated in %v, wrapped anew in %v, beside %d calls", len(arns), took, time.Since(begin), calls.Load())

	if err := r.TryRestart(func(*rack.Config) { copyFile(t, store, store+".now"); copyFile(t, before, store) }); !errors.Is(err, domain.ErrNoSlot) {
		t.Errorf("the store from before the rotation, with the token: %v", err)
	}
	row, ok := errors.AsType[*domain.RowError](r.TryRestart(func(*rack.Config) { copyFile(t, store+".now", store); addOldSlots(t, before, store) }))
	if !ok || row.Row.Space() != keystore.SpaceSlot {
		t.Errorf("the slot from before the rotation, in the store of now: %v", row)
	}
	r.Restart(func(*rack.Config) { copyFile(t, store+".now", store) })
	for _, arn := range arns[:min(len(arns), 100)] {
		if err := use(r.Client, arn, false); err != nil {
			t.Fatalf("after the rotation: %v", err)
		}
	}
}

// createKeys creates n keys, many at once.
func createKeys(t *testing.T, r *racktest.Rack, n int) []string {
	t.Helper()
	arns := make([]string, n)
	var wg sync.WaitGroup
	const at = 64
	for i := range at {
		wg.Go(func() {
			for j := i; j < n; j += at {
				out, err := client.Do(t.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
				if err != nil {
					t.Errorf("create a key: %v", err)
					return
				}
				arns[j] = out.KeyMetadata.Arn
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return arns
}

// use encrypts and decrypts under a key, and creates one besides.
func use(c *client.Client, arn string, create bool) error {
	ctx := context.Background()
	out, err := client.Do(ctx, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(arn)), Plaintext: []byte(arn), EncryptionAlgorithm: kmsapi.SymmetricDefault})
	if err != nil {
		return err
	}
	opened, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: out.CiphertextBlob, EncryptionAlgorithm: kmsapi.SymmetricDefault})
	if err == nil && string(opened.Plaintext) != arn {
		err = fmt.Errorf("decrypted %q", opened.Plaintext)
	}
	if err == nil && create {
		_, err = client.Do(ctx, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	}
	return err
}

// rotate rotates the domain key and waits until the older version is gone. It returns how long the first part took.
func rotate(t *testing.T, r *racktest.Rack) (took time.Duration) {
	t.Helper()
	begin := time.Now()
	out, err := client.Do(t.Context(), r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
	if err != nil || out.Version != 2 {
		t.Fatalf("rotate: %+v, %v", out, err)
	}
	took = time.Since(begin)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		s, err := client.Do(ctx, r.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err != nil {
			t.Fatalf("the rotation does not end: %v", err)
		}
		if !s.Rotating {
			return took
		}
		<-poll.C
	}
}

// addOldSlots puts the slots of a store from before into one of now.
func addOldSlots(t *testing.T, before, now string) {
	t.Helper()
	slots := map[keystore.Name][]byte{}
	with(t, before, func(s keystore.Store) error {
		return s.View(t.Context(), func(r keystore.Reader) error {
			for e, err := range r.Scan(keystore.Range(keystore.SpaceSlot)) {
				if err != nil {
					return err
				}
				slots[e.Name] = bytes.Clone(e.Value)
			}
			return nil
		})
	})
	with(t, now, func(s keystore.Store) error {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
			for n, row := range slots {
				if err := tx.Put(n, row); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
}

// with runs f over a store's file.
func with(t *testing.T, path string, f func(keystore.Store) error) {
	t.Helper()
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f(s), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
