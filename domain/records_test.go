package domain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// records is a small sealed store over a raw one: each row is sealed under the version of the domain key that its header names.
type records struct {
	raw  keystore.Store
	keys *domain.Keyring

	mu     sync.Mutex
	newest uint32
	fresh  func(out []byte, label seal.Label, context []byte) error // derives for newest while Rekey runs
}

var _ domain.Records = (*records)(nil)

func openRecords(t *testing.T, raw keystore.Store, k *domain.Keyring) domain.Records {
	t.Helper()
	versions := k.Versions()
	if len(versions) == 0 {
		t.Fatal("records of a locked keyring")
	}
	return &records{raw: raw, keys: k, newest: versions[len(versions)-1]}
}

func (r *records) key(version uint32) ([]byte, error) {
	out := make([]byte, 32)
	r.mu.Lock()
	fresh, newest := r.fresh, r.newest
	r.mu.Unlock()
	if fresh != nil && version == newest {
		return out, fresh(out, seal.LabelBucket, appliance[:])
	}
	return out, r.keys.Derive(out, version, seal.LabelBucket, appliance[:])
}

func (r *records) open(n keystore.Name, row []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	version := binary.BigEndian.Uint32(row[1:])
	key, err := r.key(version)
	if err != nil {
		return nil, err
	}
	return seal.OpenRecord(nil, key, seal.Place{Appliance: appliance, Number: version}, n.Append(nil), row)
}

func (r *records) View(ctx context.Context, f func(keystore.Reader) error) error {
	return r.raw.View(ctx, func(below keystore.Reader) error { return f(sealedReader{below, r}) })
}

func (r *records) UpdateBoth(ctx context.Context, f func(sealed, raw keystore.Tx) error) (keystore.Revision, error) {
	return r.raw.Update(ctx, func(below keystore.Tx) error { return f(sealedTx{below, r}, below) })
}

func (r *records) Rekey(ctx context.Context, version uint32, derive func([]byte, seal.Label, []byte) error, rows func(sealed, raw keystore.Tx) error) error {
	r.mu.Lock()
	before := r.newest
	r.newest, r.fresh = version, derive
	r.mu.Unlock()
	_, err := r.UpdateBoth(ctx, rows)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh = nil
	if err != nil {
		r.newest = before
	}
	return err
}

// Rewrap seals two rows anew.
func (r *records) Rewrap(ctx context.Context) (left int, err error) {
	old, err := r.older(ctx)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	todo := old[:min(2, len(old))]
	_, err = r.UpdateBoth(ctx, func(sealed, _ keystore.Tx) error {
		for _, n := range todo {
			value, err := sealed.Get(n)
			if err != nil {
				return err
			}
			if err := sealed.Put(n, bytes.Clone(value)); err != nil {
				return err
			}
		}
		return nil
	})
	return len(old) - len(todo), err
}

// older returns the rows under an older version.
func (r *records) older(ctx context.Context) (old []keystore.Name, err error) {
	err = r.raw.View(ctx, func(below keystore.Reader) error {
		lo, hi := keystore.SealedRange()
		for e, err := range below.Scan(lo, hi) {
			if err != nil {
				return err
			}
			if binary.BigEndian.Uint32(e.Value[1:]) != r.newest {
				old = append(old, e.Name)
			}
		}
		return nil
	})
	return old, err
}

func (r *records) Retire(ctx context.Context, rows func(sealed, raw keystore.Tx) error) error {
	if old, err := r.older(ctx); err != nil || len(old) > 0 {
		return errors.Join(err, fmt.Errorf("%d rows are left", len(old)))
	}
	_, err := r.UpdateBoth(ctx, rows)
	return err
}

type sealedReader struct {
	keystore.Reader
	records *records
}

func (v sealedReader) Get(n keystore.Name) ([]byte, error) {
	row, err := v.Reader.Get(n)
	return v.records.open(n, row, err)
}

func (v sealedReader) Scan(keystore.Name, keystore.Name) iter.Seq2[keystore.Entry, error] { return nil }

type sealedTx struct {
	keystore.Tx
	records *records
}

func (x sealedTx) Get(n keystore.Name) ([]byte, error) {
	row, err := x.Tx.Get(n)
	return x.records.open(n, row, err)
}

func (x sealedTx) Put(n keystore.Name, value []byte) error {
	x.records.mu.Lock()
	version := x.records.newest
	x.records.mu.Unlock()
	key, err := x.records.key(version)
	if err != nil {
		return err
	}
	row, err := seal.SealRecord(nil, key, seal.Place{Appliance: appliance, Number: version}, n.Append(nil), value)
	if err != nil {
		return err
	}
	return x.Tx.Put(n, row)
}
