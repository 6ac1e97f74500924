package rack_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// chainName is the row by which the token finds the key of the audit log's MACs.
var chainName = keystore.MakeName(keystore.SpaceTokenKey, "chain")

// TestPlantedTokenKey puts other blobs into the row of a log's key, with the appliance stopped. No start
// goes on with it, locked or not; the token keeps every key, and the row put right makes all as it was.
func TestPlantedTokenKey(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	arn := r.CreateKey()
	r.Restart(nil) // so that checkpoints cover the log
	store := filepath.Join(r.Dir, "store.db")
	r.Stop()
	good := rowOf(t, store, chainName)
	token := fileOf(t, filepath.Join(r.Dir, "token"))
	for name, c := range map[string]struct {
		value []byte
		says  string
	}{
		"the root's":    {rootBlob(t, store), "root of a slot"},
		"another of it": {another(t, r), "another"},
		"the other's":   {rowOf(t, store, keystore.MakeName(keystore.SpaceTokenKey, "checkpoint")), "another key of the token"},
		"none":          {nil, "was removed"},
	} {
		for _, locked := range []bool{false, true} {
			setRow(t, store, chainName, c.value)
			err := r.TryRestart(func(cfg *rack.Config) { cfg.Locked = locked })
			if err == nil { // what is found only with the domain key
				_, err = client.Do(t.Context(), r.Operator, applianceapi.Unlock, &applianceapi.UnlockRequest{})
				if locked != (err != nil) {
					t.Errorf("%s: began with locked=%t, unlocks with %v", name, locked, err)
				}
			} else if !errors.Is(err, keystore.ErrDamaged) || !strings.Contains(err.Error(), c.says) || errors.Is(err, domain.ErrUnfinished) {
				t.Errorf("%s, locked=%t: %v", name, locked, err)
			}
			r.Stop()
		}
	}
	setRow(t, store, chainName, good)
	if err := os.WriteFile(filepath.Join(r.Dir, "token"), token, 0o600); err != nil { // without the keys that this test has added
		t.Fatal(err)
	}
	r.Restart(func(cfg *rack.Config) { cfg.Locked = false })
	if err := use(r.Client, arn, false); err != nil {
		t.Errorf("with the row put right: %v", err)
	}
	rotate(t, r)
	r.Restart(nil)
	r.Verify()
}

// another makes one more key in the token of a stopped appliance, and returns its blob.
func another(t *testing.T, r *racktest.Rack) []byte {
	t.Helper()
	_, open, err := rack.ParseToken("soft", r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	token, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	key, blob, err := token.Generate(t.Context(), hsm.PRFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	return blob
}

func fileOf(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rowOf returns a row of a store's file.
func rowOf(t *testing.T, path string, name keystore.Name) (row []byte) {
	t.Helper()
	with(t, path, func(s keystore.Store) error {
		return s.View(t.Context(), func(r keystore.Reader) error {
			b, err := r.Get(name)
			row = bytes.Clone(b)
			return err
		})
	})
	return row
}

// setRow writes a row of a store's file, or removes it.
func setRow(t *testing.T, path string, name keystore.Name, value []byte) {
	t.Helper()
	with(t, path, func(s keystore.Store) error {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
			if value == nil {
				return tx.Delete(name)
			}
			return tx.Put(name, value)
		})
		return err
	})
}

// rootBlob returns the blob in the one slot of a store's file, domain/FORMAT.md.
func rootBlob(t *testing.T, path string) (blob []byte) {
	t.Helper()
	with(t, path, func(s keystore.Store) error {
		return s.View(t.Context(), func(r keystore.Reader) error {
			for e, err := range r.Scan(keystore.Range(keystore.SpaceSlot)) {
				if err != nil {
					return err
				}
				p := e.Value[72 : len(e.Value)-60]
				blob = bytes.Clone(p[1+int(p[0]):])
			}
			return nil
		})
	})
	return blob
}
