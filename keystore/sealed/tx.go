package sealed

import (
	"errors"
	"maps"
	"slices"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// tx is the Tx of an Update. It keeps the count of rows that its caller may touch: below, each
// comes with that of its bucket, and all with the anchor row, so 40 rows are at most 81 there. What
// it writes goes below at once, but for the buckets: those are written once, by finish. The
// transaction below knows when it is over.
type tx struct {
	*opener
	below keystore.Tx
	raw   *rawTx
	meter keystore.Meter

	keys  keyset // what the rows that are written and the state root are sealed with
	force bool   // there is a new state root even if no bucket has changed
}

// newTx returns the transaction that reads through o and writes to below. It lives as long as o.
func newTx(o *opener, below keystore.Tx) *tx {
	return &tx{opener: o, below: below, raw: &rawTx{below: below}, keys: o.at.keys}
}

// Get proves what it returns, also that there is nothing. Any error but keystore.ErrNotFound keeps
// the transaction from committing: who overlooks it would decide on less than he asked for.
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

// Put seals value at once, and keeps no reference to it. The row's record gets a salt of its own, so
// its mark differs from that of every record before it, and of every other run of the transaction.
func (t *tx) Put(n keystore.Name, value []byte) error {
	if err := t.may(n, t.meter.Write(n, len(value))); err != nil {
		return err
	}
	if err := t.put(n, value); err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// put seals a row and lists its record in the bucket. What stood there before does not matter: a
// row that is broken can be written anew.
func (t *tx) put(n keystore.Name, value []byte) error {
	at := t.store.locate(n)
	b, err := t.writable(at.bucket)
	if err != nil {
		return err
	}
	record, err := seal.SealRecord(nil, b.key(), t.store.place(at.bucket, b.number()), n.Append(nil), value)
	if err != nil {
		return err
	}
	before := b.size()
	r, _ := seal.ParseRecord(record)
	if err := b.set(at.hash, r.Mark); err != nil {
		return err
	}
	t.bucketBytes += b.size() - before
	t.forget(n)
	return t.below.Put(n, record)
}

// writable returns a bucket that has a key, a new one where the bucket had no row.
func (t *tx) writable(number uint16) (*bucket, error) {
	b, err := t.bucket(number)
	if err != nil {
		return nil, err
	}
	before := b.size()
	if err := b.create(); err != nil {
		return nil, err
	}
	t.bucketBytes += b.size() - before
	return b, nil
}

// Delete proves nothing of the row and opens only its bucket: a row that is broken can be removed.
func (t *tx) Delete(n keystore.Name) error {
	if err := t.may(n, t.meter.Write(n, 0)); err != nil {
		return err
	}
	at := t.store.locate(n)
	b, err := t.bucket(at.bucket)
	if err == nil {
		b.remove(at.hash)
		err = t.below.Delete(n)
	}
	if err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// may adds to what the meter said that a transaction reaches sealed rows only.
func (t *tx) may(n keystore.Name, metered error) error {
	switch {
	case metered != nil:
		return metered
	case !ownName(n):
		return t.meter.Fail(keystore.ErrName)
	}
	return nil
}

// finish writes the bucket rows that have changed and the anchor row, and returns the version that
// they are, nil when there is no change: a transaction that only read leaves no trace. From then on
// the version is known, before anybody can read it. Of the transactions that commit together each
// puts the anchor row, and the last one's reaches the medium.
func (t *tx) finish() (*version, error) {
	if err := t.meter.Err(); err != nil {
		return nil, err
	}
	if err := t.raw.meter.Err(); err != nil {
		return nil, err
	}
	changes, err := t.putBuckets()
	if err != nil || len(changes) == 0 && !t.force {
		return nil, err
	}
	next := t.store.newVersion(t.at.anchor.generation()+1, t.at.tree.with(changes), t.keys)
	if err := t.below.Put(t.store.anchor, next.anchor[:]); err != nil {
		return nil, err
	}
	t.store.ledger.add(next)
	return next, nil
}

// putBuckets writes the bucket rows that have changed, under the newest version of the domain key,
// and returns the changes of the hash tree that this makes, in the order of buckets.
func (t *tx) putBuckets() (changes []change, err error) {
	for _, number := range slices.Sorted(maps.Keys(t.buckets)) {
		b := t.buckets[number]
		if !b.dirty() {
			continue
		}
		leaf, err := t.putBucket(number, b)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change{number, leaf})
	}
	return changes, nil
}

// putBucket writes one bucket row, or removes that of a bucket where nothing is left: with it goes the
// bucket's key, so that what was deleted cannot be opened by who has the domain key later.
func (t *tx) putBucket(number uint16, b *bucket) (*node, error) {
	n, keys := bucketName(number), t.keys.newest()
	if b.rows() == 0 {
		return nil, t.below.Delete(n)
	}
	row, err := keys.wrap(nil, t.store.appliance, number, n, b.plaintext())
	if err != nil {
		return nil, err
	}
	return keys.newLeaf(number, row, b.rows()), t.below.Put(n, row)
}

// rawTx is the Tx of the rows that are not sealed, beside a tx, in the same transaction below. It
// proves nothing: the owners of those rows do that. It has limits of its own, those of an Update.
type rawTx struct {
	below keystore.Tx
	meter keystore.Meter
}

// Get, Put and Delete are those of the store below. Their errors, too, keep the whole transaction
// from committing, but for keystore.ErrNotFound.
func (t *rawTx) Get(n keystore.Name) ([]byte, error) {
	if err := t.may(n, t.meter.Read(n)); err != nil {
		return nil, err
	}
	value, err := t.below.Get(n)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return nil, t.meter.Fail(err)
	}
	return value, err
}

func (t *rawTx) Put(n keystore.Name, value []byte) error {
	return t.write(n, len(value), func() error { return t.below.Put(n, value) })
}

func (t *rawTx) Delete(n keystore.Name) error {
	return t.write(n, 0, func() error { return t.below.Delete(n) })
}

// write does one write of size bytes, if it may be.
func (t *rawTx) write(n keystore.Name, size int, do func() error) error {
	if err := t.may(n, t.meter.Write(n, size)); err != nil {
		return err
	}
	if err := do(); err != nil {
		return t.meter.Fail(err)
	}
	return nil
}

// may keeps a rawTx from sealed rows, which would come to be without their bucket, and from this
// package's own, which would then not be those of the state root.
func (t *rawTx) may(n keystore.Name, metered error) error {
	if metered != nil {
		return metered
	}
	switch n.Space() {
	case keystore.SpaceBucket, keystore.SpaceAnchor, keystore.SpaceNameKey:
		return t.meter.Fail(keystore.ErrName)
	}
	if n.Space().Sealed() {
		return t.meter.Fail(keystore.ErrName)
	}
	return nil
}
