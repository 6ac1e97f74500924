package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestEditedAppliance edits the store of a whole appliance, beneath the seal: of one that runs, and the file of one
// that is stopped. Each edit is refused at the read that meets it, or at the start; and each would be believed without
// the index, the hash tree and the state root, which is what the second run shows. Not parallel: it switches them off.
func TestEditedAppliance(t *testing.T) {
	for _, unchecked := range []bool{false, true} {
		for _, medium := range []string{"running", "stopped"} {
			for _, a := range edits {
				t.Run(fmt.Sprintf("%s/%s/unchecked=%t", a.name, medium, unchecked), func(t *testing.T) {
					v := newVictim(t, medium == "stopped")
					sealed.SetUnchecked(unchecked)
					defer sealed.SetUnchecked(false)
					started := v.change(t, func(rows map[keystore.Name][]byte) { a.edit(v, rows) })
					v.judge(t, started, a.read, a.believed, unchecked)
				})
			}
		}
	}
}

// edits are what somebody does who can write to the medium, and how it would show that he was believed.
var edits = []struct {
	name     string
	edit     func(v *victim, rows map[keystore.Name][]byte)
	read     func(v *victim) error
	believed error // of the read, when the edit is believed: nil or an api.Error of that kind
}{
	{"replay of a record", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.then, v.key) }, (*victim).encrypt, nil},
	{"record of a diverged copy", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.fork, v.key) }, (*victim).encrypt, nil},
	{"hidden record", func(v *victim, rows map[keystore.Name][]byte) { delete(rows, v.kept) }, (*victim).describeKept, &api.Error{Kind: api.KindNotFound}},
	{"record added again", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.then, v.dropped) }, (*victim).describeDropped, nil},
	{"older bucket row", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.then, v.bucket) }, (*victim).describe, nil},
	{"older bucket row with its record", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.then, v.bucket, v.key) }, (*victim).encrypt, nil},
	{"older state root", func(v *victim, rows map[keystore.Name][]byte) { v.copy(rows, v.then, v.anchor) }, (*victim).describe, nil},
}

// victim is an appliance whose key was disabled and one of whose aliases was deleted, after its rows were copied.
type victim struct {
	*racktest.Rack
	below  keystore.Store // of one that runs in memory; nil = the file
	keyARN string
	then   map[keystore.Name][]byte // the rows before
	fork   map[keystore.Name][]byte // those of a copy in which the key stayed enabled, and was written since

	key, kept, dropped, bucket, anchor keystore.Name

	droppedAlias string
}

// lasting is a store that an appliance does not close.
type lasting struct{ keystore.Store }

func (lasting) Close() error { return nil }

func newVictim(t *testing.T, onDisk bool) *victim {
	t.Helper()
	v := new(victim)
	option := racktest.OnDisk
	if !onDisk {
		v.below = lasting{keystore.NewMemory()}
		option = func(cfg *rack.Config) { cfg.Store = v.below }
	}
	v.Rack = racktest.Start(t, option)
	v.keyARN = v.CreateKey()
	v.alias(t, "alias/kept")
	id := api.ParseKeyRef([]byte(v.keyARN)).ID
	appliance := uuid(v.ID())
	account := racktest.Account.String()
	v.key = keystore.MakeName(keystore.SpaceKey, string(id[:]))
	v.kept = keystore.MakeName(keystore.SpaceAlias, account, "kept")
	v.bucket = v.Appliance.Records().BucketOf(v.key)
	for i := 0; v.dropped == (keystore.Name{}); i++ { // one in the key's bucket, which so keeps its row
		v.droppedAlias = fmt.Sprintf("dropped-%d", i)
		if n := keystore.MakeName(keystore.SpaceAlias, account, v.droppedAlias); v.Appliance.Records().BucketOf(n) == v.bucket {
			v.dropped = n
		}
	}
	v.alias(t, "alias/"+v.droppedAlias)
	v.anchor = keystore.MakeName(keystore.SpaceAnchor, string(appliance[:]))

	v.change(t, func(rows map[keystore.Name][]byte) { v.then = maps.Clone(rows) })
	v.fork = v.diverge(t)
	if err := v.disable(v.Client); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), v.Client, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: "alias/" + v.droppedAlias}); err != nil {
		t.Fatal(err)
	}
	return v
}

// uuid parses the appliance's id, which is written as a key's is.
func uuid(s string) api.KeyID { return api.ParseKeyRef([]byte(s)).ID }

func (v *victim) alias(t *testing.T, name string) {
	t.Helper()
	in := &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: api.ParseKeyRef([]byte(v.keyARN))}
	if _, err := client.Do(t.Context(), v.Client, kmsapi.CreateAlias, in); err != nil {
		t.Fatal(err)
	}
}

// diverge returns the rows of a copy of the appliance that has lived on by itself: its key was disabled and enabled.
func (v *victim) diverge(t *testing.T) map[keystore.Name][]byte {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyrack")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"token", "server.pem"} {
		b, err := os.ReadFile(filepath.Join(v.Dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	below := lasting{keystore.NewMemory()}
	write(t, below, v.then)
	_, token, err := rack.ParseToken("soft", dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := rack.Config{
		Dir: dir, Store: below, Token: token, Principals: v.Principals, AllowUnlockedMemory: true,
		Logger: racktest.Logger(t), AuditFiles: racktest.NewDisk(filepath.Join(dir, "audit")),
	}
	copied, err := rack.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ours := v.Config
	ours.Addr = copied.Addr()
	c := v.NewClient(ours)
	err = errors.Join(v.disable(c), v.enable(c), copied.Close(context.Background()))
	if err != nil {
		t.Fatal(err)
	}
	return read(t, below)
}

func (v *victim) disable(c *client.Client) error {
	_, err := client.Do(context.Background(), c, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: api.ParseKeyRef([]byte(v.keyARN))})
	return err
}

func (v *victim) enable(c *client.Client) error {
	_, err := client.Do(context.Background(), c, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: api.ParseKeyRef([]byte(v.keyARN))})
	return err
}

// change lets f edit the rows beneath the seal. It returns the error of the start that follows, where one does.
func (v *victim) change(t *testing.T, f func(map[keystore.Name][]byte)) error {
	t.Helper()
	edit := func(s keystore.Store) {
		rows := read(t, s)
		before := maps.Clone(rows)
		f(rows)
		for n := range before {
			if _, kept := rows[n]; !kept {
				rows[n] = nil
			} else if bytes.Equal(rows[n], before[n]) {
				delete(rows, n)
			}
		}
		write(t, s, rows)
	}
	if v.below != nil {
		edit(v.below)
		return nil
	}
	return v.TryRestart(func(*rack.Config) {
		s, err := bolt.Open(filepath.Join(v.Dir, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		edit(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// copy puts rows of another time or place among those of now, from which they differ.
func (v *victim) copy(rows, from map[keystore.Name][]byte, names ...keystore.Name) {
	for _, n := range names {
		if from[n] == nil || bytes.Equal(rows[n], from[n]) {
			panic(fmt.Sprintf("%s is the same", n))
		}
		rows[n] = from[n]
	}
}

// judge reads what was edited. started is the error of the start in between.
func (v *victim) judge(t *testing.T, started error, read func(*victim) error, believed error, unchecked bool) {
	t.Helper()
	err := started
	if err == nil {
		err = read(v)
	}
	got, _ := errors.AsType[*api.Error](err)
	want, _ := errors.AsType[*api.Error](believed)
	taken := err == nil && believed == nil || got != nil && want != nil && got.Kind == want.Kind
	refused := errors.Is(started, sealed.ErrSealBroken) || got != nil && got.Kind == api.KindInternal
	switch {
	case unchecked && !taken:
		t.Errorf("without the checks: %v, want it believed (%v): the edit shows nothing", err, believed)
	case !unchecked && (taken || !refused):
		t.Errorf("%v, want it refused", err)
	}
}

func (v *victim) encrypt() error {
	in := &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(v.keyARN)), Plaintext: []byte("x"), EncryptionAlgorithm: kmsapi.SymmetricDefault}
	_, err := client.Do(context.Background(), v.Client, kmsapi.Encrypt, in)
	return err
}

func (v *victim) describe() error        { return v.describeRef(v.keyARN) }
func (v *victim) describeKept() error    { return v.describeRef("alias/kept") }
func (v *victim) describeDropped() error { return v.describeRef("alias/" + v.droppedAlias) }

func (v *victim) describeRef(ref string) error {
	_, err := client.Do(context.Background(), v.Client, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte(ref))})
	return err
}

// read returns all rows of a store beneath the seal.
func read(t *testing.T, s keystore.Store) map[keystore.Name][]byte {
	t.Helper()
	rows := map[keystore.Name][]byte{}
	err := s.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			rows[e.Name] = bytes.Clone(e.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// write writes rows, a few at a time; nil removes one.
func write(t *testing.T, s keystore.Store, rows map[keystore.Name][]byte) {
	t.Helper()
	for n, value := range rows {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
			if value == nil {
				return tx.Delete(n)
			}
			return tx.Put(n, value)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
