package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	tableFormat   = 1
	maxSlots      = 32
	tableHeadSize = 1 + 16 + 8 + 4 + 1
	entrySize     = 16 + sha256.Size
)

// Reasons why a row is refused once the table is read.
var (
	errTableForm  = errors.New("not a slot table of format 1")
	errTableMAC   = errors.New("not authentic: the table was altered, or belongs to other slots")
	errAppliance  = errors.New("belongs to another appliance")
	errNotListed  = errors.New("not in the slot table")
	errMissing    = errors.New("in the slot table, but not in the store")
	errSlotDigest = errors.New("differs from what the slot table says")
	errOtherKind  = errors.New("made by a token of another kind")
	errManySlots  = fmt.Errorf("more than %d slots", maxSlots)
)

// table lists all slots. Its MAC makes them one authentic whole: without it, whoever can write to the store could plant a slot of his
// own and wait until the next domain key is wrapped for it.
type table struct {
	appliance [16]byte
	sequence  uint64  // one more with each change
	slots     []entry // in ascending order of ids
}

// entry is a slot in the table.
type entry struct {
	id     slotID
	digest [sha256.Size]byte // of the slot's row
}

// tableName returns the name of the table's row.
func tableName() keystore.Name { return keystore.MakeName(keystore.SpaceSlotTable) }

// digest is what the table holds of a slot: of the whole row, so that no field is left out.
func digest(row []byte) [sha256.Size]byte { return sha256.Sum256(row) }

// seal returns the table's row, authenticated under the domain key.
func (t *table) seal(key []byte) ([]byte, error) {
	row := append(make([]byte, 0, tableHeadSize+len(t.slots)*entrySize+sha256.Size), tableFormat)
	row = append(row, t.appliance[:]...)
	row = binary.BigEndian.AppendUint64(row, t.sequence)
	row = binary.BigEndian.AppendUint32(row, version)
	row = append(row, byte(len(t.slots)))
	for _, e := range t.slots {
		row = append(row, e.id[:]...)
		row = append(row, e.digest[:]...)
	}
	return appendMAC(row, key, t.appliance, row)
}

// appendMAC appends the table's HMAC of body to dst. Its key is derived for this use alone: the domain key is only ever a KDF key.
func appendMAC(dst, key []byte, appliance [16]byte, body []byte) ([]byte, error) {
	derived, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	defer derived.Free()
	seal.KDF(derived.Bytes(), key, seal.LabelSlotTable, appliance[:])
	return seal.MAC(dst, derived.Bytes(), body), nil
}

// parseTable decodes a table row, whose MAC it does not check. It accepts only what seal writes; until the MAC is checked, nothing
// follows from the result but what an error says.
func parseTable(row []byte) (t table, err error) {
	refused := &RowError{tableName(), errTableForm}
	if len(row) < tableHeadSize || row[0] != tableFormat || binary.BigEndian.Uint32(row[25:]) != version {
		return table{}, refused
	}
	n := int(row[29])
	if n < 1 || n > maxSlots || len(row) != tableHeadSize+n*entrySize+sha256.Size {
		return table{}, refused
	}
	t = table{appliance: [16]byte(row[1:]), sequence: binary.BigEndian.Uint64(row[17:])}
	for at := tableHeadSize; at < tableHeadSize+n*entrySize; at += entrySize {
		e := entry{slotID(row[at:]), [sha256.Size]byte(row[at+16:])}
		if last := len(t.slots) - 1; last >= 0 && bytes.Compare(t.slots[last].id[:], e.id[:]) >= 0 {
			return table{}, refused
		}
		t.slots = append(t.slots, e)
	}
	if t.sequence < 1 {
		return table{}, refused
	}
	return t, nil
}

// rows are the stored rows of a domain, copied out of one snapshot.
type rows struct {
	table []byte // nil when there is none
	slots []slotRow
}

type slotRow struct {
	name keystore.Name
	row  []byte
}

// readRows returns the table and all slots. It reads at most maxSlots of them, however many there are.
func readRows(r keystore.Reader) (found rows, err error) {
	t, err := r.Get(tableName())
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return rows{}, err
	}
	if err == nil {
		found.table = append([]byte{}, t...)
	}
	lo, hi := keystore.Range(keystore.SpaceSlot)
	for e, err := range r.Scan(lo, hi) {
		if err != nil {
			return rows{}, err
		}
		if len(found.slots) == maxSlots {
			return rows{}, &RowError{e.Name, errManySlots}
		}
		found.slots = append(found.slots, slotRow{e.Name, append([]byte{}, e.Value...)})
	}
	return found, nil
}

// read returns the domain key that the stored rows give with the token, after it has authenticated all of them. It copies the rows out
// first: a token may take seconds, and a View should not.
func (k *Keyring) read(ctx context.Context) (*securemem.Buffer, error) {
	var found rows
	err := k.store.View(ctx, func(r keystore.Reader) (err error) {
		found, err = readRows(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	if found.table == nil {
		return nil, ErrNotCreated
	}
	t, err := parseTable(found.table)
	if err != nil {
		return nil, err
	}
	slots, err := found.parse()
	if err != nil {
		return nil, err
	}
	key, err := k.unwrapAny(ctx, t, slots)
	if err != nil {
		return nil, err
	}
	if err := k.authenticate(key.Bytes(), found, t, slots); err != nil {
		key.Free()
		return nil, err
	}
	return key, nil
}

// parse decodes every slot row; one that is malformed is refused, whether it is needed or not.
func (f rows) parse() ([]*slot, error) {
	slots := make([]*slot, len(f.slots))
	for i, s := range f.slots {
		var err error
		if slots[i], err = parseSlot(s.name, s.row); err != nil {
			return nil, &RowError{s.name, err}
		}
	}
	return slots, nil
}

// unwrapAny returns the domain key of the first slot of this token. Slots of other tokens are passed over; any other failure ends the
// attempt, so that an altered slot is reported and not papered over by the next, and a token is not asked in a loop.
func (k *Keyring) unwrapAny(ctx context.Context, t table, slots []*slot) (*securemem.Buffer, error) {
	others := []error{ErrNoSlot}
	kind := k.token.Describe().Kind
	for _, s := range slots {
		if s.kind != kind {
			others = append(others, &RowError{slotName(s.id), errOtherKind})
			continue
		}
		key, err := s.unwrap(ctx, k.token)
		if err == nil {
			return key, nil
		}
		err = &RowError{slotName(s.id), err}
		if !errors.Is(err, hsm.ErrBlob) {
			return nil, err
		}
		others = append(others, err)
	}
	// The table is not authenticated here: what it lists only makes the error more useful.
	for _, e := range t.slots {
		if !has(slots, e.id) {
			others = append(others, &RowError{slotName(e.id), errMissing})
		}
	}
	return nil, errors.Join(others...)
}

// has reports whether a slot of that id is among slots, of which there are at most maxSlots.
func has(slots []*slot, id slotID) bool {
	for _, s := range slots {
		if s.id == id {
			return true
		}
	}
	return false
}

// authenticate checks the table under the key that a slot gave, then every slot against the table. The order matters for what is
// said, not for what is refused: with a wrong MAC the table is at fault, with a right one the slot.
func (k *Keyring) authenticate(key []byte, found rows, t table, slots []*slot) error {
	body := found.table[:len(found.table)-sha256.Size] // as stored, not as parsed and encoded again
	mac, err := appendMAC(nil, key, t.appliance, body)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(mac, found.table[len(body):]) != 1 {
		return &RowError{tableName(), errTableMAC}
	}
	if t.appliance != k.appliance { // changed since Open, when others were told this id
		return &RowError{tableName(), errAppliance}
	}
	listed := map[slotID][sha256.Size]byte{}
	for _, e := range t.slots {
		listed[e.id] = e.digest
		if !has(slots, e.id) {
			return &RowError{slotName(e.id), errMissing}
		}
	}
	for i, s := range slots {
		want, ok := listed[s.id]
		switch {
		case !ok:
			return &RowError{slotName(s.id), errNotListed}
		case digest(found.slots[i].row) != want:
			return &RowError{slotName(s.id), errSlotDigest}
		case s.appliance != t.appliance:
			return &RowError{slotName(s.id), errAppliance}
		}
	}
	return nil
}
