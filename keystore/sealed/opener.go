package sealed

import (
	"crypto/subtle"
	"errors"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of one transaction: locked memory is scarce. Values that were handed out stay until its
// end, so that too many are an error; buckets can be opened again, so that most are only wiped.
const (
	maxValues      = 128               // opened values
	maxBytes       = keystore.MaxBytes // of them
	maxBuckets     = 64                // opened buckets, beyond which those that are not dirty are wiped
	maxBucketBytes = keystore.MaxBytes // of opened buckets, as far; dirty ones beyond are an error
)

// opener reads for one transaction, and proves what it reads against one version of the store. It
// holds opened buckets and values, all in locked memory, and wipes them at its end. It is for the
// goroutine of that transaction alone.
type opener struct {
	store *Store
	read  func(keystore.Name) ([]byte, error) // a row of the store below
	at    *version                            // what every row must agree with

	// buckets are those that are opened, with those that have no row; bucketBytes is the locked
	// memory they take.
	buckets     map[uint16]*bucket
	bucketBytes int

	// values are by name for a second Get; held are all that were handed out, also those that a Put
	// has replaced since.
	values map[keystore.Name]*securemem.Buffer
	held   []*securemem.Buffer
	bytes  int
}

// newOpener returns an opener over read, the Get of the transaction below, whose snapshot is of
// version at. It owns one use of at.
func newOpener(s *Store, read func(keystore.Name) ([]byte, error), at *version) *opener {
	return &opener{store: s, read: read, at: at, buckets: make(map[uint16]*bucket), values: make(map[keystore.Name]*securemem.Buffer)}
}

// close wipes everything, and gives back the version. What was handed out must not be touched any
// more.
func (o *opener) close() {
	for _, b := range o.held {
		b.Free()
	}
	for number, b := range o.buckets {
		o.evict(number, b)
	}
	o.store.ledger.release(o.at)
}

// get returns the value of a row, opened once per transaction. The row is read again each time,
// since the store below knows whether the transaction may still read.
func (o *opener) get(n keystore.Name) ([]byte, error) {
	record, err := o.read(n)
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		if err := o.absent(n); err != nil {
			return nil, err
		}
		return nil, err
	case err != nil:
		return nil, err
	}
	if value, ok := o.values[n]; ok {
		return contents(value), nil
	}
	if len(o.held) >= maxValues {
		return nil, keystore.ErrTooManyRows
	}
	if o.bytes+len(record) > maxBytes {
		return nil, keystore.ErrTooLarge
	}
	value, err := o.open(n, record)
	if err != nil {
		return nil, err
	}
	o.values[n] = value
	o.held = append(o.held, value)
	o.bytes += len(record)
	return contents(value), nil
}

// forget makes the next get open the row anew.
func (o *opener) forget(n keystore.Name) { delete(o.values, n) }

// contents returns what a buffer holds; the nil one holds the empty value.
func contents(b *securemem.Buffer) []byte {
	if b == nil {
		return []byte{}
	}
	return b.Bytes()
}

// absent proves that there is no row of this name: its bucket does not list it. Whoever removes a
// record below must so remove the bucket row, too, and the state root with that.
func (o *opener) absent(n keystore.Name) error {
	at := o.store.locate(n)
	b, err := o.bucket(at.bucket)
	if err != nil {
		return err
	}
	if _, listed := b.mark(at.hash); listed && !unchecked.Load() {
		return broken(n, "was removed")
	}
	return nil
}

// open returns the value of a record in locked memory that the caller owns and frees, nil for the
// empty value, when the record is the one that its bucket lists. The AEAD alone would not do: it
// accepts every record that was ever sealed under this name while the bucket had this key.
func (o *opener) open(n keystore.Name, record []byte) (*securemem.Buffer, error) {
	at := o.store.locate(n)
	b, err := o.bucket(at.bucket)
	if err != nil {
		return nil, err
	}
	r, ok := seal.ParseRecord(record)
	if !ok || len(record) > keystore.MaxValue+seal.RecordOverhead {
		return nil, broken(n, "is not a record")
	}
	mark, listed := b.mark(at.hash)
	switch {
	case b.mem == nil, !listed && !unchecked.Load():
		return nil, broken(n, "was brought back, or written by someone else")
	case mark != r.Mark && !unchecked.Load():
		return nil, broken(n, "is not the record that was written last")
	}
	number, key := b.under(r.Number)
	return openRecord(key, o.store.place(at.bucket, number), n, record)
}

// openRecord opens a record into locked memory. Whatever is wrong with the record, the answer is
// one and the same: it is not told apart whether the key, the place, the name or a byte differs.
func openRecord(key []byte, p seal.Place, n keystore.Name, record []byte) (*securemem.Buffer, error) {
	var value *securemem.Buffer
	if size := len(record) - seal.RecordOverhead; size > 0 {
		var err error
		if value, err = securemem.New(size); err != nil {
			return nil, err
		}
	}
	if _, err := seal.OpenRecord(contents(value)[:0], key, p, n.Append(nil), record); err != nil {
		value.Free()
		return nil, broken(n, "does not open")
	}
	return value, nil
}

// bucket returns an opened bucket, once it is proved that its row is the one that the hash tree
// stands on; or the zero bucket, once it is proved that there should be no row. It is valid until
// the next call, longer only when it is dirty. It returns [ErrSealBroken] that names the bucket,
// and the errors of the store below, of makeRoom and of securemem.
func (o *opener) bucket(number uint16) (*bucket, error) {
	if b, ok := o.buckets[number]; ok {
		return b, nil
	}
	row, err := o.read(bucketName(number))
	absent := errors.Is(err, keystore.ErrNotFound)
	if err != nil && !absent {
		return nil, err
	}
	if err := o.makeRoom(len(row)); err != nil {
		return nil, err
	}
	b := new(bucket)
	switch {
	case !absent:
		if b, err = o.openBucket(number, row); err != nil {
			return nil, err
		}
	case o.at.tree.leaf(number) != nil && !unchecked.Load():
		return nil, broken(bucketName(number), "was removed")
	}
	o.buckets[number] = b
	o.bucketBytes += b.size()
	return b, nil
}

// openBucket proves and opens a row. The digest comes before the key is touched: a row that is not
// ours to the last bit costs one hash.
func (o *opener) openBucket(number uint16, row []byte) (*bucket, error) {
	leaf, version, err := o.at.keys.parseLeaf(number, row)
	if err != nil {
		return nil, err
	}
	want := o.at.tree.leaf(number).value()
	if subtle.ConstantTimeCompare(leaf.sum[:], want[:]) != 1 && !unchecked.Load() {
		return nil, broken(bucketName(number), "is not the row that was written last")
	}
	return version.openBucket(o.store.appliance, number, row)
}

// makeRoom wipes opened buckets when there are too many for another one of this size, in bytes. A
// dirty one is all that knows of what the transaction has written, and stays: where those alone
// leave no room the answer is keystore.ErrTooLarge.
func (o *opener) makeRoom(size int) error {
	if len(o.buckets) < o.store.maxBuckets && o.bucketBytes+size <= o.store.maxBucketBytes {
		return nil
	}
	for number, b := range o.buckets {
		if !b.dirty() {
			o.evict(number, b)
		}
	}
	if o.bucketBytes+size > o.store.maxBucketBytes {
		return keystore.ErrTooLarge
	}
	return nil
}

func (o *opener) evict(number uint16, b *bucket) {
	o.bucketBytes -= b.size()
	b.free()
	delete(o.buckets, number)
}
