package kms

import (
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// usageRow is what a key was used for, FORMAT.md "Usage of a key".
type usageRow struct {
	Format   uint8                            `cbor:"0,keyasint"`
	Tracking api.Time                         `cbor:"1,keyasint"` // which tracking the position and the counts belong to
	Position audit.Position                   `cbor:"2,keyasint"` // of the log, up to which it covers the key's uses
	Since    api.Time                         `cbor:"3,keyasint"` // what is counted came after that
	Counts   map[kmsapi.UsageOperation]uint64 `cbor:"4,keyasint"`
	Op       kmsapi.UsageOperation            `cbor:"5,keyasint"` // of the last use
	Time     api.Time                         `cbor:"6,keyasint"`
	Event    []byte                           `cbor:"7,keyasint"` // 16 bytes
}

const usageFormat = 1

func usageName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyUsage, string(id[:]))
}

// parseUsageRow reads a row. Errors wrap keystore.ErrDamaged.
func parseUsageRow(b []byte) (r usageRow, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("usage row: %w: %w", keystore.ErrDamaged, err)
	}
	if r.Format != usageFormat || len(r.Event) != len(api.EventID{}) || !tracked(r.Op) || r.Counts[r.Op] == 0 {
		return r, fmt.Errorf("usage row of format %d cannot be: %w", r.Format, keystore.ErrDamaged)
	}
	for op, n := range r.Counts {
		if !tracked(op) || n == 0 {
			return r, fmt.Errorf("usage row counts %d of operation %d: %w", n, op, keystore.ErrDamaged)
		}
	}
	return r, nil
}

// tracked reports whether op is one that is counted.
func tracked(op kmsapi.UsageOperation) bool { return op >= 1 && int(op) <= len(op.Names()) }

// readUsage returns a key's row, nil if it was not used.
func readUsage(r getter, id api.KeyID) (*usageRow, error) {
	b, err := r.Get(usageName(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	row, err := parseUsageRow(b)
	return &row, err
}

// positionRow is how much of the log all usage rows cover, FORMAT.md "Position of the usage".
type positionRow struct {
	Format   uint8          `cbor:"0,keyasint"`
	Tracking api.Time       `cbor:"1,keyasint"` // when tracking began, and its name: no two begin at the same time
	Position audit.Position `cbor:"2,keyasint"`
}

func positionName() keystore.Name { return keystore.MakeName(keystore.SpaceUsagePos) }

func parsePositionRow(b []byte) (r positionRow, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("usage position: %w: %w", keystore.ErrDamaged, err)
	}
	if r.Format != usageFormat {
		return r, fmt.Errorf("usage position of format %d: %w", r.Format, keystore.ErrDamaged)
	}
	return r, nil
}
