package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of a Renew.
const (
	renewNames = 4096 // names that are read in one snapshot
	renewTries = 10   // to find the names of buckets that are changed meanwhile
)

// errMoved says that a bucket lists other records than were found for it.
var errMoved = errors.New("keystore/sealed: the bucket is changed at the same time")

// Renew gives the bucket of each of these names, of rows that were deleted, another random key, and
// seals the records that are left in it under that one. So the key under which the deleted rows were
// sealed is nowhere but in older copies of the bucket's row, which a rotation of the domain key
// closes for ever (FORMAT.md, "Renewal"). Each bucket is one transaction; done again it does no harm.
//
// It reads the names of all rows, in many snapshots, and may run beside everything else. It returns
// ErrSealBroken where a record of such a bucket is not what was written, the errors of an Update, and
// keystore.ErrTooManyRows or ErrTooLarge for a bucket that one transaction cannot take.
func (s *Store) Renew(ctx context.Context, names []keystore.Name) error {
	todo := map[uint16]bool{}
	for _, n := range names {
		todo[s.locate(n).bucket] = true
	}
	for range renewTries {
		members, err := s.members(ctx, todo)
		if err != nil {
			return err
		}
		for number := range todo {
			err := s.renewBucket(ctx, number, members[number])
			if errors.Is(err, errMoved) {
				continue
			}
			if err != nil {
				return err
			}
			delete(todo, number)
		}
		if len(todo) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w, again and again", errMoved)
}

// members returns the names of the rows in some buckets.
func (s *Store) members(ctx context.Context, of map[uint16]bool) (map[uint16][]keystore.Name, error) {
	found := map[uint16][]keystore.Name{}
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
				if number := s.locate(e.Name).bucket; of[number] {
					found[number] = append(found[number], e.Name)
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

// renewBucket seals the records of a bucket under a fresh key, which must be those of names.
func (s *Store) renewBucket(ctx context.Context, number uint16, names []keystore.Name) error {
	_, err := s.update(ctx, func(t *tx) error {
		b, err := t.bucket(number)
		if err != nil || b.rows() == 0 {
			return err
		}
		listed := names[:0:0]
		for _, n := range names {
			if _, ok := b.mark(s.locate(n).hash); ok {
				listed = append(listed, n)
			}
		}
		if len(listed) != b.rows() {
			return fmt.Errorf("bucket %d: %w", number, errMoved)
		}
		return t.renew(b, number, listed)
	})
	return err
}

// renew draws the bucket's next key, and writes every record of it anew.
func (t *tx) renew(b *bucket, number uint16, names []keystore.Name) error {
	old, err := securemem.From(b.mem.Bytes()[:bucketHead])
	if err != nil {
		return err
	}
	defer old.Free()
	was := t.store.place(number, b.number())
	binary.BigEndian.PutUint32(b.mem.Bytes(), b.number()+1)
	random(b.key())
	b.changed = true
	for _, n := range names {
		if err := t.reseal(b, was, old.Bytes()[4:], n); err != nil {
			return err
		}
	}
	return nil
}

// reseal moves one record, which must be the one that the bucket lists, to the bucket's key.
func (t *tx) reseal(b *bucket, was seal.Place, key []byte, n keystore.Name) error {
	record, err := t.read(n)
	if errors.Is(err, keystore.ErrNotFound) {
		return broken(n, "was removed")
	}
	if err != nil {
		return err
	}
	hash := t.store.locate(n).hash
	r, ok := seal.ParseRecord(record)
	if mark, _ := b.mark(hash); !ok || mark != r.Mark {
		return broken(n, "is not the record that was written last")
	}
	value, err := openRecord(key, was, n, record)
	if err != nil {
		return err
	}
	defer value.Free()
	fresh, err := seal.SealRecord(nil, b.key(), t.store.place(was.Bucket, b.number()), n.Append(nil), contents(value))
	if err != nil {
		return err
	}
	r, _ = seal.ParseRecord(fresh)
	if err := b.set(hash, r.Mark); err != nil {
		return err
	}
	return t.below.Put(n, fresh)
}
