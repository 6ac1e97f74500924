package domain

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	tableFormat   = 2
	maxSlots      = 16 // a rotation changes two rows of each and four others, and a transaction takes keystore.MaxRows
	maxRetired    = 32
	tableHeadSize = 1 + 16 + 8 + 4 + 1 + 1 + 1
	entrySize     = 16 + sha256.Size
)

const errTableForm = damage("not a slot table of format 2")

// table lists all rows of a domain. Its MAC makes them one authentic whole: without it, whoever can
// write to the store could plant a slot of his own and wait until the next domain key is wrapped
// for it, or have the token destroy a key that is in use.
type table struct {
	appliance [16]byte
	sequence  uint64  // one more with each change
	version   uint32  // of the domain key in the slots, whose MAC this is
	slots     []entry // in ascending order of ids
	earlier   []byte  // SHA-256 of the row of version-1, or nil
	retired   []entry // in ascending order of ids
}

// entry is a slot, or the retired root of one, in the table.
type entry struct {
	id     slotID
	digest [sha256.Size]byte // of the row
}

// tableName returns the name of the table's row.
func tableName() keystore.Name { return keystore.MakeName(keystore.SpaceSlotTable) }

// digest is what the table holds of a row: of the whole row, so that no field is left out.
func digest(row []byte) [sha256.Size]byte { return sha256.Sum256(row) }

// seal returns the table's row, authenticated under its version of the domain key.
func (t *table) seal(key []byte) ([]byte, error) {
	body := t.body()
	return appendMAC(body, key, t.appliance, body)
}

// body returns the row without its MAC. One table has one encoding.
func (t *table) body() []byte {
	b := append(make([]byte, 0, tableHeadSize+(len(t.slots)+len(t.retired))*entrySize+2*sha256.Size), tableFormat)
	b = append(b, t.appliance[:]...)
	b = binary.BigEndian.AppendUint64(b, t.sequence)
	b = binary.BigEndian.AppendUint32(b, t.version)
	b = append(b, byte(len(t.slots)), byte(len(t.earlier)/sha256.Size), byte(len(t.retired)))
	b = appendEntries(b, t.slots)
	b = append(b, t.earlier...)
	return appendEntries(b, t.retired)
}

// appendEntries appends id 16 ‖ digest 32 of each entry.
func appendEntries(b []byte, entries []entry) []byte {
	for _, e := range entries {
		b = append(b, e.id[:]...)
		b = append(b, e.digest[:]...)
	}
	return b
}

// appendMAC appends the table's HMAC of body to dst. Its key is derived for this use alone: the
// domain key is only ever a KDF key.
func appendMAC(dst, key []byte, appliance [16]byte, body []byte) ([]byte, error) {
	k, err := derived(key, seal.LabelSlotTable, appliance[:])
	if err != nil {
		return nil, err
	}
	defer k.Free()
	return seal.MAC(dst, k.Bytes(), body), nil
}

// parseTable decodes a table row, whose MAC it does not check. It accepts only what seal writes;
// until the MAC is checked, nothing follows from the result but what an error says. All lengths are
// checked before anything is read behind the head.
func parseTable(row []byte) (table, error) {
	refused := &RowError{tableName(), errTableForm}
	if len(row) < tableHeadSize || row[0] != tableFormat {
		return table{}, refused
	}
	n, earlier, retired := int(row[29]), int(row[30]), int(row[31])
	if n < 1 || n > maxSlots || earlier > 1 || retired > maxRetired ||
		len(row) != tableHeadSize+(n+retired)*entrySize+(earlier+1)*sha256.Size {
		return table{}, refused
	}
	t := table{
		appliance: [16]byte(row[1:]), sequence: binary.BigEndian.Uint64(row[17:]), version: binary.BigEndian.Uint32(row[25:]),
	}
	rest := row[tableHeadSize:]
	t.slots, rest = cutEntries(rest, n)
	if earlier == 1 {
		t.earlier, rest = bytes.Clone(rest[:sha256.Size]), rest[sha256.Size:]
	}
	t.retired, _ = cutEntries(rest, retired)
	if !t.canonical() {
		return table{}, refused
	}
	return t, nil
}

// cutEntries decodes n entries, which b has room for.
func cutEntries(b []byte, n int) (entries []entry, rest []byte) {
	for range n {
		entries = append(entries, entry{slotID(b), [sha256.Size]byte(b[16:])})
		b = b[entrySize:]
	}
	return entries, b
}

// canonical reports whether t is a table that seal writes: numbers that count from one, ids in
// order and each in one list alone.
func (t *table) canonical() bool {
	if t.sequence < 1 || t.version < 1 || t.earlier != nil && t.version < 2 || !ascending(t.slots) || !ascending(t.retired) {
		return false
	}
	return !slices.ContainsFunc(t.retired, func(e entry) bool { return slices.ContainsFunc(t.slots, e.sameID) })
}

// sameID reports whether both are of one slot.
func (e entry) sameID(o entry) bool { return e.id == o.id }

// ascending reports whether ids ascend, and none comes twice.
func ascending(entries []entry) bool {
	for i := 1; i < len(entries); i++ {
		if compareIDs(entries[i-1], entries[i]) >= 0 {
			return false
		}
	}
	return true
}

// compareIDs orders entries by id, byte by byte.
func compareIDs(a, b entry) int { return bytes.Compare(a.id[:], b.id[:]) }

// listing is a row that a table names, and how it must be.
type listing struct {
	name   keystore.Name
	digest [sha256.Size]byte
}

// listings returns all rows that t names.
func (t *table) listings() (all []listing) {
	for _, e := range t.slots {
		all = append(all, listing{slotName(e.id), e.digest})
	}
	if t.earlier != nil {
		all = append(all, listing{versionName(t.version - 1), [sha256.Size]byte(t.earlier)})
	}
	for _, e := range t.retired {
		all = append(all, listing{retiredName(e.id), e.digest})
	}
	return all
}
