// Package sealed is a keystore.Store that encrypts and authenticates every value before it reaches
// the store below, under keys that come from the domain key.
//
// Read [Store], [Keys] and FORMAT.md. Rows are spread over 65,536 buckets by a keyed hash of their
// names. Each bucket has a random key of its own, kept in a row of its own under a key derived from
// the domain key; so a new domain key means new bucket rows and no new records.
//
// Who can write to the medium learns names, sizes and times, and no values. He cannot change a
// value, move it to another name, or bring one from another appliance or another bucket key: the
// read of such a row is [ErrSealBroken]. He can still bring back an older value of the same name,
// or remove a row; this package does not notice that.
//
// It does not hide names, and does not seal the spaces below 16: their owners reach them in the
// store below.
package sealed

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// ErrSealBroken says that a row is not what this appliance sealed under its name, or that the row
// of its bucket is not. The error that wraps it names the row.
var ErrSealBroken = errors.New("keystore/sealed: seal is broken")

// broken names the row; names are in clear anyway.
func broken(n keystore.Name) error { return fmt.Errorf("%w: %s", ErrSealBroken, n) }

// Keys derives keys from the domain key, as the keyring does: out is filled with seal.KDF(that
// version of the domain key, label, context). An error, as of a locked appliance, is handed on as it is by the call that
// needed the key. Derive is called concurrently.
type Keys interface {
	Derive(out []byte, version uint32, label seal.Label, context []byte) error
}

// Store seals the rows of another store. It is safe for concurrent use and keeps no key and no
// value between calls.
type Store struct {
	below     keystore.Store
	keys      Keys
	appliance [16]byte
}

var _ keystore.Store = (*Store)(nil)

// New returns a store over below for the appliance with this id. It reads nothing yet: a locked
// appliance, or a foreign one, shows at the first row. Rows of sealed spaces must not be written to
// below by anyone else.
func New(below keystore.Store, keys Keys, appliance [16]byte) *Store {
	return &Store{below, keys, appliance}
}

// View implements keystore.Store. Values that Get returns are in locked memory and wiped when f has
// returned, so a View holds at most 128 of them and 1 MiB in all, and Get answers
// keystore.ErrTooManyRows or ErrTooLarge beyond; a Scan holds one at a time. Beside the errors of
// the store below, Get and Scan return those of [Keys], [ErrSealBroken], and securemem's when
// locked memory is used up.
func (s *Store) View(ctx context.Context, f func(keystore.Reader) error) error {
	return s.below.View(ctx, func(r keystore.Reader) error {
		o := newOpener(s, r.Get)
		defer o.close()
		return f(&reader{o, r})
	})
}

// Update implements keystore.Store, with the bounds and errors of [Store.View] for Get.
func (s *Store) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	return s.below.Update(ctx, func(below keystore.Tx) error {
		keystore.Widen(below)
		o := newOpener(s, below.Get)
		defer o.close()
		t := &tx{opener: o, below: below}
		if err := f(t); err != nil {
			return err
		}
		return t.meter.Err()
	})
}

// Watch implements keystore.Store. It tells of sealed rows only.
func (s *Store) Watch(ctx context.Context, after keystore.Revision, f func(keystore.Revision, []keystore.Change) error) error {
	return s.below.Watch(ctx, after, func(r keystore.Revision, changes []keystore.Change) error {
		own := ours(changes)
		if len(own) == 0 && len(changes) > 0 {
			return nil
		}
		return f(r, own)
	})
}

// ours returns the changes from the first sealed row on: changes come in the order of names, and
// sealed spaces after all others.
func ours(changes []keystore.Change) []keystore.Change {
	for i, c := range changes {
		if c.Name.Space().Sealed() {
			return changes[i:]
		}
	}
	return nil
}

// Close closes the store below.
func (s *Store) Close() error { return s.below.Close() }

// reader is the Reader of a View.
type reader struct {
	*opener
	below keystore.Reader
}

func (r *reader) Get(n keystore.Name) ([]byte, error) {
	if !ownName(n) {
		return nil, keystore.ErrName
	}
	return r.get(n)
}

// Scan leaves out the spaces below the sealed ones, whatever lo is.
func (r *reader) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	if first, _ := keystore.SealedRange(); lo.Compare(first) < 0 {
		lo = first
	}
	return func(yield func(keystore.Entry, error) bool) {
		for e, err := range r.below.Scan(lo, hi) {
			if err == nil {
				err = r.pass(e, yield)
			}
			if err != nil {
				if err != errStop {
					yield(keystore.Entry{}, err)
				}
				return
			}
		}
	}
}

// errStop says that the range over a Scan was left.
var errStop = errors.New("keystore/sealed: scan was left")

// pass yields one row, whose value is wiped when the next one is asked for.
func (r *reader) pass(e keystore.Entry, yield func(keystore.Entry, error) bool) error {
	value, err := r.open(e.Name, e.Value)
	if err != nil {
		return err
	}
	defer value.Free()
	if !yield(keystore.Entry{Name: e.Name, Value: bytes(value)}, nil) {
		return errStop
	}
	return nil
}

func (r *reader) Revision() keystore.Revision { return r.below.Revision() }

// tx is the Tx of an Update. It keeps the count of rows that its caller may touch: below, each
// comes with that of its bucket.
type tx struct {
	*opener
	below keystore.Tx
	meter keystore.Meter
}

func (t *tx) Get(n keystore.Name) ([]byte, error) {
	if err := t.may(n, t.meter.Read(n)); err != nil {
		return nil, err
	}
	value, err := t.get(n)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return nil, t.meter.Fail(err)
	}
	return value, err
}

func (t *tx) Put(n keystore.Name, value []byte) error {
	if err := t.may(n, t.meter.Write(n, len(value))); err != nil {
		return err
	}
	record, err := t.seal(n, value)
	if err == nil {
		err = t.below.Put(n, record)
	}
	if err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// Delete opens nothing: a row that is broken can be removed.
func (t *tx) Delete(n keystore.Name) error {
	if err := t.may(n, t.meter.Write(n, 0)); err != nil {
		return err
	}
	if err := t.below.Delete(n); err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// may adds to what the meter said that a transaction ends with its function and reaches sealed rows
// only.
func (t *tx) may(n keystore.Name, metered error) error {
	switch {
	case t.over:
		return keystore.ErrClosed
	case metered != nil:
		return metered
	case !ownName(n):
		return t.meter.Fail(keystore.ErrName)
	}
	return nil
}

// ownName reports whether n is for this layer: below it are rows, of buckets for one, that no
// service may read or write.
func ownName(n keystore.Name) bool { return n.Valid() && n.Space().Sealed() }

// seal returns the record of a row and makes the row of its bucket if this is the first record
// there.
func (t *tx) seal(n keystore.Name, value []byte) ([]byte, error) {
	t.forget(n)
	b, err := t.bucketOf(n)
	if err != nil {
		return nil, err
	}
	key, err := t.bucketKey(b)
	if errors.Is(err, keystore.ErrNotFound) {
		key, err = t.makeBucket(b)
	}
	if err != nil {
		return nil, err
	}
	return seal.SealRecord(nil, key.key(), t.store.place(b, key.number), n.Append(nil), value)
}

// makeBucket draws the first key of a bucket and puts its row.
func (t *tx) makeBucket(b uint16) (bucketKey, error) {
	key, err := newBucketKey()
	if err != nil {
		return bucketKey{}, err
	}
	row, err := t.sealBucket(b, key)
	if err == nil {
		err = t.below.Put(bucketName(b), row)
	}
	if err != nil {
		key.Free()
		return bucketKey{}, err
	}
	t.keep(b, key)
	return key, nil
}
