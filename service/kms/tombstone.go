package kms

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// tombstone is what stays of a key: FORMAT.md, "Tombstone".
type tombstone struct {
	Format    uint8            `cbor:"0,keyasint"`
	Account   string           `cbor:"1,keyasint"`
	Spec      kmsapi.KeySpec   `cbor:"2,keyasint"`
	Usage     kmsapi.KeyUsage  `cbor:"3,keyasint"`
	Origin    kmsapi.KeyOrigin `cbor:"4,keyasint"`
	Created   api.Time         `cbor:"5,keyasint"`
	Scheduled api.Time         `cbor:"6,keyasint"`
	By        string           `cbor:"7,keyasint"`            // ARN of who asked
	Date      api.Time         `cbor:"8,keyasint"`            // that was promised
	Materials [][]byte         `cbor:"9,keyasint"`            // ids, in the order in which they came
	Aliases   uint16           `cbor:"10,keyasint"`           // that went with it
	Deleted   api.Time         `cbor:"11,keyasint,omitempty"` // 0 = the destruction goes on
	Shredded  api.Time         `cbor:"12,keyasint,omitempty"` // 0 = copies of the folder may still hold it
}

const tombstoneFormat = 1

func tombstoneName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceTombstone, string(id[:]))
}

func parseTombstone(b []byte) (t tombstone, err error) {
	if err := cbor.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("tombstone row: %w", err)
	}
	if t.Format != tombstoneFormat || len(t.Materials) > api.MaxMaterials || t.Deleted == 0 && t.Shredded != 0 {
		return t, fmt.Errorf("tombstone row has format %d and %d materials", t.Format, len(t.Materials))
	}
	for _, m := range t.Materials {
		if len(m) != 32 {
			return t, fmt.Errorf("tombstone row has a material id of %d bytes", len(m))
		}
	}
	return t, nil
}

func putTombstone(tx keystore.Tx, id api.KeyID, t *tombstone) error {
	b, err := cbor.Marshal(t)
	if err != nil {
		return err
	}
	return tx.Put(tombstoneName(id), b)
}

func readTombstone(from getter, id api.KeyID) (t tombstone, err error) {
	b, err := from.Get(tombstoneName(id))
	if err != nil {
		return t, err
	}
	return parseTombstone(b)
}

// bury writes the tombstone of a key whose destruction begins: afterwards its materials are not
// known any more.
func (s *Service) bury(tx keystore.Tx, id api.KeyID, row *keyRow) error {
	m, err := materialsOf(tx, id, row)
	if err != nil {
		return err
	}
	t := tombstone{
		Format: tombstoneFormat, Account: row.Account, Spec: row.Spec, Usage: row.Usage, Origin: row.Origin, Created: row.Created,
		Scheduled: row.Doom.Scheduled, By: row.Doom.By, Date: row.Deletion, Aliases: row.Aliases, Materials: [][]byte{},
	}
	for i := range m {
		t.Materials = append(t.Materials, m[i].ID)
	}
	return putTombstone(tx, id, &t)
}

// closeTomb notes in the transaction that ends a key that it is done, and returns the event.
func (s *Service) closeTomb(tx keystore.Tx, w *dueWork, account api.AccountID) (*access.Event, error) {
	t, err := readTombstone(tx, w.key)
	if errors.Is(err, keystore.ErrNotFound) {
		err = fmt.Errorf("key %s has no tombstone: %w", w.key, keystore.ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	t.Deleted = max(1, w.now)
	if err := errors.Join(putTombstone(tx, w.key, &t), changeUnshredded(tx, 1, t.Deleted)); err != nil {
		return nil, err
	}
	details := &kmsapi.DeleteKeyEvent{
		KeyId: w.key.String(), Materials: int64(len(t.Materials)), ScheduledBy: t.By, ScheduledDate: t.Scheduled, DeletionDate: t.Date, Aliases: int64(t.Aliases),
	}
	const shown = 100
	for _, m := range t.Materials[max(0, len(t.Materials)-shown):] {
		details.KeyMaterialIds = append(details.KeyMaterialIds, hex.EncodeToString(m))
	}
	return &access.Event{Op: kmsapi.DeleteKey.Op, Account: account, Resource: s.realm.KeyARN(account, w.key, w.key.Multi()), Details: details}, nil
}

// goneName returns the name of the row that says that the secret of an imported material was deleted.
func goneName(id api.KeyID, material []byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceTombstone, string(id[:]), string(material))
}

// buryMaterial notes, in the transaction that deletes the secret of a material whose key stays, that copies of the data folder
// still hold it. One that was brought back and is deleted again is still one.
func buryMaterial(tx keystore.Tx, id api.KeyID, material []byte, now api.Time) error {
	_, err := tx.Get(goneName(id, material))
	if errors.Is(err, keystore.ErrNotFound) {
		err = changeUnshredded(tx, 1, now)
	}
	if err != nil {
		return err
	}
	return tx.Put(goneName(id, material), binary.BigEndian.AppendUint64(nil, uint64(now)))
}

// unshredded counts the tombstones whose keys copies of the data folder may still hold, and the materials that were
// deleted by themselves: their row has no component. since is when the first of them was destroyed.
type unshredded struct {
	n     uint64
	since api.Time
}

func unshreddedName() keystore.Name { return keystore.MakeName(keystore.SpaceTombstone) }

// readUnshredded reads that row; without one there are none.
func readUnshredded(from getter) (u unshredded, err error) {
	b, err := from.Get(unshreddedName())
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return u, nil
	case err != nil:
		return u, err
	}
	return parseUnshredded(b)
}

func parseUnshredded(b []byte) (u unshredded, err error) {
	if len(b) != 16 || binary.BigEndian.Uint64(b) == 0 {
		return u, fmt.Errorf("count of tombstones has %d bytes: %w", len(b), keystore.ErrDamaged)
	}
	return unshredded{binary.BigEndian.Uint64(b), api.Time(binary.BigEndian.Uint64(b[8:]))}, nil
}

// changeUnshredded counts more of them, or fewer.
func changeUnshredded(tx keystore.Tx, more int, now api.Time) error {
	u, err := readUnshredded(tx)
	if err != nil {
		return err
	}
	if more < 0 && u.n < uint64(-more) {
		return fmt.Errorf("%s counts %d tombstones, and there are %d: %w", unshreddedName(), u.n, -more, keystore.ErrDamaged)
	}
	if u.n == 0 {
		u.since = now
	}
	if u.n += uint64(more); u.n == 0 {
		return tx.Delete(unshreddedName())
	}
	return tx.Put(unshreddedName(), binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, u.n), uint64(u.since)))
}
