package domain_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/keystore"
)

// idIn returns the 16 bytes at an offset of a row, zero where the row is shorter.
func idIn(row []byte, at int) []byte {
	id := make([]byte, 16)
	if len(row) >= at+16 {
		copy(id, row[at:])
	}
	return id
}

// Accepted means canonical: one slot, one table, one retired root has one row, and its name is the one it carries.

func FuzzSlotRow(f *testing.F) {
	for _, s := range append(rotating().slots, slotRow(count(0x10, 16), "tpm2", string(make([]byte, 4091)), knownDomainKey)) {
		f.Add(s)
	}
	f.Add(slotRow(count(0x10, 16), "", "blob", knownDomainKey))
	f.Add(slotRow(count(0x10, 16), strings.Repeat("k", 33), "blob", knownDomainKey))
	f.Fuzz(func(t *testing.T, row []byte) {
		again, version, err := domain.RecodeSlot(slotName(idIn(row, 2)), row)
		if err != nil {
			return
		}
		if !bytes.Equal(again, row) || version < 1 || row[72] < 1 || row[72] > 32 {
			t.Errorf("%x is read as %x", row, again)
		}
		if _, _, err := domain.RecodeSlot(retiredName(idIn(row, 2)), row); err == nil {
			t.Error("accepted under another name")
		}
	})
}

func FuzzTableRow(f *testing.F) {
	f.Add(rotating().table)
	f.Add(tableRow(knownDomainKey, knownAppliance, slotRow(count(0x10, 16), "soft", "a", knownDomainKey), slotRow(count(0x20, 16), "soft", "b", knownDomainKey)))
	f.Fuzz(func(t *testing.T, row []byte) {
		body, err := domain.RecodeTable(row)
		if err == nil && (len(row) != len(body)+32 || !bytes.HasPrefix(row, body)) {
			t.Errorf("%x is read as %x", row, body)
		}
	})
}

func FuzzRetiredRow(f *testing.F) {
	f.Add(rotating().retired[0])
	f.Add(retiredRow(count(0x20, 16), "pkcs11", string(make([]byte, 240))))
	f.Add(retiredRow(count(0x20, 16), "", "blob"))
	f.Add(retiredRow(count(0x20, 16), strings.Repeat("k", 33), "blob"))
	f.Fuzz(func(t *testing.T, row []byte) {
		again, err := domain.RecodeRetired(retiredName(idIn(row, 1)), row)
		if err != nil {
			return
		}
		if !bytes.Equal(again, row) || row[35] < 1 || row[35] > 32 {
			t.Errorf("%x is read as %x", row, again)
		}
		if _, err := domain.RecodeRetired(keystore.MakeName(keystore.SpaceRetired), row); err == nil {
			t.Error("accepted under another name")
		}
	})
}

func FuzzTokenKeysRow(f *testing.F) {
	f.Add(namedKeys())
	f.Add(namedKeys("chain", "blob"))
	f.Add(namedKeys("chain", "a", "checkpoint", "b"))
	f.Add(namedKeys("checkpoint", "b", "chain", "a"))
	f.Add(namedKeys(strings.Repeat("n", 65), "a"))
	f.Fuzz(func(t *testing.T, row []byte) {
		again, err := domain.RecodeTokenKeys(row)
		if err == nil && (!bytes.Equal(again, row) || len(row) > 1+16*(1+64+32)) {
			t.Errorf("%x is read as %x", row, again)
		}
	})
}
