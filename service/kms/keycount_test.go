package kms_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
	"github.com/keyrack/keyrack/service/kms"
)

func keyCountName(a api.AccountID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyCount, string(a[:]))
}

// setCount writes the row that counts an account's keys; 0 removes it.
func setCount(t *testing.T, r *racktest.Rack, a api.AccountID, n uint64) {
	t.Helper()
	_, err := kms.Rows(r.KMS()).Update(t.Context(), func(tx keystore.Tx) error {
		if n == 0 {
			return tx.Delete(keyCountName(a))
		}
		return tx.Put(keyCountName(a), binary.BigEndian.AppendUint64(nil, n))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantCount checks that row; 0 is none.
func wantCount(t *testing.T, r *racktest.Rack, a api.AccountID, want uint64) {
	t.Helper()
	var got uint64
	err := kms.Rows(r.KMS()).View(t.Context(), func(reader keystore.Reader) error {
		b, err := reader.Get(keyCountName(a))
		if errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		if len(b) == 8 {
			got = binary.BigEndian.Uint64(b)
		}
		return err
	})
	if err != nil || got != want {
		t.Errorf("account %s counts %d keys, want %d; %v", a, got, want, err)
	}
}

func create(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := client.Do(t.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	return err
}

// TestKeysOfAnAccountAreLimited lets an account have AWS's 100,000 keys and not one more; others go on.
func TestKeysOfAnAccountAreLimited(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	wantCount(t, r, racktest.Account, 0)
	arn := r.CreateKey()
	wantCount(t, r, racktest.Account, 1)
	setCount(t, r, racktest.Account, api.MaxKeys-1)
	for i, want := range []api.Kind{api.KindNone, api.KindLimitExceeded, api.KindLimitExceeded} {
		if err := create(t, r.Client); api.KindOf(err) != want {
			t.Errorf("key %d: got %v, want %v", api.MaxKeys+i, err, want)
		}
		wantCount(t, r, racktest.Account, api.MaxKeys)
	}
	if err := create(t, r.Stranger); err != nil {
		t.Errorf("another account: %v", err)
	}
	wantCount(t, r, racktest.Other, 1)
	if _, err := decrypt(t, r.Client, encrypt(t, r, arn, []byte("x"))); err != nil {
		t.Errorf("the keys that are there: %v", err)
	}
	out, err := client.Do(t.Context(), r.Client, kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
	if err != nil || len(out.Keys) != 2 {
		t.Errorf("%d keys are listed, %v; the refused ones left rows", len(out.Keys), err)
	}
}

// TestKeysOfAnOldAccountAreCounted counts the keys of an account that has no count with its next ones, of which several are
// made at a time.
func TestKeysOfAnOldAccountAreCounted(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	for range 5 {
		r.CreateKey()
	}
	setCount(t, r, racktest.Account, 0)
	r.Restart(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := create(t, r.Client); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantCount(t, r, racktest.Account, 13)
	wantProblems(t, problems(t, r), nil)
	setCount(t, r, racktest.Account, 0) // of an account that had one: nobody but damage does so
	if err := create(t, r.Client); api.KindOf(err) == api.KindNone {
		t.Error("a key was made without a count")
	}
	wantCount(t, r, racktest.Account, 0)
}

// FuzzKeyCount: only the eight bytes of a number are a count.
func FuzzKeyCount(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(make([]byte, 8))
	f.Add(make([]byte, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := kms.ParseCount(b)
		if err == nil && string(binary.BigEndian.AppendUint64(nil, n)) != string(b) {
			t.Errorf("%x is read as %d", b, n)
		}
	})
}
