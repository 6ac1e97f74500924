package domain_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/keystore"
)

var tokenKeysName = keystore.MakeName(keystore.SpaceTokenKeys)

func tokenKeyName(name string) keystore.Name {
	return keystore.MakeName(keystore.SpaceTokenKey, name)
}

// namedKeys is the sealed row for these names and blobs, from FORMAT.md.
func namedKeys(pairs ...string) []byte {
	b := []byte{1}
	for i := 0; i < len(pairs); i += 2 {
		b = join(b, len(pairs[i]), pairs[i], sum([]byte(pairs[i+1])))
	}
	return b
}

// keyRack has two token keys, in token and store, that its records name.
func keyRack(t *testing.T) *rack {
	t.Helper()
	store, token := keystore.NewMemory(), &liveToken{Provider: newToken(t), live: map[string]bool{}}
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Lock)
	r := &rack{k, store, token, createRecords(t, store, k)}
	if err := k.Bind(t.Context(), r.records, r.tokenKey(t, "chain", hsm.PRFSHA256), r.tokenKey(t, "checkpoint", hsm.SignP256)); err != nil {
		t.Fatal(err)
	}
	r.fill(t)
	return r
}

// tokenKey makes a key in the token.
func (r *rack) tokenKey(t *testing.T, name string, spec hsm.Spec) domain.TokenKey {
	t.Helper()
	key, blob, err := r.token.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	return domain.TokenKey{Name: name, Blob: blob}
}

// blob returns a token key's row.
func (r *rack) blob(t *testing.T, name string) string {
	t.Helper()
	for _, e := range dump(t, r.store) {
		if e.Name == tokenKeyName(name) {
			return string(e.Value)
		}
	}
	t.Fatalf("no row of the token key %q", name)
	return ""
}

// use takes both token keys, as the audit log does before the domain key is open.
func use(t *testing.T, k *domain.Keyring) error {
	t.Helper()
	_, first := k.TokenKey(t.Context(), "chain")
	_, second := k.TokenKey(t.Context(), "checkpoint")
	return errors.Join(first, second)
}

func remove(t *testing.T, store keystore.Store, names ...keystore.Name) {
	t.Helper()
	_, err := store.Update(t.Context(), func(tx keystore.Tx) (err error) {
		for _, n := range names {
			err = errors.Join(err, tx.Delete(n))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sealedRow writes a sealed row, or removes it.
func (r *rack) sealedRow(t *testing.T, name keystore.Name, value []byte) {
	t.Helper()
	_, err := r.records.Update(t.Context(), func(tx keystore.Tx) error {
		if value == nil {
			return tx.Delete(name)
		}
		return tx.Put(name, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Token keys are there while the keyring is locked, and outlive a rotation, which ends the roots alone.
func TestTokenKeysOutliveARotation(t *testing.T) {
	t.Parallel()
	r := keyRack(t)
	for range 2 {
		k := open(t, r.store, r.token)
		for _, name := range []string{"chain", "checkpoint"} {
			blob, err := k.TokenKey(t.Context(), name)
			if err != nil || string(blob) != r.blob(t, name) {
				t.Fatalf("%s: %q, %v", name, blob, err)
			}
			key, err := r.token.Load(t.Context(), blob)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			key.Close()
		}
		if err := errors.Join(k.Unlock(t.Context()), k.Verify(t.Context(), r.records)); err != nil {
			t.Fatal(err)
		}
		r.rotate(t)
		r.finish(t)
	}
	if live := r.token.(*liveToken).blobs(); len(live) != 3 {
		t.Errorf("%d keys in the token, want the root and two others", len(live))
	}
}

// Whoever can write the store's file can put any blob into a token key's row, or take the row away. A start that
// uses it is refused once the records are open, and nothing in the token is destroyed.
func TestTokenKeysAreThoseOfTheRecords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, r *rack)
		row   keystore.Name
		says  string
	}{
		"the root's blob": {func(t *testing.T, r *rack) {
			slots, _ := blobs(t, r.store)
			write(t, r.store, tokenKeyName("chain"), []byte(slots[0]))
		}, tokenKeyName("chain"), "was altered"},
		"another key of the token": {func(t *testing.T, r *rack) {
			write(t, r.store, tokenKeyName("chain"), r.tokenKey(t, "", hsm.PRFSHA256).Blob)
		}, tokenKeyName("chain"), "was altered"},
		"each other's": {func(t *testing.T, r *rack) {
			chain, checkpoint := r.blob(t, "chain"), r.blob(t, "checkpoint")
			write(t, r.store, tokenKeyName("chain"), []byte(checkpoint))
			write(t, r.store, tokenKeyName("checkpoint"), []byte(chain))
		}, tokenKeyName("chain"), "was altered"},
		"removed": {func(t *testing.T, r *rack) { remove(t, r.store, tokenKeyName("checkpoint")) }, tokenKeyName("checkpoint"), "was removed"},
		"one more": {func(t *testing.T, r *rack) {
			write(t, r.store, tokenKeyName("other"), []byte("blob"))
		}, tokenKeyName("other"), "do not name it"},
		"no name": {func(t *testing.T, r *rack) {
			write(t, r.store, keystore.MakeName(keystore.SpaceTokenKey), []byte("blob"))
		}, keystore.MakeName(keystore.SpaceTokenKey), "do not name it"},
		"a root that the records name": {func(t *testing.T, r *rack) {
			slots, _ := blobs(t, r.store)
			write(t, r.store, tokenKeyName("chain"), []byte(slots[0]))
			r.sealedRow(t, tokenKeysName, namedKeys("chain", slots[0], "checkpoint", r.blob(t, "checkpoint")))
		}, tokenKeyName("chain"), "root of a slot"},
		"format 2":  {func(t *testing.T, r *rack) { r.sealedRow(t, tokenKeysName, []byte{2}) }, tokenKeysName, "format 1"},
		"no format": {func(t *testing.T, r *rack) { r.sealedRow(t, tokenKeysName, []byte{}) }, tokenKeysName, "format 1"},
		"disorder": {func(t *testing.T, r *rack) {
			r.sealedRow(t, tokenKeysName, namedKeys("checkpoint", r.blob(t, "checkpoint"), "chain", r.blob(t, "chain")))
		}, tokenKeysName, "format 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := keyRack(t)
			c.spoil(t, r)
			rows, live := dump(t, r.store), r.token.(*liveToken).blobs()
			k := open(t, r.store, r.token)
			if err := k.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
			for what, f := range map[string]func(context.Context, domain.Records) error{"Verify": k.Verify, "Rotate": k.Rotate, "Continue": k.Continue} {
				err := f(t.Context(), r.records)
				names(t, err, c.row)
				if !strings.Contains(err.Error(), c.says) || !errors.Is(err, keystore.ErrDamaged) {
					t.Errorf("%s says %q, want %q", what, err, c.says)
				}
			}
			if !equal(rows, dump(t, r.store)) || len(r.token.(*liveToken).blobs()) != len(live) {
				t.Error("something was written, or made or destroyed in the token")
			}
		})
	}
}

// A row that was another while the keyring was locked, and was put right before Unlock, is met all the same: what
// the log has used is what counts.
func TestTokenKeysThatWerePutBack(t *testing.T) {
	t.Parallel()
	r := keyRack(t)
	chain := r.blob(t, "chain")
	write(t, r.store, tokenKeyName("chain"), r.tokenKey(t, "", hsm.PRFSHA256).Blob)
	k := open(t, r.store, r.token)
	if err := use(t, k); err != nil {
		t.Fatal(err)
	}
	write(t, r.store, tokenKeyName("chain"), []byte(chain))
	names(t, use(t, k), tokenKeyName("chain")) // nor does a second use make it forget the first
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	names(t, k.Verify(t.Context(), r.records), tokenKeyName("chain"))
}

// While the keyring is locked a root is not given out as a token key, whichever slot it is or was the root of.
func TestARootIsNoTokenKey(t *testing.T) {
	t.Parallel()
	r := keyRack(t)
	slots, _ := blobs(t, r.store)
	write(t, r.store, tokenKeyName("chain"), []byte(slots[0]))
	names(t, use(t, open(t, r.store, r.token)), tokenKeyName("chain"))

	c := &crasher{only: "Destroy", at: 1}
	r = keyRack(t)
	if err := crashOnce(t, r, c, func(r *rack, ctx context.Context) error { return r.Rotate(ctx, r.records) }); err == nil {
		t.Fatal("the old root was destroyed")
	}
	_, retired := blobs(t, r.store)
	write(t, r.store, tokenKeyName("checkpoint"), []byte(retired[0]))
	names(t, use(t, open(t, r.store, r.token)), tokenKeyName("checkpoint"))
}

// A row that was removed is damage; one that never came to be, since the making of the store was cut off, is not.
func TestAMissingTokenKeySaysWhy(t *testing.T) {
	t.Parallel()
	r := keyRack(t)
	remove(t, r.store, tokenKeyName("chain"))
	err := use(t, open(t, r.store, r.token))
	if names(t, err, tokenKeyName("chain")); !errors.Is(err, keystore.ErrDamaged) || errors.Is(err, domain.ErrUnfinished) {
		t.Errorf("removed: %v", err)
	}
	k, store, token := create(t)
	createRecords(t, store, k)
	err = use(t, open(t, store, token))
	if names(t, err, tokenKeyName("chain")); errors.Is(err, keystore.ErrDamaged) || !errors.Is(err, domain.ErrUnfinished) {
		t.Errorf("cut off: %v", err)
	}
}

// Records of a version that named no token keys name those that are there at the first Verify, and then no others.
func TestOldRecordsAdoptTokenKeys(t *testing.T) {
	t.Parallel()
	r := keyRack(t)
	want := namedKeys("chain", r.blob(t, "chain"), "checkpoint", r.blob(t, "checkpoint"))
	r.sealedRow(t, tokenKeysName, nil)
	names(t, r.Rotate(t.Context(), r.records), tokenKeysName)
	r = r.reopen(t)
	err := r.records.View(t.Context(), func(reader keystore.Reader) error {
		got, err := reader.Get(tokenKeysName)
		if string(got) != string(want) {
			t.Errorf("the records name %x, want %x", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.store, tokenKeyName("chain"), []byte("another"))
	names(t, r.Verify(t.Context(), r.records), tokenKeyName("chain"))
}

// Bind makes token keys in an empty place alone, and only such as the format has.
func TestBindRefusesTokenKeys(t *testing.T) {
	t.Parallel()
	long := make([]domain.TokenKey, 17)
	for i := range long {
		long[i] = domain.TokenKey{Name: string(rune('a' + i)), Blob: []byte("b")}
	}
	for name, keys := range map[string][]domain.TokenKey{
		"no name": {{Name: "", Blob: []byte("b")}}, "a long name": {{Name: strings.Repeat("n", 65), Blob: []byte("b")}},
		"no blob": {{Name: "a"}}, "a double": {{Name: "a", Blob: []byte("b")}, {Name: "a", Blob: []byte("c")}}, "too many": long,
		"one that is there": {{Name: "there", Blob: []byte("b")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, store, _ := create(t)
			records := createRecords(t, store, k)
			write(t, store, tokenKeyName("there"), []byte("another's"))
			rows := dump(t, store)
			if err := k.Bind(t.Context(), records, keys...); err == nil {
				t.Error("bound")
			}
			if !equal(rows, dump(t, store)) {
				t.Error("something was written")
			}
		})
	}
}
