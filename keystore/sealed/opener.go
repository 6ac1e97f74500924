package sealed

import (
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

const (
	// domainVersion is the version of the domain key whose wrapping key seals bucket rows.
	domainVersion = 1
	// keySize is the length of every key here, in bytes.
	keySize = 32

	// maxValues and maxBytes bound the opened values of one transaction, and maxBuckets its bucket
	// keys: locked memory is scarce.
	maxValues  = 128
	maxBytes   = keystore.MaxBytes
	maxBuckets = 64
)

// opener holds the keys and the opened values of one transaction, all in locked memory, and wipes
// them at its end.
type opener struct {
	store *Store
	read  func(keystore.Name) ([]byte, error) // a row of the store below
	over  bool

	wrapping *securemem.Buffer // or nil, like names, until it is needed
	names    *securemem.Buffer
	buckets  map[uint16]bucketKey

	// values are by name for a second Get; held are all that were handed out, also those that a Put
	// has replaced since.
	values map[keystore.Name]*securemem.Buffer
	held   []*securemem.Buffer
	bytes  int
}

// newOpener returns an opener over read, which is the Get of the transaction below; so bucket rows
// are read in the same snapshot as records.
func newOpener(s *Store, read func(keystore.Name) ([]byte, error)) *opener {
	return &opener{store: s, read: read, buckets: make(map[uint16]bucketKey), values: make(map[keystore.Name]*securemem.Buffer)}
}

// close wipes everything.
func (o *opener) close() {
	o.over = true
	for _, b := range append(o.held, o.wrapping, o.names) {
		b.Free()
	}
	o.freeBuckets()
}

// get returns the value of a row, opened once per transaction. The row is read again each time,
// since the store below knows whether the transaction may still read.
func (o *opener) get(n keystore.Name) ([]byte, error) {
	record, err := o.read(n)
	if err != nil {
		return nil, err
	}
	if value, ok := o.values[n]; ok {
		return bytes(value), nil
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
	return bytes(value), nil
}

// forget makes the next get open the row anew.
func (o *opener) forget(n keystore.Name) { delete(o.values, n) }

// bytes returns what a buffer holds; the nil one holds the empty value.
func bytes(b *securemem.Buffer) []byte {
	if b == nil {
		return []byte{}
	}
	return b.Bytes()
}

// open returns the value of a record in locked memory that the caller owns, nil for the empty
// value.
func (o *opener) open(n keystore.Name, record []byte) (*securemem.Buffer, error) {
	b, err := o.bucketOf(n)
	if err != nil {
		return nil, err
	}
	key, err := o.bucketKey(b)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, broken(bucketName(b))
	}
	if err != nil {
		return nil, err
	}
	return openRecord(key.key(), o.store.place(b, key.number), n, record)
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
	if _, err := seal.OpenRecord(bytes(value)[:0], key, p, n.Append(nil), record); err != nil {
		value.Free()
		return nil, broken(n)
	}
	return value, nil
}

// place says where records of a bucket live that are sealed with the key of this number.
func (s *Store) place(b uint16, number uint32) seal.Place {
	return seal.Place{Appliance: s.appliance, Bucket: b, Number: number}
}

// bucketOf returns the bucket of a name. The hash is keyed so that nobody who chooses names can
// crowd one bucket, nor learn from the names which rows share a key.
func (o *opener) bucketOf(n keystore.Name) (uint16, error) {
	key, err := o.derived(&o.names, seal.LabelName)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint16(seal.MAC(nil, key, n.Append(nil))), nil
}

// derived returns a key of the appliance, which it keeps in *at. It is derived anew in every
// transaction, so that a locked appliance has none.
func (o *opener) derived(at **securemem.Buffer, label seal.Label) ([]byte, error) {
	if *at != nil {
		return (*at).Bytes(), nil
	}
	key, err := securemem.New(keySize)
	if err != nil {
		return nil, err
	}
	if err := o.store.keys.Derive(key.Bytes(), domainVersion, label, o.store.appliance[:]); err != nil {
		key.Free()
		return nil, err
	}
	*at = key
	return key.Bytes(), nil
}

// bucketKey is the value of a bucket row as it is stored: number 4 ‖ key 32.
type bucketKey struct {
	*securemem.Buffer
	number uint32
}

// bucketValueSize is the one length that the value of a bucket row has.
const bucketValueSize = 4 + keySize

// key returns the 32 bytes that seal records, in locked memory.
func (k bucketKey) key() []byte { return k.Bytes()[4:] }

// newBucketKey draws the first key of a bucket.
func newBucketKey() (bucketKey, error) {
	b, err := securemem.New(bucketValueSize)
	if err != nil {
		return bucketKey{}, err
	}
	binary.BigEndian.PutUint32(b.Bytes(), 1)
	_, _ = rand.Read(b.Bytes()[4:]) // never fails: it ends the program rather than return an error
	return bucketKey{b, 1}, nil
}

// bucketKey returns the key of a bucket, or ErrNotFound when the bucket has no row: for a read of a
// record that is damage, for the first write it is the bucket's beginning.
func (o *opener) bucketKey(b uint16) (bucketKey, error) {
	if key, ok := o.buckets[b]; ok {
		return key, nil
	}
	row, err := o.read(bucketName(b))
	if err != nil {
		return bucketKey{}, err
	}
	wrapping, err := o.derived(&o.wrapping, seal.LabelBucket)
	if err != nil {
		return bucketKey{}, err
	}
	value, err := openRecord(wrapping, o.store.place(b, domainVersion), bucketName(b), row)
	if err != nil {
		return bucketKey{}, err
	}
	if len(bytes(value)) != bucketValueSize {
		value.Free()
		return bucketKey{}, broken(bucketName(b))
	}
	key := bucketKey{value, binary.BigEndian.Uint32(value.Bytes())}
	o.keep(b, key)
	return key, nil
}

// keep remembers a bucket's key for the rest of the transaction, or until there are too many.
func (o *opener) keep(b uint16, key bucketKey) {
	if len(o.buckets) >= maxBuckets {
		o.freeBuckets()
	}
	o.buckets[b] = key
}

// freeBuckets wipes the bucket keys; the next one needed is opened from its row again.
func (o *opener) freeBuckets() {
	for b, key := range o.buckets {
		key.Free()
		delete(o.buckets, b)
	}
}

// sealBucket returns the row of a bucket with this key.
func (o *opener) sealBucket(b uint16, key bucketKey) ([]byte, error) {
	wrapping, err := o.derived(&o.wrapping, seal.LabelBucket)
	if err != nil {
		return nil, err
	}
	return seal.SealRecord(nil, wrapping, o.store.place(b, domainVersion), bucketName(b).Append(nil), key.Bytes())
}

// bucketName returns the name of a bucket's row.
func bucketName(b uint16) keystore.Name {
	return keystore.MakeName(keystore.SpaceBucket, string(binary.BigEndian.AppendUint16(nil, b)))
}
