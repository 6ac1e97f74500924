package domain_test

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// The functions of this file compute rows from FORMAT.md alone, with the standard library.

func count(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

var (
	knownRootKey   = count(0x00, 32)
	knownDomainKey = count(0x20, 32)
	knownAppliance = count(0xa0, 16)
)

func mac(key []byte, parts ...any) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(join(parts...))
	return h.Sum(nil)
}

func join(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case string:
			b = append(b, p...)
		case int:
			b = append(b, byte(p))
		}
	}
	return b
}

var one, bits256 = []byte{0, 0, 0, 1}, []byte{0, 0, 1, 0}

// slotRow is the row of a slot with these fields under knownRootKey.
func slotRow(id []byte, kind, blob string, key []byte) []byte {
	salt, iv := count(0x60, 32), count(0xb0, 12)
	factor := mac(knownRootKey, one, "e1", 0, id, salt, bits256)
	kek := mac(factor, one, "e2", 0, 1, id, knownAppliance, bits256)
	head := join(1, 1, id, knownAppliance, one, salt, 0, 1+len(kind)+len(blob), len(kind), kind, blob)
	block, err := aes.NewCipher(kek)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return join(head, iv, gcm.Seal(nil, iv, key, head))
}

func slotName(id []byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceSlot, string(id))
}

var tableName = keystore.MakeName(keystore.SpaceSlotTable)

// tableRow is the row of a table of these slot rows.
func tableRow(key, appliance []byte, slots ...[]byte) []byte {
	slices.SortFunc(slots, func(a, b []byte) int { return bytes.Compare(a[2:18], b[2:18]) })
	body := join(1, appliance, make([]byte, 7), 1, one, len(slots))
	for _, s := range slots {
		sum := sha256.Sum256(s)
		body = join(body, s[2:18], sum[:])
	}
	return join(body, mac(mac(key, one, "l1", 0, appliance, bits256), body))
}

// put writes rows into a new store.
func put(t *testing.T, table []byte, slots ...[]byte) keystore.Store {
	t.Helper()
	store := keystore.NewMemory()
	_, err := store.Update(t.Context(), func(tx keystore.Tx) error {
		for _, s := range slots {
			if err := tx.Put(slotName(s[2:18]), s); err != nil {
				return err
			}
		}
		return tx.Put(tableName, table)
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// unlock opens a keyring over rows with the known token and unlocks it.
func unlock(t *testing.T, table []byte, slots ...[]byte) (*domain.Keyring, error) {
	t.Helper()
	k, err := domain.Open(t.Context(), put(t, table, slots...), &knownToken{root: knownRootKey})
	if err != nil {
		return nil, err
	}
	return k, k.Unlock(t.Context())
}

func TestExampleOfTheFormat(t *testing.T) {
	t.Parallel()
	id := count(0x40, 16)
	slot := slotRow(id, "soft", "root", knownDomainKey)
	table := tableRow(knownDomainKey, knownAppliance, slot)
	derived := mac(knownDomainKey, one, "s1", 0, bits256)
	want := fmt.Sprintf("slot/%x %x\nslot-table %x\nderived %x\n", id, slot, table, derived)

	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```rows\n")
	example, _, _ := strings.Cut(rest, "```")
	if example != want {
		t.Errorf("FORMAT.md shows\n%s\nwant\n%s", example, want)
	}

	k, err := unlock(t, table, slot)
	if err != nil {
		t.Fatal(err)
	}
	var got [32]byte
	if err := k.Derive(got[:], 1, seal.LabelState, nil); err != nil || !bytes.Equal(got[:], derived) {
		t.Errorf("derived %x, %v, want %x", got, err, derived)
	}
	if id := k.ApplianceID(); !bytes.Equal(id[:], knownAppliance) {
		t.Errorf("appliance id %x", id)
	}
}

// What Create writes is what the format says, salt and IV apart: opened here with the standard library alone.
func TestCreateWritesTheFormat(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	k, err := domain.Create(t.Context(), store, &knownToken{root: knownRootKey}, [16]byte(knownAppliance))
	if err != nil {
		t.Fatal(err)
	}
	rows := dump(t, store)
	if len(rows) != 2 || rows[1].Name != tableName {
		t.Fatalf("%d rows: %v", len(rows), rows)
	}
	slot := rows[0].Value
	id, salt := slot[2:18], slot[38:70]
	kek := mac(mac(knownRootKey, one, "e1", 0, id, salt, bits256), one, "e2", 0, 1, id, knownAppliance, bits256)
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	end := len(slot) - 60
	key, err := gcm.Open(nil, slot[end:end+12], slot[end+12:], slot[:end])
	if err != nil {
		t.Fatal(err)
	}
	if want := join(1, 1, id, knownAppliance, one, salt, 0, 9, 4, "softroot"); !bytes.Equal(slot[:end], want) {
		t.Errorf("slot starts %x, want %x", slot[:end], want)
	}
	if want := tableRow(key, knownAppliance, slot); !bytes.Equal(rows[1].Value, want) {
		t.Errorf("table %x, want %x", rows[1].Value, want)
	}
	var got [32]byte
	if err := k.Derive(got[:], 1, seal.LabelName, []byte("c")); err != nil || !bytes.Equal(got[:], mac(key, one, "n1", 0, "c", bits256)) {
		t.Errorf("the keyring holds another key, %v", err)
	}
	if rows[0].Name != slotName(id) {
		t.Errorf("slot has name %s", rows[0].Name)
	}
}

// Rows that are authentic in part: each is refused, and the error names the row.
func TestForgedTables(t *testing.T) {
	t.Parallel()
	a, b, c := count(0x10, 16), count(0x40, 16), count(0x70, 16)
	first, mine, last := slotRow(a, "tpm2", "x", knownDomainKey), slotRow(b, "soft", "root", knownDomainKey), slotRow(c, "tpm2", "y", knownDomainKey)
	stranger := slotRow(c, "soft", "root", count(0x99, 32))
	key, appliance := knownDomainKey, knownAppliance
	otherAppliance := bytes.Clone(first)
	otherAppliance[18] ^= 1
	elsewhere := count(0xc0, 16)
	for name, c := range map[string]struct {
		table   []byte
		slots   [][]byte
		refused keystore.Name
	}{
		"all three":                {tableRow(key, appliance, first, mine, last), [][]byte{first, mine, last}, keystore.Name{}},
		"a slot removed":           {tableRow(key, appliance, first, mine, last), [][]byte{mine, last}, slotName(a)},
		"the own slot removed":     {tableRow(key, appliance, first, mine, last), [][]byte{first, last}, slotName(a)},
		"every slot removed":       {tableRow(key, appliance, mine), nil, slotName(b)},
		"a slot added":             {tableRow(key, appliance, first, mine), [][]byte{first, mine, last}, slotName(c)},
		"a slot added in front":    {tableRow(key, appliance, mine), [][]byte{first, mine}, slotName(a)},
		"a slot altered":           {tableRow(key, appliance, first, mine), [][]byte{otherAppliance, mine}, slotName(a)},
		"a slot of another rack":   {tableRow(key, appliance, otherAppliance, mine), [][]byte{otherAppliance, mine}, slotName(a)},
		"an older table":           {tableRow(key, appliance, mine), [][]byte{mine, last}, slotName(c)},
		"an older slot":            {tableRow(key, appliance, slotRow(b, "soft", "root", count(0x98, 32))), [][]byte{mine}, slotName(b)},
		"another key's table":      {tableRow(count(0x99, 32), appliance, mine), [][]byte{mine}, tableName},
		"another key's slot":       {tableRow(key, appliance, stranger), [][]byte{stranger}, tableName},
		"a slot of another key":    {tableRow(key, appliance, mine, stranger), [][]byte{stranger}, tableName},
		"a table for another rack": {tableRow(key, elsewhere, mine), [][]byte{mine}, slotName(b)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := unlock(t, c.table, c.slots...)
			if c.refused == (keystore.Name{}) {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			names(t, err, c.refused)
			if k != nil && k.State() != domain.Locked {
				t.Error("unlocked all the same")
			}
		})
	}
}

// names checks that err refuses a row of this name.
func names(t *testing.T, err error, row keystore.Name) {
	t.Helper()
	var refused *domain.RowError
	if !errors.As(err, &refused) || refused.Row != row || !strings.Contains(err.Error(), row.String()) {
		t.Errorf("got %v, want an error that names %s", err, row)
	}
}

// Rows whose form is wrong, though their MAC is right.
func TestMalformedRows(t *testing.T) {
	t.Parallel()
	a, b := count(0x10, 16), count(0x40, 16)
	first, mine := slotRow(a, "tpm2", "x", knownDomainKey), slotRow(b, "soft", "root", knownDomainKey)
	good := tableRow(knownDomainKey, knownAppliance, first, mine)
	resign := func(body []byte) []byte {
		return join(body, mac(mac(knownDomainKey, one, "l1", 0, knownAppliance, bits256), body))
	}
	body := good[:len(good)-32]
	edit := func(at int, with ...byte) []byte {
		b := bytes.Clone(body)
		copy(b[at:], with)
		return resign(b)
	}
	for name, table := range map[string][]byte{
		"empty":              {},
		"table format 2":     edit(0, 2),
		"sequence 0":         edit(24, 0),
		"table version 2":    edit(28, 2),
		"no slot":            edit(29, 0),
		"three slots":        edit(29, 3),
		"33 slots":           resign(join(body[:29], 33, bytes.Repeat([]byte{1}, 33*48))),
		"out of order":       resign(join(body[:30], body[78:126], body[30:78])),
		"one slot twice":     resign(join(body[:30], body[30:78], body[30:78])),
		"table too long":     resign(join(body, 0)),
		"nothing but a head": body[:30],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := unlock(t, table, first, mine)
			names(t, err, tableName)
		})
	}
	slot := func(at int, with ...byte) []byte {
		s := bytes.Clone(mine)
		copy(s[at:], with)
		return s
	}
	for name, s := range map[string][]byte{
		"format 2":          slot(0, 2),
		"type 2":            slot(1, 2),
		"type 3":            slot(1, 3),
		"version 2":         slot(37, 2),
		"longer parameters": slot(71, 10),
		"no kind":           slot(72, 0),
		"kind and no blob":  slot(72, 8),
		"kind of 255":       slot(72, 255),
		"cut":               mine[:100],
		"a byte too many":   join(mine, 0),
		"too long":          join(mine[:70], 0xff, 0xff, make([]byte, 0xffff), make([]byte, 60)),
		"no parameters":     join(mine[:70], 0, 0, make([]byte, 60)),
		"a byte too long":   join(mine[:70], 0x10, 0x01, 1, make([]byte, 4096), make([]byte, 60)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := unlock(t, tableRow(knownDomainKey, knownAppliance, s), s)
			names(t, err, slotName(b))
		})
	}
}

func TestMoreSlotsThanTheFormatHas(t *testing.T) {
	t.Parallel()
	var slots [][]byte
	for i := range 33 {
		slots = append(slots, slotRow(count(byte(i), 16), "soft", "root", knownDomainKey))
	}
	_, err := unlock(t, tableRow(knownDomainKey, knownAppliance, slots[0]), slots...)
	names(t, err, slotName(count(32, 16)))
}

func TestASlotUnderAnotherName(t *testing.T) {
	t.Parallel()
	mine := slotRow(count(0x40, 16), "soft", "root", knownDomainKey)
	store := put(t, tableRow(knownDomainKey, knownAppliance, mine), mine)
	wrong := slotName(count(0x41, 16))
	write(t, store, wrong, mine)
	k, err := domain.Open(t.Context(), store, &knownToken{root: knownRootKey})
	if err != nil {
		t.Fatal(err)
	}
	names(t, k.Unlock(t.Context()), wrong)
}

func write(t *testing.T, store keystore.Store, name keystore.Name, value []byte) {
	t.Helper()
	if _, err := store.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name, value) }); err != nil {
		t.Fatal(err)
	}
}

// dump returns all rows of a store, in order.
func dump(t *testing.T, store keystore.Store) (all []keystore.Entry) {
	t.Helper()
	err := store.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			all = append(all, keystore.Entry{Name: e.Name, Value: bytes.Clone(e.Value)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b keystore.Entry) int { return cmp.Compare(a.Name.Space(), b.Name.Space()) })
	return all
}
