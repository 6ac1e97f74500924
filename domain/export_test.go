package domain

import "github.com/keyrack/keyrack/keystore"

// Key returns the newest version of the domain key itself, to see that it is wiped.
func (k *Keyring) Key() []byte { return k.keys.newest.Bytes() }

// The parsers of raw rows, each followed by the encoding of what it accepted.

// RecodeSlot is for a slot row; version is that of the domain key.
func RecodeSlot(name keystore.Name, row []byte) (again []byte, version uint32, err error) {
	s, err := parseSlot(name, row)
	if err != nil {
		return nil, 0, err
	}
	return s.encode(), s.version, nil
}

// RecodeTable is for a table row, without its MAC.
func RecodeTable(row []byte) (body []byte, err error) {
	t, err := parseTable(row)
	if err != nil {
		return nil, err
	}
	return t.body(), nil
}

// RecodeRetired is for the row of a retired root.
func RecodeRetired(name keystore.Name, row []byte) (again []byte, err error) {
	r, err := parseRetired(name, row)
	if err != nil {
		return nil, err
	}
	return r.encode(), nil
}
