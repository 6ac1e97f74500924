package bolt

import (
	"hash/fnv"

	"go.etcd.io/bbolt"
)

// OpenMapped is Open with this much address space for the file.
func OpenMapped(path string, size int) (*Store, error) {
	return open(path, func(int64) int { return size })
}

// SumMeta puts the checksum of a meta page right.
func SumMeta(page []byte) {
	sum := fnv.New64a()
	sum.Write(page[headerSize : headerSize+metaSize-8])
	order.PutUint64(page[headerSize+metaSize-8:], sum.Sum64())
}

// EndWith lets end stand in for bolt's Commit. No Update may run.
func (s *Store) EndWith(end func(*bbolt.Tx) error) { s.engine.end = end }
