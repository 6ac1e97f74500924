package sealed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Sizes of the value of a bucket row, in bytes: its head, number 4 ‖ key 32, and the entries of the
// records, hash 16 ‖ mark 32.
const (
	bucketHead = 4 + keySize
	hashSize   = 16
	entrySize  = hashSize + 32
	// maxBucketRow is the longest bucket row that the store below takes.
	maxBucketRow = keystore.MaxValue + 256
)

// spot is where a name belongs.
type spot struct {
	bucket uint16
	hash   [hashSize]byte // of the name, in its bucket
}

// locate returns the spot of a name. The hash is keyed so that nobody who chooses names can crowd
// one bucket, nor learn from the names which rows share a key.
func (s *Store) locate(n keystore.Name) spot {
	var room [32]byte
	h := seal.MAC(room[:0], s.names.Bytes(), n.Append(nil))
	return spot{uint16(int(binary.BigEndian.Uint16(h)) % s.spread), [hashSize]byte(h[2:])}
}

// place says where records of a bucket live that are sealed with the key of this number.
func (s *Store) place(bucket uint16, number uint32) seal.Place {
	return seal.Place{Appliance: s.appliance, Bucket: bucket, Number: number}
}

// bucketName returns the name of a bucket's row.
func bucketName(bucket uint16) keystore.Name {
	return keystore.MakeName(keystore.SpaceBucket, string(binary.BigEndian.AppendUint16(nil, bucket)))
}

// parseBucketName returns the bucket whose row has this name.
func parseBucketName(n keystore.Name) (bucket uint16, ok bool) {
	c := n.Components()
	if n.Space() != keystore.SpaceBucket || len(c) != 1 || len(c[0]) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16([]byte(c[0])), true
}

// newLeaf returns what the hash tree holds of a bucket's stored row, which lists rows records: the
// digest HMAC(state key, bucket 2 ‖ row). It is keyed, so that nothing about an older row of the
// bucket follows from the tree's nodes.
func (k *versionKeys) newLeaf(bucket uint16, row []byte, rows int) *node {
	leaf := &node{rows: rows}
	leaf.keys[k.slot] = 1
	seal.MAC(leaf.sum[:0], k.state.Bytes(), binary.BigEndian.AppendUint16(make([]byte, 0, 2), bucket), row)
	return leaf
}

// parseLeaf returns what the hash tree holds of a stored row that was read, and the keys that the
// row names, or what is wrong with its form or its version of the domain key. It opens nothing, and
// what it says of the row is the row's own word until the digest is compared.
func (k keyset) parseLeaf(bucket uint16, row []byte) (*node, *versionKeys, error) {
	r, ok := seal.ParseRecord(row)
	rows, _, whole := shape(len(row) - seal.RecordOverhead)
	if !ok || len(row) > maxBucketRow || !whole {
		return nil, nil, broken(bucketName(bucket), "is not a bucket row")
	}
	version := k.of(r.Number)
	if version == nil {
		return nil, nil, broken(bucketName(bucket), fmt.Sprintf("is sealed under version %d of the domain key, which is not in use", r.Number))
	}
	return version.newLeaf(bucket, row, rows), version, nil
}

// shape returns how many records a bucket row of so many bytes lists, and whether it has an older part,
// or that none is so long.
func shape(size int) (rows int, renewing, whole bool) {
	size -= bucketHead
	if renewing = size%entrySize == olderFrame%entrySize; renewing {
		size -= olderFrame
	}
	return size / entrySize, renewing, size >= entrySize && size%entrySize == 0
}

// bucket is a bucket row that was opened: number 4 ‖ key 32 ‖ entries, 48 bytes each, in ascending
// order of hashes, and while it is renewed the older part, see renew.go. The zero bucket is one that has
// no row. All of it is in locked memory: the keys for their own sake, the entries since they come out
// of the same AEAD.
type bucket struct {
	mem   *securemem.Buffer // nil without a row
	used  int               // bytes of mem
	older int               // of them, those before the older part; 0 = it has none

	// added are the hashes of entries that were not there before; changed says that one was replaced
	// or removed that was.
	added   [][hashSize]byte
	changed bool
}

// openBucket opens a row whose form was checked by parseLeaf, with room for one more entry, which is
// all that most transactions add. The caller frees the bucket.
func (k *versionKeys) openBucket(appliance [16]byte, number uint16, row []byte) (*bucket, error) {
	size := len(row) - seal.RecordOverhead
	mem, err := securemem.New(size + entrySize)
	if err != nil {
		return nil, err
	}
	b := &bucket{mem: mem, used: size}
	if _, err = k.unwrap(mem.Bytes()[:0], appliance, number, bucketName(number), row); err != nil || !b.split() || !b.ordered() {
		mem.Free()
		return nil, broken(bucketName(number), "does not open")
	}
	return b, nil
}

func (b *bucket) free() { b.mem.Free() }

// size returns the bytes of locked memory.
func (b *bucket) size() int {
	if b.mem == nil {
		return 0
	}
	return b.mem.Len()
}

func (b *bucket) plaintext() []byte { return b.mem.Bytes()[:b.used] }
func (b *bucket) number() uint32    { return binary.BigEndian.Uint32(b.mem.Bytes()) }
func (b *bucket) key() []byte       { return b.mem.Bytes()[4:bucketHead] }

// dirty reports whether the entries differ from those of the stored row.
func (b *bucket) dirty() bool { return b.changed || len(b.added) > 0 }

// under returns the number and the key that a record says it is sealed with, the newest ones if the
// bucket has no such key.
func (b *bucket) under(number uint32) (uint32, []byte) {
	if b.older != 0 && number == b.olderNumber() {
		return number, b.mem.Bytes()[b.older+4 : b.older+bucketHead]
	}
	return b.number(), b.key()
}

// rows returns how many entries there are.
func (b *bucket) rows() int { return (len(b.entries()) + len(b.left())) / entrySize }

// entries are those of records that are sealed with the newest key.
func (b *bucket) entries() []byte {
	switch {
	case b.mem == nil:
		return nil
	case b.older != 0:
		return b.mem.Bytes()[bucketHead:b.older]
	}
	return b.mem.Bytes()[bucketHead:b.used]
}

// ordered reports whether the entries are what this package writes.
func (b *bucket) ordered() bool {
	return b.number() > 0 && ascending(b.entries()) && ascending(b.left())
}

func ascending(entries []byte) bool {
	for at := entrySize; at < len(entries); at += entrySize {
		if bytes.Compare(entries[at-entrySize:][:hashSize], entries[at:][:hashSize]) >= 0 {
			return false
		}
	}
	return true
}

// search returns where among entries the one with this hash is, in bytes, or where it would be inserted.
func search(entries []byte, hash [hashSize]byte) (at int, found bool) {
	i, found := sort.Find(len(entries)/entrySize, func(i int) int { return bytes.Compare(hash[:], entries[i*entrySize:][:hashSize]) })
	return i * entrySize, found
}

// find returns where in mem the entry with this hash is, in either part, or where it would be inserted.
func (b *bucket) find(hash [hashSize]byte) (at int, found bool) {
	if at, found := search(b.left(), hash); found {
		return b.older + bucketHead + at, true
	}
	at, found = search(b.entries(), hash)
	return bucketHead + at, found
}

// mark returns the mark of the record that is listed under a hash.
func (b *bucket) mark(hash [hashSize]byte) (mark [32]byte, listed bool) {
	at, listed := b.find(hash)
	if listed {
		copy(mark[:], b.mem.Bytes()[at+hashSize:])
	}
	return mark, listed
}

// create draws the key of a bucket that has none. Where an earlier row of the bucket was removed with
// its last record, its key is gone for ever, and the number begins at 1 again.
func (b *bucket) create() error {
	if b.mem != nil {
		return nil
	}
	mem, err := securemem.New(bucketHead + entrySize)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(mem.Bytes(), 1)
	random(mem.Bytes()[4:bucketHead])
	b.mem, b.used = mem, bucketHead
	return nil
}

// set lists a record that is sealed with the newest key under the hash of its name, in the place of one
// that is listed already.
func (b *bucket) set(hash [hashSize]byte, mark [32]byte) error {
	if b.isLeft(hash) {
		b.remove(hash)
	}
	at, found := b.find(hash)
	switch {
	case !found:
		if err := b.insert(at); err != nil {
			return err
		}
		b.added = append(b.added, hash)
	case !slices.Contains(b.added, hash):
		b.changed = true
	}
	copy(b.mem.Bytes()[at:], hash[:])
	copy(b.mem.Bytes()[at+hashSize:], mark[:])
	return nil
}

// insert makes room for an entry at a place before the older part, in a larger buffer where this one is
// full: a quarter larger, so that a transaction that fills a bucket copies it a few times only.
func (b *bucket) insert(at int) error {
	if b.used+entrySize > b.mem.Len() {
		mem, err := securemem.New(b.used + b.used/4 + entrySize)
		if err != nil {
			return err
		}
		copy(mem.Bytes(), b.plaintext())
		b.mem.Free()
		b.mem = mem
	}
	all := b.mem.Bytes()
	copy(all[at+entrySize:], all[at:b.used])
	b.used += entrySize
	if b.older != 0 {
		b.older += entrySize
	}
	return nil
}

// remove takes an entry off the list, where it is.
func (b *bucket) remove(hash [hashSize]byte) {
	at, found := b.find(hash)
	if !found {
		return
	}
	all := b.plaintext()
	copy(all[at:], all[at+entrySize:])
	b.used -= entrySize
	switch {
	case b.older > at:
		b.older -= entrySize
	case b.older != 0:
		b.leave()
	}
	if j := slices.Index(b.added, hash); j >= 0 {
		b.added = slices.Delete(b.added, j, j+1)
	} else {
		b.changed = true
	}
}
