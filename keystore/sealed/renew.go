package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of a Renew.
const (
	renewNames = 4096                  // names that are read in one snapshot
	renewHeld  = 1 << 17               // names that are in memory at a time, as long as one bucket has fewer
	renewTries = 10                    // to find the names of buckets that are changed meanwhile
	renewRows  = 64                    // records that one transaction seals anew: other Updates wait for it
	renewBytes = keystore.MaxBytes / 2 // of them, beyond which there is no other one in the transaction
)

// The older part of a bucket that is renewed follows the entries of those records that are sealed with the
// newest key already. It is what the bucket was, number 4 ‖ key 32 ‖ entries, and how many entries it
// still has, 4 bytes. With the last one that leaves, the part goes, and its key.
const olderFrame = bucketHead + 4

// errMoved says that a bucket lists records that were not found for it.
var errMoved = errors.New("keystore/sealed: the bucket is changed at the same time")

// Renew gives the bucket of each of these names, of rows that were deleted, another random key, and
// seals the records that are left in it under that one. So the key under which the deleted rows were
// sealed is nowhere but in older copies of the bucket's row, which a rotation of the domain key
// closes for ever (FORMAT.md, "Renewal"). A bucket takes as many transactions as it needs, between which
// it holds both keys and every row can be read; one that was cut off is brought to its end by the
// next Renew of its bucket, which then gives it yet another key.
//
// It reads the names of all rows, in many snapshots, and may run beside everything else. It returns
// ErrSealBroken where a record of such a bucket is not what was written, the errors of an Update, and
// keystore.ErrTooLarge for a bucket with 2,733 rows, the most that one can have, which no store of less
// than 170 million rows comes to.
func (s *Store) Renew(ctx context.Context, names []keystore.Name) error {
	todo := map[uint16]*renewal{}
	for _, n := range names {
		number := s.locate(n).bucket
		todo[number] = &renewal{number: number}
	}
	for range renewTries {
		if err := s.renewAll(ctx, todo); err != nil {
			return err
		}
		if len(todo) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w, again and again", errMoved)
}

// renewAll renews buckets and takes those off todo that are; the others have changed meanwhile.
func (s *Store) renewAll(ctx context.Context, todo map[uint16]*renewal) error {
	for left := maps.Clone(todo); len(left) > 0; {
		members, err := s.members(ctx, s.some(left, renewHeld))
		if err != nil {
			return err
		}
		for number, names := range members {
			switch err := s.renewBucket(ctx, todo[number], names); {
			case err == nil:
				delete(todo, number)
			case !errors.Is(err, errMoved):
				return fmt.Errorf("bucket %d: %w", number, err)
			}
			delete(left, number)
		}
	}
	return nil
}

// some returns as many of these buckets as have no more than so many records between them, and at least
// one, with room for the names.
func (s *Store) some(of map[uint16]*renewal, most int) map[uint16][]keystore.Name {
	some, held, tree := map[uint16][]keystore.Name{}, 0, s.ledger.current().tree
	for number := range of {
		if leaf := tree.leaf(number); leaf != nil {
			held += leaf.rows
		}
		if len(some) > 0 && held > most {
			break
		}
		some[number] = nil
	}
	return some
}

// members adds the names of the rows in some buckets to them, and returns them.
func (s *Store) members(ctx context.Context, found map[uint16][]keystore.Name) (map[uint16][]keystore.Name, error) {
	next, end := keystore.SealedRange()
	var last keystore.Name
	for more := true; more; {
		err := s.view(ctx, func(r *reader) error {
			more = false
			left := renewNames
			for e, err := range r.below.Scan(next, end) {
				switch {
				case err != nil:
					return err
				case e.Name == last:
					continue
				case left == 0:
					more = true
					return nil
				}
				left--
				next, last = e.Name, e.Name
				number := s.locate(e.Name).bucket
				if names, of := found[number]; of {
					found[number] = append(names, e.Name)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// renewal is one of a bucket.
type renewal struct {
	number uint16
	begun  bool // since Renew was called, the bucket got a key
	done   bool
}

// renewBucket renews a bucket whose rows have these names, in as many transactions as it takes.
func (s *Store) renewBucket(ctx context.Context, w *renewal, names []keystore.Name) error {
	for !w.done {
		var next renewal
		_, err := s.update(ctx, func(t *tx) error {
			next = *w
			return t.renew(&next, names)
		})
		if err != nil {
			return err
		}
		*w = next
	}
	return nil
}

// renew gives a bucket a key, once every record is under the one that it has, and moves records to it.
func (t *tx) renew(w *renewal, names []keystore.Name) error {
	b, err := t.bucket(w.number)
	if err != nil {
		return err
	}
	if b.rows() == 0 { // its key is gone with its last record
		w.done = true
		return nil
	}
	if b.older == 0 && !w.begun {
		w.begun = true
		before := b.size()
		if err := b.renew(); err != nil {
			return err
		}
		t.bucketBytes += b.size() - before
	}
	err = t.move(b, w.number, names)
	w.done = w.begun && b.older == 0
	return err
}

// move seals records of the bucket's older part under its newest key, as many as go into a transaction.
func (t *tx) move(b *bucket, number uint16, names []keystore.Name) error {
	rows, bytes := 0, 0
	for _, n := range names {
		if b.older == 0 || rows == renewRows || bytes > renewBytes {
			return nil
		}
		hash := t.store.locate(n).hash
		if !b.isLeft(hash) {
			continue
		}
		size, err := t.reseal(b, number, n, hash)
		if err != nil {
			return err
		}
		rows++
		bytes += n.Len() + size
	}
	if b.older != 0 && rows == 0 {
		return errMoved
	}
	return nil
}

// reseal moves one record, which must be the one that the bucket lists, to the bucket's newest key, and
// returns how many bytes it has.
func (t *tx) reseal(b *bucket, number uint16, n keystore.Name, hash [hashSize]byte) (int, error) {
	record, err := t.read(n)
	if errors.Is(err, keystore.ErrNotFound) {
		return 0, broken(n, "was removed")
	}
	if err != nil {
		return 0, err
	}
	r, ok := seal.ParseRecord(record)
	if mark, _ := b.mark(hash); !ok || mark != r.Mark {
		return 0, broken(n, "is not the record that was written last")
	}
	was, key := b.under(r.Number)
	value, err := openRecord(key, t.store.place(number, was), n, record)
	if err != nil {
		return 0, err
	}
	defer value.Free()
	fresh, err := seal.SealRecord(nil, b.key(), t.store.place(number, b.number()), n.Append(nil), contents(value))
	if err != nil {
		return 0, err
	}
	r, _ = seal.ParseRecord(fresh)
	if err := b.set(hash, r.Mark); err != nil {
		return 0, err
	}
	return len(fresh), t.below.Put(n, fresh)
}

// renew draws the bucket's next key. All that the bucket was becomes its older part.
func (b *bucket) renew() error {
	if b.used+olderFrame+seal.RecordOverhead > maxBucketRow {
		return keystore.ErrTooLarge
	}
	mem, err := securemem.New(b.used + olderFrame + entrySize)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(mem.Bytes(), b.number()+1)
	random(mem.Bytes()[4:bucketHead])
	copy(mem.Bytes()[bucketHead:], b.plaintext())
	binary.BigEndian.PutUint32(mem.Bytes()[bucketHead+b.used:], uint32(b.rows()))
	b.mem.Free()
	b.mem, b.used, b.older, b.changed = mem, b.used+olderFrame, bucketHead, true
	return nil
}

// split finds the older part of a bucket that was opened, and reports whether it is one.
func (b *bucket) split() bool {
	rows, renewing, _ := shape(b.used)
	if !renewing {
		return true
	}
	left := binary.BigEndian.Uint32(b.mem.Bytes()[b.used-4:])
	if left == 0 || int64(left) > int64(rows) {
		return false
	}
	b.older = b.used - olderFrame - int(left)*entrySize
	return b.olderNumber() > 0 && b.olderNumber() < b.number()
}

func (b *bucket) olderNumber() uint32 { return binary.BigEndian.Uint32(b.mem.Bytes()[b.older:]) }

// left are the entries of records that are sealed with the older key.
func (b *bucket) left() []byte {
	if b.older == 0 {
		return nil
	}
	return b.mem.Bytes()[b.older+bucketHead : b.used-4]
}

// isLeft reports whether the record that is listed under a hash is sealed with the older key.
func (b *bucket) isLeft(hash [hashSize]byte) bool {
	_, found := search(b.left(), hash)
	return found
}

// leave counts the entries of the older part after one has left it, and lets the part go with the last.
func (b *bucket) leave() {
	left := len(b.left()) / entrySize
	if left == 0 {
		securemem.Wipe(b.mem.Bytes()[b.older:])
		b.used, b.older = b.older, 0
		return
	}
	binary.BigEndian.PutUint32(b.mem.Bytes()[b.used-4:], uint32(left))
}
