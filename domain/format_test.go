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
	knownRootKey    = count(0x00, 32)
	knownDomainKey  = count(0x20, 32)
	knownEarlierKey = count(0x80, 32) // the version before, where there is one
	knownAppliance  = count(0xa0, 16)
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

// slotRow is the row of a slot with these fields under knownRootKey, for version 1 of the domain key.
func slotRow(id []byte, kind, blob string, key []byte) []byte {
	return slotOf(id, kind, blob, key, 1)
}

func slotOf(id []byte, kind, blob string, key []byte, version int) []byte {
	salt, iv := count(0x60, 32), count(0xb0, 12)
	factor := mac(knownRootKey, one, "e1", 0, id, salt, bits256)
	kek := mac(factor, one, "e2", 0, 1, id, knownAppliance, bits256)
	head := join(1, 1, id, knownAppliance, 0, 0, 0, version, salt, 0, 1+len(kind)+len(blob), len(kind), kind, blob)
	return join(head, iv, gcm(kek).Seal(nil, iv, key, head))
}

func retiredName(id []byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceRetired, string(id))
}

func versionName(version int) keystore.Name {
	return keystore.MakeName(keystore.SpaceDomainKey, string([]byte{0, 0, 0, byte(version)}))
}

func slotName(id []byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceSlot, string(id))
}

var tableName = keystore.MakeName(keystore.SpaceSlotTable)

// tableRow is the row of a table of these slot rows.
func tableRow(key, appliance []byte, slots ...[]byte) []byte {
	return tableOf(key, appliance, 1, slots, nil, nil)
}

// tableOf is the row of a table of this version, with the row of the version before it, or none, and these rows of retired roots.
func tableOf(key, appliance []byte, version int, slots [][]byte, earlier []byte, retired [][]byte) []byte {
	slices.SortFunc(slots, func(a, b []byte) int { return bytes.Compare(a[2:18], b[2:18]) })
	body := join(2, appliance, make([]byte, 7), version, 0, 0, 0, version, len(slots), min(len(earlier), 1), len(retired))
	for _, s := range slots {
		body = join(body, s[2:18], sum(s))
	}
	if earlier != nil {
		body = join(body, sum(earlier))
	}
	for _, r := range retired {
		body = join(body, r[1:17], sum(r))
	}
	return sign(key, appliance, body)
}

// sign appends the MAC of a table.
func sign(key, appliance, body []byte) []byte {
	return join(body, mac(mac(key, one, "l1", 0, appliance, bits256), body))
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// retiredRow is the row of the retired root of a slot.
func retiredRow(id []byte, kind, blob string) []byte {
	return join(1, id, knownAppliance, 0, 1+len(kind)+len(blob), len(kind), kind, blob)
}

// versionRow is the row of the version before newer, whose key is newerKey.
func versionRow(newerKey, key []byte, newer int) []byte {
	salt, iv := count(0xd0, 24), count(0xe0, 12)
	header := join(2, 0, 0, 0, newer, salt)
	name := versionName(newer - 1).Append(nil)
	sealing := mac(newerKey, one, "d1", 0, knownAppliance, bits256)
	prk := mac(sealing, one, "r1", 0, knownAppliance, 0, 0, header[1:], bits256)
	split := func(i int) []byte { return mac(prk, 0, 0, 0, i, "k1", 0, 0, 0, 2, 0) }
	aad := join(header, mac(split(2), name), name)
	return join(aad[:61], iv, gcm(split(1)).Seal(nil, iv, key, aad))
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
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

// domainRows is the rows of a domain as a test computes them.
type domainRows struct {
	table   []byte
	slots   [][]byte
	earlier []byte // of version 1, or nil
	retired [][]byte
}

// rotating returns the rows of a rotation under way, from knownEarlierKey to knownDomainKey.
func rotating() domainRows {
	d := domainRows{
		slots:   [][]byte{slotOf(count(0x40, 16), "soft", "root", knownDomainKey, 2)},
		earlier: versionRow(knownDomainKey, knownEarlierKey, 2),
		retired: [][]byte{retiredRow(count(0x10, 16), "soft", "old root")},
	}
	d.table = tableOf(knownDomainKey, knownAppliance, 2, d.slots, d.earlier, d.retired)
	return d
}

// entries returns the rows under their names, in the order of spaces.
func (d domainRows) entries() (all []keystore.Entry) {
	for _, s := range d.slots {
		all = append(all, keystore.Entry{Name: slotName(s[2:18]), Value: s})
	}
	all = append(all, keystore.Entry{Name: tableName, Value: d.table})
	if d.earlier != nil {
		all = append(all, keystore.Entry{Name: versionName(1), Value: d.earlier})
	}
	for _, r := range d.retired {
		all = append(all, keystore.Entry{Name: retiredName(r[1:17]), Value: r})
	}
	return all
}

func (d domainRows) store(t *testing.T) keystore.Store {
	t.Helper()
	store := keystore.NewMemory()
	for _, e := range d.entries() {
		write(t, store, e.Name, e.Value)
	}
	return store
}

func TestExamplesOfTheFormat(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	slot := slotRow(count(0x40, 16), "soft", "root", knownDomainKey)
	rest := string(doc)
	for _, c := range []struct {
		rows domainRows
		keys [][]byte // of the versions
	}{
		{domainRows{table: tableRow(knownDomainKey, knownAppliance, slot), slots: [][]byte{slot}}, [][]byte{knownDomainKey}},
		{rotating(), [][]byte{knownEarlierKey, knownDomainKey}},
	} {
		var want strings.Builder
		for _, e := range c.rows.entries() {
			name := e.Name.Space().String()
			for _, c := range e.Name.Components() {
				name += fmt.Sprintf("/%x", c)
			}
			fmt.Fprintf(&want, "%s %x\n", name, e.Value)
		}
		for i, key := range c.keys {
			fmt.Fprintf(&want, "derived %d %x\n", i+1, mac(key, one, "s1", 0, bits256))
		}
		var example string
		_, rest, _ = strings.Cut(rest, "```rows\n")
		example, rest, _ = strings.Cut(rest, "```")
		if example != want.String() {
			t.Errorf("FORMAT.md shows\n%s\nwant\n%s", example, want.String())
		}
		derives(t, c.rows.store(t), c.keys)
	}
}

// derives unlocks store with the known token and checks that the domain keys are these, from version 1 on.
func derives(t *testing.T, store keystore.Store, keys [][]byte) {
	t.Helper()
	k := open(t, store, &knownToken{root: knownRootKey})
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	var versions []uint32
	for i, key := range keys {
		version := uint32(i + 1)
		versions = append(versions, version)
		var got [32]byte
		if err := k.Derive(got[:], version, seal.LabelState, nil); err != nil || !bytes.Equal(got[:], mac(key, one, "s1", 0, bits256)) {
			t.Errorf("version %d derives %x, %v", version, got, err)
		}
	}
	if got := k.Versions(); !slices.Equal(got, versions) {
		t.Errorf("versions %v, want %v", got, versions)
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
	resign := func(body []byte) []byte { return sign(knownDomainKey, knownAppliance, body) }
	body := good[:len(good)-32]
	many := entries(33)
	edit := func(at int, with ...byte) []byte {
		b := bytes.Clone(body)
		copy(b[at:], with)
		return resign(b)
	}
	for name, table := range map[string][]byte{
		"empty":                    {},
		"table format 1":           edit(0, 1),
		"table format 3":           edit(0, 3),
		"sequence 0":               edit(24, 0),
		"table version 0":          edit(28, 0),
		"no slot":                  edit(29, 0),
		"three slots":              edit(29, 3),
		"17 slots":                 resign(join(body[:29], 17, 0, 0, many[:17*48])),
		"33 retired roots":         resign(join(body[:31], 33, body[32:], many)),
		"out of order":             resign(join(body[:32], body[80:128], body[32:80])),
		"one slot twice":           resign(join(body[:32], body[32:80], body[32:80])),
		"two earlier versions":     resign(join(body[:28], 3, 2, 2, 0, body[32:], many[:64])),
		"a version before one":     resign(join(body[:30], 1, 0, body[32:], many[:32])),
		"retired out of order":     resign(join(body[:31], 2, body[32:], many[48:96], many[:48])),
		"retired twice":            resign(join(body[:31], 2, body[32:], many[:48], many[:48])),
		"retired and in use":       resign(join(body[:31], 1, body[32:], body[80:128])),
		"fewer roots than it says": edit(31, 1),
		"table too long":           resign(join(body, 0)),
		"nothing but a head":       body[:32],
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
		"version 0":         slot(37, 0),
		"version 2":         slot(37, 2),
		"another's version": slotOf(b, "soft", "root", knownDomainKey, 2),
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

// entries returns n entries of a table, in order.
func entries(n int) (b []byte) {
	for i := range n {
		b = join(b, 0xc0, i, make([]byte, 46))
	}
	return b
}

func TestMoreSlotsThanTheFormatHas(t *testing.T) {
	t.Parallel()
	var slots [][]byte
	for i := range 17 {
		slots = append(slots, slotRow(count(byte(i), 16), "soft", "root", knownDomainKey))
	}
	_, err := unlock(t, tableRow(knownDomainKey, knownAppliance, slots[0]), slots...)
	names(t, err, slotName(count(16, 16)))
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
