package rack_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/keyrack/keyrack/keystore"
)

// firstVersion is how the first version of the domain key stands in a page of a store's file while it is sealed under
// the second: the row's name, and the head of its record.
func firstVersion() (name keystore.Name, written []byte) {
	name = keystore.MakeName(keystore.SpaceDomainKey, string(binary.BigEndian.AppendUint32(nil, 1)))
	return name, append(name.Append(nil), 2, 0, 0, 0, 2)
}

// whereFirstVersion counts the pages of a store's file that have it, those in use and the free ones.
func whereFirstVersion(t *testing.T, path string) (used, free int) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, written := firstVersion()
	err = db.View(func(tx *bbolt.Tx) error {
		size := db.Info().PageSize
		for id := 0; (id+1)*size <= len(file); {
			page, err := tx.Page(id)
			if err != nil {
				return err
			}
			next := id + 1
			if page != nil && page.Type != "free" {
				next += page.OverflowCount
			}
			switch has := bytes.Contains(file[id*size:min(next*size, len(file))], written); {
			case has && page != nil && page.Type != "free":
				used++
			case has:
				free++
			}
			id = next
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used, free
}

// wantNoFirstVersion expects that a store in which keys were shredded holds the domain key of before in no page that is in
// use. In free pages it may be, sealed under the present one, until they are used again.
func wantNoFirstVersion(t *testing.T, path string) {
	t.Helper()
	used, free := whereFirstVersion(t, path)
	if used > 0 {
		t.Errorf("%d pages in use hold the domain key of before", used)
	}
	t.Logf("%d free pages hold the domain key of before, sealed", free)
	name, written := firstVersion()
	planted := path + ".planted"
	copyFile(t, path, planted)
	setRow(t, planted, name, written[name.Len():])
	if used, _ := whereFirstVersion(t, planted); used == 0 {
		t.Error("a row of the domain key of before is not seen where there is one")
	}
}
