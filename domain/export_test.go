package domain

import (
	"bytes"
	"context"
	"slices"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Key returns the newest version of the domain key itself, to see that it is wiped, or to spoil it.
func (k *Keyring) Key() []byte { return k.keys.newest.Bytes() }

// Before returns the version before it.
func (k *Keyring) Before() []byte { return k.keys.before.Bytes() }

// CheckSlot compares what the stored slot gives through the token with want, as a rotation does before it commits.
func CheckSlot(ctx context.Context, token hsm.Provider, e keystore.Entry, want []byte) error {
	s, err := parseSlot(e.Name, e.Value)
	if err != nil {
		return err
	}
	key, err := securemem.From(want)
	if err != nil {
		return err
	}
	defer key.Free()
	return s.check(ctx, token, key)
}

// CheckEarlier compares what the row of the version before gives with what the keyring holds.
func (k *Keyring) CheckEarlier() error { return k.keys.checkEarlier() }

// Fill gives the domain as many slots and retired roots as its format has.
func (k *Keyring) Fill(ctx context.Context, r Records) error {
	now := k.held()
	slots, retired := slices.Clone(now.slots), slices.Clone(now.retired)
	for len(slots) < maxSlots || len(retired) < maxRetired {
		s, root, err := k.newSlot(ctx, now.table.version)
		if err != nil {
			return err
		}
		if err = s.wrap(ctx, root, now.newest.Bytes()); err != nil {
			return err
		}
		root.Close()
		if len(slots) < maxSlots {
			slots = append(slots, s)
		} else {
			retired = append(retired, s.retire())
		}
	}
	slices.SortFunc(slots, func(a, b *slot) int { return bytes.Compare(a.id[:], b.id[:]) })
	slices.SortFunc(retired, func(a, b *retiredRoot) int { return bytes.Compare(a.slot[:], b.slot[:]) })
	now, err := k.change(ctx, r, now, func(next *keys) { next.slots = slots })
	if err == nil {
		_, err = k.change(ctx, r, now, func(next *keys) { next.retired = retired })
	}
	return err
}

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

// RecodeTokenKeys is for the sealed row that names the token keys.
func RecodeTokenKeys(row []byte) (again []byte, err error) {
	all, err := parseOwnKeys(row)
	if err != nil {
		return nil, err
	}
	return all.encode(), nil
}
