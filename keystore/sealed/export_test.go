package sealed

import (
	"context"

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

// BucketKey returns a copy of the key of the bucket of n.
func (s *Store) BucketKey(ctx context.Context, n keystore.Name) (key []byte, err error) {
	err = s.view(ctx, func(r *reader) error {
		b, err := r.bucket(s.locate(n).bucket)
		if err == nil {
			key = append(key, b.key()...)
		}
		return err
	})
	return key, err
}
