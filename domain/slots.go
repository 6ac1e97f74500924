package domain

import (
	"context"
	"errors"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/keystore"
)

// SlotInfo says what a stored slot is. None of it is a secret.
type SlotInfo struct {
	ID      [16]byte
	Kind    string // of the token that has its root
	Version uint32 // of the domain key that it wraps
	Here    bool   // its root is in the keyring's token
	Open    bool   // the keyring is unlocked, and this slot's root gave it the domain key
}

// Slots returns the stored slots in the order of their ids, and whether they are authentic: while the keyring is locked, they
// are what the store says. It asks the token for the root of each, which uses no PIN. It returns a RowError for a row that is
// malformed, or what store or token said.
func (k *Keyring) Slots(ctx context.Context) (all []SlotInfo, authentic bool, err error) {
	leave, err := k.enter(ctx)
	if err != nil {
		return nil, false, err
	}
	defer leave()
	h := k.held()
	var slots []*slot
	if h != nil {
		slots = h.slots // with turn, nobody changes them
	} else if slots, err = k.storedSlots(ctx); err != nil {
		return nil, false, err
	}
	kind := k.token.Describe().Kind
	for _, s := range slots {
		info := SlotInfo{ID: s.id, Kind: s.root.kind, Version: s.version}
		if s.root.kind == kind {
			if info.Here, err = k.has(ctx, s.root.blob); err != nil {
				return nil, false, err
			}
		}
		info.Open = info.Here && h != nil
		all = append(all, info)
	}
	return all, h != nil, nil
}

// storedSlots returns the slots that the store holds, whoever wrote them.
func (k *Keyring) storedSlots(ctx context.Context) (slots []*slot, err error) {
	err = k.store.View(ctx, func(r keystore.Reader) error {
		rows, err := scan(r, keystore.SpaceSlot, maxSlots)
		if err == nil {
			slots, err = parseAll(rows, parseSlot)
		}
		return err
	})
	return slots, err
}

// has reports whether the token has the key of a blob.
func (k *Keyring) has(ctx context.Context, blob []byte) (bool, error) {
	key, err := k.token.Load(ctx, blob)
	switch {
	case errors.Is(err, hsm.ErrBlob):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, key.Close()
}
