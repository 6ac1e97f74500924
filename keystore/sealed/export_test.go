package sealed

import (
	"context"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// SetUnchecked turns the index, the hash tree and the state root off, or on again, for all stores of
// the process: what a test then reads is what would be believed without them. Such tests do not run
// in parallel.
func SetUnchecked(off bool) { unchecked.Store(off) }

// Known returns how many versions the ledger knows, and of how many generations Views look for one.
func (s *Store) Known() (versions, floors int) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return len(s.ledger.known), len(s.ledger.floors)
}

// OldKey returns the wrapping key of the older of two versions, which is wiped when the rotation has
// ended: nil from then on.
func (s *Store) OldKey() func() []byte {
	old := s.ledger.current().keys.older()
	return old.wrapping.Bytes
}

// BucketOf returns the name of the row of a name's bucket.
func (s *Store) BucketOf(n keystore.Name) keystore.Name { return bucketName(s.locate(n).bucket) }

// HoldsKeys reports whether any key of the store is in memory.
func (s *Store) HoldsKeys() bool {
	for _, v := range s.ledger.current().keys {
		if v.wrapping.Bytes() != nil || v.state.Bytes() != nil {
			return true
		}
	}
	return s.names.Bytes() != nil
}

// Shrink bounds the buckets that a transaction opens by less than what they are bounded by otherwise.
func (s *Store) Shrink(buckets, bytes int) { s.maxBuckets, s.maxBucketBytes = buckets, bytes }

// Spread is a failpoint: names are spread over so few buckets, of which each is as full as in a store that
// is as many times larger. It is called once the store is open, each time.
func (s *Store) Spread(buckets int) { s.spread = buckets }

// RenewPart is a failpoint: it begins the renewal of the bucket of a name, or goes on with one, and stops as a process
// does that ends after one of its transactions, which moved the records of these names.
func (s *Store) RenewPart(ctx context.Context, of keystore.Name, names []keystore.Name) error {
	_, err := s.update(ctx, func(t *tx) error {
		err := t.renew(&renewal{number: s.locate(of).bucket}, names)
		if errors.Is(err, errMoved) { // none of them was left
			return nil
		}
		return err
	})
	return err
}

// AtATime returns how many records have those buckets that a Renew of these names reads the names of at a
// time, where it may be so many, and how many buckets they are.
func (s *Store) AtATime(names []keystore.Name, most int) (rows, buckets int) {
	of := map[uint16]*renewal{}
	for _, n := range names {
		of[s.locate(n).bucket] = new(renewal)
	}
	some := s.some(of, most)
	for number := range some {
		rows += s.ledger.current().tree.leaf(number).rows
	}
	return rows, len(some)
}

// IsBucket reports whether the value of a bucket row, that opens, is taken for one.
func IsBucket(tb testing.TB, value []byte) bool {
	tb.Helper()
	if _, _, whole := shape(len(value)); !whole {
		return false
	}
	mem, err := securemem.From(value)
	if err != nil {
		tb.Fatal(err)
	}
	defer mem.Free()
	b := &bucket{mem: mem, used: len(value)}
	return b.split() && b.ordered()
}

// Opened returns how many buckets a transaction has opened, and their bytes.
func Opened(r keystore.Reader) (buckets, bytes int) {
	o := r.(*reader).opener
	for _, b := range o.buckets {
		bytes += b.size()
	}
	if bytes != o.bucketBytes {
		panic("the bytes of opened buckets are not those that are counted")
	}
	return len(o.buckets), bytes
}

// BucketKey returns a copy of the key of the bucket of n, nil if it has none.
func (s *Store) BucketKey(ctx context.Context, n keystore.Name) (key []byte, err error) {
	err = s.view(ctx, func(r *reader) error {
		b, err := r.bucket(s.locate(n).bucket)
		if err == nil && b.mem != nil {
			key = append(key, b.key()...)
		}
		return err
	})
	return key, err
}
