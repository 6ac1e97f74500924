package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/keystore"
)

// Numbers and sizes of FORMAT.md, in bytes.
const (
	digestFormat  = 1
	digestRowSize = 1 + 8 + sha256.Size
)

var (
	errDigestForm = damage("not a slot digest of format 1")
	errUnbound    = damage("the records do not know the slot table")
)

// digestName returns the name of the sealed row that says which slot table is the present one.
func digestName() keystore.Name { return keystore.MakeName(keystore.SpaceSlotDigest) }

// digestRow returns that row for the table of s.
func (s *state) digestRow() []byte {
	sum := digest(s.row)
	b := binary.BigEndian.AppendUint64(append(make([]byte, 0, digestRowSize), digestFormat), s.table.sequence)
	return append(b, sum[:]...)
}

// parseDigestRow returns the sequence number of the table that row names. It accepts exactly what
// digestRow writes.
func parseDigestRow(row []byte) (sequence uint64, err error) {
	if len(row) != digestRowSize || row[0] != digestFormat {
		return 0, errDigestForm
	}
	if sequence = binary.BigEndian.Uint64(row[1:]); sequence < 1 {
		return 0, errDigestForm
	}
	return sequence, nil
}

// compareDigest checks the sealed row, or the error of reading it, against the table of s.
func (s *state) compareDigest(row []byte, err error) error {
	if errors.Is(err, keystore.ErrNotFound) {
		return &RowError{tableName(), errUnbound}
	}
	if err != nil {
		return err
	}
	named, err := parseDigestRow(row)
	if err != nil {
		return &RowError{digestName(), err}
	}
	have := s.table.sequence
	switch {
	case bytes.Equal(row, s.digestRow()):
		return nil
	case have < named:
		return &RowError{tableName(), damage(fmt.Sprintf("an older table was put back: its sequence is %d, the records name %d", have, named))}
	case have > named:
		return &RowError{tableName(), damage(fmt.Sprintf("the records are older than the table: its sequence is %d, they name %d", have, named))}
	}
	return &RowError{tableName(), damage(fmt.Sprintf("another table of sequence %d than the records name", have))}
}

// Bind makes the records name the present slot table, in the sealed row slot-digest, and the token keys, which it
// stores in the same transaction: with it the making of a store ends. Where the sealed row is there already it writes
// nothing, and returns what Verify would. The keyring is unlocked.
func (k *Keyring) Bind(ctx context.Context, r Records, own ...TokenKey) error {
	leave, err := k.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	now := k.held()
	if now == nil {
		return ErrLocked
	}
	named, err := digests(own)
	if err != nil {
		return err
	}
	_, err = r.UpdateBoth(ctx, func(sealed, raw keystore.Tx) error {
		switch row, err := raw.Get(tableName()); {
		case err != nil:
			return &RowError{tableName(), err}
		case !bytes.Equal(row, now.row):
			return &RowError{tableName(), errTableChanged}
		}
		row, err := sealed.Get(digestName())
		if errors.Is(err, keystore.ErrNotFound) {
			return errors.Join(bindKeys(sealed, raw, own, named), sealed.Put(digestName(), now.digestRow()))
		}
		return now.compareDigest(row, err)
	})
	if err != nil {
		return err
	}
	_, err = k.verified(ctx, r)
	return err
}

// Verify checks, after Unlock and after the records are open, that the slot table which Unlock
// found is the one that the records name, and that the token keys are those that they name: the
// rows of a domain that were all brought back from an older state are authentic, but not that, and
// nothing but the records authenticates a token key. It returns a RowError that says what differs,
// ErrLocked, or what r said. Where the records are of a version that named no token keys, they name
// the present ones from then on.
func (k *Keyring) Verify(ctx context.Context, r Records) error {
	leave, err := k.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = k.verified(ctx, r)
	if !errors.Is(err, errKeysUnknown) {
		return err
	}
	if err := k.adoptKeys(ctx, r); err != nil {
		return err
	}
	_, err = k.verified(ctx, r)
	return err
}

// verified returns what the keyring holds, if the records name its table and the token keys. The
// caller has the turn.
func (k *Keyring) verified(ctx context.Context, r Records) (*keys, error) {
	now := k.held()
	if now == nil {
		return nil, ErrLocked
	}
	stored, err := k.storedKeys(ctx)
	if err != nil {
		return nil, err
	}
	err = r.View(ctx, func(reader keystore.Reader) error {
		if err := now.compareDigest(reader.Get(digestName())); err != nil {
			return err
		}
		row, err := reader.Get(tokenKeysName())
		return k.compareKeys(now, stored, row, err)
	})
	if err != nil {
		return nil, err
	}
	return now, nil
}
