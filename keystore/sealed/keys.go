package sealed

import (
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// keySize is the length of every key here, in bytes.
const keySize = 32

// versionKeys are the keys that come from one version of the domain key, 32 bytes each, in locked
// memory. All but users is immutable.
type versionKeys struct {
	number   uint32
	slot     int               // 0 or 1: where the hash tree counts the rows of this version
	wrapping *securemem.Buffer // seals bucket rows and the name key
	state    *securemem.Buffer // makes digests and state roots

	// users counts the keysets in use that hold these keys; at 0 they are wiped. It is guarded by
	// the ledger's mu.
	users int
}

// deriveFunc is what [Keys] does for one version of the domain key.
type deriveFunc func(out []byte, label seal.Label, context []byte) error

// newVersionKeys derives the keys of a version. They have no user yet.
func newVersionKeys(number uint32, slot int, appliance [16]byte, derive deriveFunc) (*versionKeys, error) {
	k := &versionKeys{number: number, slot: slot}
	var err error
	if k.wrapping, err = derived(derive, seal.LabelBucket, appliance); err != nil {
		return nil, err
	}
	if k.state, err = derived(derive, seal.LabelState, appliance); err != nil {
		k.free()
		return nil, err
	}
	return k, nil
}

// derived returns a key of the appliance.
func derived(derive deriveFunc, label seal.Label, appliance [16]byte) (*securemem.Buffer, error) {
	key, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	if err := derive(key.Bytes(), label, appliance[:]); err != nil {
		key.Free()
		return nil, err
	}
	return key, nil
}

func (k *versionKeys) free() {
	k.wrapping.Free()
	k.state.Free()
}

// keyset is the keys of the versions of the domain key that rows are sealed under: one, or two in
// ascending order while a rotation is under way. It does not change; each version of the store has
// the keyset that it was written with, so that a snapshot from before the end of a rotation can be
// read to its end.
type keyset []*versionKeys

// newKeyset derives the keys of the versions that keys has, which is asked once. It returns
// keystore.ErrLocked when there is none, the error of keys, or securemem's. The caller frees the
// result unless a ledger comes to hold it.
func newKeyset(keys Keys, appliance [16]byte) (all keyset, err error) {
	versions := keys.Versions()
	if len(versions) == 0 {
		return nil, fmt.Errorf("keystore/sealed: %w", keystore.ErrLocked)
	}
	if n := len(versions); n > 2 || n == 2 && versions[0] >= versions[1] {
		return nil, fmt.Errorf("keystore/sealed: versions %d of the domain key, want one, or two ascending", versions)
	}
	for slot, number := range versions {
		k, err := newVersionKeys(number, slot, appliance, func(out []byte, label seal.Label, context []byte) error {
			return keys.Derive(out, number, label, context)
		})
		if err != nil {
			all.free()
			return nil, err
		}
		all = append(all, k)
	}
	return all, nil
}

func (k keyset) free() {
	for _, version := range k {
		version.free()
	}
}

// newest returns the keys that everything is sealed under from now on.
func (k keyset) newest() *versionKeys { return k[len(k)-1] }

// older returns the keys of the version before the newest, nil while no rotation is under way.
func (k keyset) older() *versionKeys {
	if len(k) < 2 {
		return nil
	}
	return k[0]
}

// of returns the keys of a version, nil where it is not held.
func (k keyset) of(number uint32) *versionKeys {
	if i := slices.IndexFunc(k, func(v *versionKeys) bool { return v.number == number }); i >= 0 {
		return k[i]
	}
	return nil
}

// numbers returns the versions, ascending.
func (k keyset) numbers() []uint32 {
	all := make([]uint32, len(k))
	for i, version := range k {
		all[i] = version.number
	}
	return all
}

// hold counts delta users of the keys, and wipes those that nobody uses any more. The caller holds
// the ledger's mu.
func (k keyset) hold(delta int) {
	for _, version := range k {
		if version.users += delta; version.users == 0 {
			version.free()
		}
	}
}

// nameKeyName returns the name of the row that keeps the name key.
func nameKeyName() keystore.Name { return keystore.MakeName(keystore.SpaceNameKey) }

// sealNameKey returns the row of the name key, sealed with k.
func (k *versionKeys) sealNameKey(appliance [16]byte, key []byte) ([]byte, error) {
	return k.wrap(nil, appliance, 0, nameKeyName(), key)
}

// openNameKey returns the name key of a stored row. It must be sealed under the newest version: a
// row of the older one could not be opened when the rotation has ended.
func (k *versionKeys) openNameKey(appliance [16]byte, row []byte) (*securemem.Buffer, error) {
	if len(row) != keySize+seal.RecordOverhead {
		return nil, broken(nameKeyName(), "has not the length of a key")
	}
	key, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	if _, err := k.unwrap(key.Bytes()[:0], appliance, 0, nameKeyName(), row); err != nil {
		key.Free()
		return nil, broken(nameKeyName(), fmt.Sprintf("does not open under version %d of the domain key", k.number))
	}
	return key, nil
}

// wrap appends to dst the record of one of this package's own rows, sealed with the wrapping key: a
// bucket row, or the name key, whose bucket is 0. The full name is bound too, so neither opens in
// the other's place.
func (k *versionKeys) wrap(dst []byte, appliance [16]byte, bucket uint16, n keystore.Name, plaintext []byte) ([]byte, error) {
	place := seal.Place{Appliance: appliance, Bucket: bucket, Number: k.number}
	return seal.SealRecord(dst, k.wrapping.Bytes(), place, n.Append(nil), plaintext)
}

// unwrap appends to dst what wrap sealed, or returns seal.ErrOpen.
func (k *versionKeys) unwrap(dst []byte, appliance [16]byte, bucket uint16, n keystore.Name, row []byte) ([]byte, error) {
	place := seal.Place{Appliance: appliance, Bucket: bucket, Number: k.number}
	return seal.OpenRecord(dst, k.wrapping.Bytes(), place, n.Append(nil), row)
}

// random fills b.
func random(b []byte) { _, _ = rand.Read(b) } // never fails: it ends the program rather than return an error
