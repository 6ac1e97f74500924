package access

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/keystore"
)

// The outbox is read by a Scan, which cannot tell that a row is missing: so its rows are
// counted in a row of their own (FORMAT.md), which every transaction on the outbox changes.

// errHidden says that rows of the outbox were taken away beneath the store.
var errHidden = fmt.Errorf("%w: records of changes are missing", keystore.ErrDamaged)

// countName returns the name of the row that counts.
func countName() keystore.Name { return keystore.MakeName(keystore.SpaceOutboxCount) }

// getter is a Reader or a Tx.
type getter interface {
	Get(keystore.Name) ([]byte, error)
}

// countOutbox returns how many rows the outbox has.
func countOutbox(r getter) (uint64, error) {
	value, err := r.Get(countName())
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(value) != 8:
		return 0, fmt.Errorf("%s: %w: %d bytes, want 8", countName(), keystore.ErrDamaged, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func putCount(tx keystore.Tx, n uint64) error {
	return tx.Put(countName(), binary.BigEndian.AppendUint64(nil, n))
}

// putOutbox writes a row of the outbox, and counts it unless it was there.
func putOutbox(tx keystore.Tx, name keystore.Name, row []byte) error {
	_, err := tx.Get(name)
	if errors.Is(err, keystore.ErrNotFound) {
		var n uint64
		if n, err = countOutbox(tx); err == nil {
			err = putCount(tx, n+1)
		}
	}
	if err != nil {
		return err
	}
	return tx.Put(name, row)
}

// deleteOutbox deletes rows of the outbox. Those that are gone already are passed over.
func deleteOutbox(tx keystore.Tx, rows []outboxRow) error {
	var gone uint64
	for _, r := range rows {
		name := outboxName(r.event)
		_, err := tx.Get(name)
		if errors.Is(err, keystore.ErrNotFound) {
			continue
		}
		if err == nil {
			err = tx.Delete(name)
		}
		if err != nil {
			return err
		}
		gone++
	}
	if gone == 0 {
		return nil
	}
	n, err := countOutbox(tx)
	if err == nil && n < gone {
		err = fmt.Errorf("%s: %w: it counts %d rows, and there are %d", countName(), keystore.ErrDamaged, n, gone)
	}
	if err != nil {
		return err
	}
	return putCount(tx, n-gone)
}
