package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	keysFormat      = 1
	maxTokenKeys    = 16
	maxTokenKeyName = 64
)

// Reasons why a row of a token key, or the row that names them all, is refused.
var (
	errKeysForm    = damage("not a list of token keys of format 1")
	errKeysUnknown = damage("the records name no token keys")
	errKeyRemoved  = damage("was removed")
	errKeyAltered  = damage("was altered: the records name another")
	errKeyUnnamed  = damage("the records do not name it")
	errKeyIsRoot   = damage("names the root of a slot: a root does nothing but open slots")
	errKeyChanged  = damage("was another when it was used, before the domain key was opened")
)

// ErrUnfinished is wrapped by TokenKey for a key whose row is not there in a store that holds no record yet: its
// making was cut off. Where there are records, the row was removed, which wraps keystore.ErrDamaged.
var ErrUnfinished = errors.New("domain: the making of the appliance was cut off")

// TokenKey is by what the token finds a key of the appliance that is no root, such as those of the audit log, which
// it needs while it is locked, too.
type TokenKey struct {
	Name string // 1 to 64 bytes
	Blob []byte // no secret; not empty
}

// tokenKeyName returns the name of a token key's row, whose value is the blob.
func tokenKeyName(name string) keystore.Name {
	return keystore.MakeName(keystore.SpaceTokenKey, name)
}

// tokenKeysName returns the name of the sealed row that names all token keys.
func tokenKeysName() keystore.Name { return keystore.MakeName(keystore.SpaceTokenKeys) }

// ownKeys is the token keys by name, and what the records name of each: the SHA-256 of its row.
type ownKeys map[string][sha256.Size]byte

// encode returns the sealed row. One set of keys has one encoding.
func (o ownKeys) encode() []byte {
	b := []byte{keysFormat}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		sum := o[name]
		b = append(append(b, byte(len(name))), name...)
		b = append(b, sum[:]...)
	}
	return b
}

// parseOwnKeys decodes exactly what encode writes.
func parseOwnKeys(row []byte) (ownKeys, error) {
	if len(row) < 1 || row[0] != keysFormat {
		return nil, errKeysForm
	}
	all, last := ownKeys{}, ""
	for rest := row[1:]; len(rest) > 0; {
		n := int(rest[0])
		if n < 1 || n > maxTokenKeyName || len(rest) < 1+n+sha256.Size || len(all) == maxTokenKeys {
			return nil, errKeysForm
		}
		name := string(rest[1 : 1+n])
		if name <= last {
			return nil, errKeysForm
		}
		all[name], last = [sha256.Size]byte(rest[1+n:]), name
		rest = rest[1+n+sha256.Size:]
	}
	return all, nil
}

// digests returns what the records should name.
func digests(keys []TokenKey) (ownKeys, error) {
	all := ownKeys{}
	for _, k := range keys {
		if _, double := all[k.Name]; double || len(k.Name) < 1 || len(k.Name) > maxTokenKeyName || len(k.Blob) < 1 || len(all) == maxTokenKeys {
			return nil, fmt.Errorf("domain: token key %q cannot be stored", k.Name)
		}
		all[k.Name] = digest(k.Blob)
	}
	return all, nil
}

// TokenKey returns the blob of a token key, which is the caller's, also while the keyring is locked. What it returns
// then is the store's word alone; Verify refuses if it is not what the records name. It returns a RowError for a row that is
// not there (see ErrUnfinished), names the root of a slot, or is another than before, or what the store said.
func (k *Keyring) TokenKey(ctx context.Context, name string) (blob []byte, err error) {
	leave, err := k.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	err = k.store.View(ctx, func(r keystore.Reader) error {
		row, err := r.Get(tokenKeyName(name))
		if errors.Is(err, keystore.ErrNotFound) {
			return missing(r, name)
		}
		if err != nil {
			return err
		}
		blob = bytes.Clone(row)
		return refuseRoot(r, name, blob)
	})
	if err != nil {
		return nil, err
	}
	if k.used == nil {
		k.used = ownKeys{}
	}
	now := digest(blob)
	if was, before := k.used[name]; before && was != now { // it must not be forgotten by asking again
		return nil, &RowError{tokenKeyName(name), errKeyChanged}
	}
	k.used[name] = now
	return blob, nil
}

// missing returns why the row of a token key is not there.
func missing(r keystore.Reader, name string) error {
	for _, err := range r.Scan(keystore.Range(keystore.SpaceBucket)) {
		if err != nil {
			return err
		}
		return &RowError{tokenKeyName(name), errKeyRemoved}
	}
	return &RowError{tokenKeyName(name), ErrUnfinished}
}

// refuseRoot refuses a token key that is the root of a slot or a retired one, as the rows stand. Those that are
// malformed say nothing here: Unlock names them.
func refuseRoot(r keystore.Reader, name string, blob []byte) error {
	found, err := readStored(r)
	if err != nil {
		return err
	}
	for _, e := range found.slots {
		if s, err := parseSlot(e.Name, e.Value); err == nil && bytes.Equal(s.root.blob, blob) {
			return &RowError{tokenKeyName(name), errKeyIsRoot}
		}
	}
	for _, e := range found.retired {
		if old, err := parseRetired(e.Name, e.Value); err == nil && bytes.Equal(old.root.blob, blob) {
			return &RowError{tokenKeyName(name), errKeyIsRoot}
		}
	}
	return nil
}

// bindKeys writes the token keys of a new store, and the sealed row that names them.
func bindKeys(sealed, raw keystore.Tx, keys []TokenKey, named ownKeys) error {
	for _, key := range keys {
		switch _, err := raw.Get(tokenKeyName(key.Name)); {
		case err == nil:
			return &RowError{tokenKeyName(key.Name), errKeyUnnamed}
		case !errors.Is(err, keystore.ErrNotFound):
			return err
		}
		if err := raw.Put(tokenKeyName(key.Name), key.Blob); err != nil {
			return err
		}
	}
	return sealed.Put(tokenKeysName(), named.encode())
}

// storedKeys returns the token keys as the store has them.
func (k *Keyring) storedKeys(ctx context.Context) (keys []TokenKey, err error) {
	err = k.store.View(ctx, func(r keystore.Reader) error {
		rows, err := scan(r, keystore.SpaceTokenKey, maxTokenKeys)
		keys = nil
		for _, e := range rows {
			c := e.Name.Components()
			if len(c) != 1 {
				return &RowError{e.Name, errKeyUnnamed}
			}
			keys = append(keys, TokenKey{c[0], e.Value})
		}
		return err
	})
	return keys, err
}

// compareKeys checks the token keys of the store, and those that were used before Unlock, against the sealed row or
// the error of reading it, and that none is a root: neither may serve, or be destroyed, in the place of the other.
func (k *Keyring) compareKeys(now *keys, stored []TokenKey, row []byte, err error) error {
	if errors.Is(err, keystore.ErrNotFound) {
		return &RowError{tokenKeysName(), errKeysUnknown}
	}
	if err != nil {
		return err
	}
	named, err := parseOwnKeys(row)
	if err != nil {
		return &RowError{tokenKeysName(), err}
	}
	there := map[string]bool{}
	for _, key := range stored {
		there[key.Name] = true
		switch want, known := named[key.Name]; {
		case !known:
			return &RowError{tokenKeyName(key.Name), errKeyUnnamed}
		case digest(key.Blob) != want:
			return &RowError{tokenKeyName(key.Name), errKeyAltered}
		case now.hasRoot(key.Blob):
			return &RowError{tokenKeyName(key.Name), errKeyIsRoot}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if used, was := k.used[name]; was && used != named[name] {
			return &RowError{tokenKeyName(name), errKeyChanged}
		}
		if !there[name] {
			return &RowError{tokenKeyName(name), errKeyRemoved}
		}
	}
	return nil
}

// hasRoot reports whether blob is that of a root in use, or of one that is to be destroyed.
func (s *state) hasRoot(blob []byte) bool {
	return slices.ContainsFunc(s.slots, func(s *slot) bool { return bytes.Equal(s.root.blob, blob) }) ||
		slices.ContainsFunc(s.retired, func(r *retiredRoot) bool { return bytes.Equal(r.root.blob, blob) })
}

// adoptKeys has the records name the token keys of a store that was made before they did. Nobody but the keyring can
// make it so that they do not: a sealed row that was removed is refused as damage.
func (k *Keyring) adoptKeys(ctx context.Context, r Records) error {
	stored, err := k.storedKeys(ctx)
	if err != nil {
		return err
	}
	named, err := digests(stored)
	if err != nil {
		return err
	}
	_, err = r.UpdateBoth(ctx, func(sealed, _ keystore.Tx) error {
		if _, err := sealed.Get(tokenKeysName()); !errors.Is(err, keystore.ErrNotFound) {
			return err
		}
		return sealed.Put(tokenKeysName(), named.encode())
	})
	return err
}
