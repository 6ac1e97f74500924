package kms

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// materialEntry is what a key knows of one of its materials: FORMAT.md, "Materials".
type materialEntry struct {
	ID          []byte                  `cbor:"1,keyasint"`           // KeyMaterialId, 32 bytes
	State       kmsapi.KeyMaterialState `cbor:"2,keyasint"`           //
	Since       api.Time                `cbor:"3,keyasint"`           // when it came to the key
	Rotated     api.Time                `cbor:"4,keyasint,omitempty"` // when a rotation made it current; 0 = none did
	Rotation    kmsapi.RotationType     `cbor:"5,keyasint,omitempty"`
	Description string                  `cbor:"6,keyasint,omitempty"`
	ValidTo     api.Time                `cbor:"7,keyasint,omitempty"` // 0 = it does not expire
	Import      kmsapi.ImportState      `cbor:"8,keyasint,omitempty"` // 0 = it was made here, and stays
}

// here reports whether the row of its secret is there.
func (e *materialEntry) here() bool { return e.Import != kmsapi.PendingImport }

// expires returns the model of imported material's end.
func (e *materialEntry) expires() kmsapi.ExpirationModel {
	if e.ValidTo != 0 {
		return kmsapi.MaterialExpires
	}
	return kmsapi.MaterialDoesNotExpire
}

// opens reports whether there may be ciphertexts of the material: none of one that
// waits for its rotation.
func (e *materialEntry) opens() bool { return e.State <= kmsapi.MaterialNonCurrent }

func (e *materialEntry) short() [4]byte { return [4]byte(e.ID) }

// materials are the entries of a key in the order in which they came. What the
// snapshot of a key has of them is immutable.
type materials []materialEntry

// in returns the one material in a state of which there is at most one, or nil.
func (m materials) in(state kmsapi.KeyMaterialState) *materialEntry {
	return m.first(func(e *materialEntry) bool { return e.State == state })
}

// of returns the material with an id, or nil.
func (m materials) of(id []byte) *materialEntry {
	return m.first(func(e *materialEntry) bool { return bytes.Equal(e.ID, id) })
}

func (m materials) first(is func(*materialEntry) bool) *materialEntry {
	for i := range m {
		if is(&m[i]) {
			return &m[i]
		}
	}
	return nil
}

// whole reports whether everything that the key encrypted can be decrypted: there
// is a current material, and the secret of each one that is not pending.
func (m materials) whole() bool {
	missing := m.first(func(e *materialEntry) bool { return e.opens() && !e.here() })
	return missing == nil && m.in(kmsapi.MaterialCurrent) != nil
}

// materialsRow is the row of a key's materials, FORMAT.md "Materials".
type materialsRow struct {
	Format  uint8     `cbor:"0,keyasint"`
	Entries materials `cbor:"1,keyasint"`
}

const materialsFormat = 1

func materialsName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyMaterials, string(id[:]))
}

// parseMaterialsRow reads a row of materials: one of them is current, at most one is
// pending, and no two have one short id.
func parseMaterialsRow(b []byte) (materials, error) {
	var r materialsRow
	if err := cbor.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("materials row: %w", err)
	}
	if r.Format != materialsFormat || len(r.Entries) == 0 || len(r.Entries) > api.MaxMaterials {
		return nil, fmt.Errorf("materials row has format %d and %d entries, want %d and 1 to %d", r.Format, len(r.Entries), materialsFormat, api.MaxMaterials)
	}
	var in [kmsapi.MaterialPendingRotation + 1]int
	shorts := make(map[[4]byte]bool, len(r.Entries))
	for i := range r.Entries {
		e := &r.Entries[i]
		if len(e.ID) != 32 || e.State == 0 || int(e.State) >= len(in) || e.Rotation > kmsapi.RotationOnDemand || e.Import > kmsapi.PendingImport || shorts[e.short()] {
			return nil, fmt.Errorf("materials row: entry %d is none of a key", i)
		}
		in[e.State]++
		shorts[e.short()] = true
	}
	if in[kmsapi.MaterialCurrent] != 1 || in[kmsapi.MaterialPendingRotation] > 1 {
		return nil, fmt.Errorf("materials row has %d current and %d pending materials", in[kmsapi.MaterialCurrent], in[kmsapi.MaterialPendingRotation])
	}
	return r.Entries, nil
}

// storedMaterials returns the entries of the row that r counts, nil if it counts
// none. A row that is missing or is not that of r is damage, and not the key's
// absence: its error is not keystore.ErrNotFound.
func storedMaterials(from getter, id api.KeyID, r *keyRow) (materials, error) {
	if r.Materials == 0 {
		return nil, nil
	}
	b, err := from.Get(materialsName(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, fmt.Errorf("key %s counts %d materials, and has no row of them", id, r.Materials)
	}
	if err != nil {
		return nil, err
	}
	m, err := parseMaterialsRow(b)
	if err == nil && (len(m) != int(r.Materials) || !bytes.Equal(m.in(kmsapi.MaterialCurrent).ID, r.Current)) {
		err = fmt.Errorf("key %s counts %d materials with %x as the current one: its row has %d, and %x", id, r.Materials, r.Current, len(m), m.in(kmsapi.MaterialCurrent).ID)
	}
	return m, err
}

// materialsOf is storedMaterials for whoever changes or lists them: it returns the
// one material of a key that has no such row, and none of a key that has none.
func materialsOf(from getter, id api.KeyID, r *keyRow) (materials, error) {
	m, err := storedMaterials(from, id, r)
	if err != nil || m != nil || len(r.Current) == 0 {
		return m, err
	}
	return materials{{ID: r.Current, State: kmsapi.MaterialCurrent, Since: r.Created}}, nil
}

// putMaterials writes the entries of a key beside its row r, which it makes say the
// same: their number, which is current, when the first expires, with the piece of work that
// it is, and in what state the key is, if it is not
// to be deleted. The caller writes r in the same transaction.
func putMaterials(tx keystore.Tx, id api.KeyID, r *keyRow, m materials) error {
	r.Materials = uint16(len(m))
	r.Current = m.in(kmsapi.MaterialCurrent).ID
	switch whole := m.whole(); {
	case whole && r.State == kmsapi.StatePendingImport:
		r.State = kmsapi.StateEnabled
	case !whole && switchedStates&(1<<r.State) != 0:
		r.State = kmsapi.StatePendingImport
	}
	if err := r.reschedule(tx, id, m.expiry()); err != nil {
		return err
	}
	b, err := cbor.Marshal(&materialsRow{Format: materialsFormat, Entries: m})
	if err != nil {
		return err
	}
	return tx.Put(materialsName(id), b)
}

// errShortTaken says that another material of the key has the first bytes of an id
// that ciphertexts carry: whoever draws draws again, whoever imports is refused.
var errShortTaken = errors.New("another material of the key has the same short id")

// addMaterial gives a key one more material in the transaction that changes its row
// r: e says which, and whether it is the current one or, where no other waits yet,
// the pending one. A key's first material is current at once. Of what was current
// before everything can still be decrypted. It returns errShortTaken, LimitExceeded,
// or what the store says.
func addMaterial(tx keystore.Tx, id api.KeyID, r *keyRow, e materialEntry, secret []byte) error {
	m, err := materialsOf(tx, id, r)
	if err != nil {
		return err
	}
	if m.first(func(old *materialEntry) bool { return old.short() == e.short() }) != nil {
		return errShortTaken
	}
	if len(m) >= api.MaxMaterials {
		return api.Errorf(api.KindLimitExceeded, "key %s has %d key materials, and no key may have more", id, len(m))
	}
	if len(m) == 0 {
		e.State = kmsapi.MaterialCurrent
	}
	m = append(m.superseded(e.State), e)
	if err := putMaterial(tx, id, r.Spec, e.ID, secret); err != nil {
		return err
	}
	return putMaterials(tx, id, r, m)
}

// superseded returns the entries once a material comes to a state: what was current
// is not any more if another one is.
func (m materials) superseded(by kmsapi.KeyMaterialState) materials {
	m = slices.Clone(m)
	if was := m.in(kmsapi.MaterialCurrent); was != nil && by == kmsapi.MaterialCurrent {
		was.State = kmsapi.MaterialNonCurrent
	}
	return m
}

// restoreMaterial writes the secret of a material that the key has an entry of
// already, in the transaction that changes its row r, and what change makes of the entry.
func restoreMaterial(tx keystore.Tx, id api.KeyID, r *keyRow, material, secret []byte, change func(*materialEntry)) error {
	m, err := materialsOf(tx, id, r)
	if err != nil {
		return err
	}
	m = slices.Clone(m)
	e := m.of(material)
	if e == nil {
		return fmt.Errorf("key %s has no material %x", id, material)
	}
	e.Import = kmsapi.Imported
	change(e)
	if err := putMaterial(tx, id, r.Spec, material, secret); err != nil {
		return err
	}
	return putMaterials(tx, id, r, m)
}

// removeMaterial removes the secret of an imported material in the transaction that
// changes the key's row r. The key waits for it from then on; one that was pending
// is forgotten, and another one may be imported in its place (AWS KMS developer
// guide, "Delete imported key material"). Removing what is not there does nothing.
// Copies of the data folder hold it until it is shredded: now is from when on.
func removeMaterial(tx keystore.Tx, id api.KeyID, r *keyRow, material []byte, now api.Time) error {
	m, err := materialsOf(tx, id, r)
	if err != nil {
		return err
	}
	m = slices.Clone(m)
	e := m.of(material)
	if e == nil || !e.here() {
		return nil
	}
	e.Import = kmsapi.PendingImport
	m = slices.DeleteFunc(m, func(e materialEntry) bool { return !e.opens() && !e.here() })
	if err := errors.Join(tx.Delete(materialName(id, material)), buryMaterial(tx, id, material, now)); err != nil {
		return err
	}
	return putMaterials(tx, id, r, m)
}

// putMaterial writes the row of a secret.
func putMaterial(tx keystore.Tx, id api.KeyID, spec kmsapi.KeySpec, material, secret []byte) error {
	value, err := securemem.New(1 + len(secret))
	if err != nil {
		return err
	}
	defer value.Free()
	value.Bytes()[0] = byte(spec)
	copy(value.Bytes()[1:], secret)
	return tx.Put(materialName(id, material), value.Bytes())
}
