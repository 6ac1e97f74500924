package bolt

import (
	"bytes"
	"hash/fnv"

	"go.etcd.io/bbolt"
)

// OpenMapped is Open with this much address space for the file.
func OpenMapped(path string, size int) (*Store, error) {
	return open(path, func(int64) int { return size })
}

// ReadsAhead is readsAhead.
func ReadsAhead(size int64) bool { return readsAhead(size) }

// SumMeta puts the checksum of a meta page right.
func SumMeta(page []byte) {
	sum := fnv.New64a()
	sum.Write(page[headerSize : headerSize+metaSize-8])
	order.PutUint64(page[headerSize+metaSize-8:], sum.Sum64())
}

// EndWith lets end stand in for bolt's Commit. No Update may run.
func (s *Store) EndWith(end func(*bbolt.Tx) error) { s.engine.end = end }

// BeginWith lets between run in each View and Update after the newest state was looked up and before
// it is held. None may run.
func (s *Store) BeginWith(between func()) { s.engine.between = between }

// RootPage returns the page of buckets of a file's newest state.
func RootPage(file []byte) int {
	m, err := findMeta(bytes.NewReader(file))
	if err != nil {
		panic(err)
	}
	return int(m.root)
}

// Links returns where in a file's newest state the numbers of pages stand: of children in branches,
// and of free pages.
func Links(file []byte) (children, free []int) {
	m, err := findMeta(bytes.NewReader(file))
	if err != nil {
		panic(err)
	}
	im, err := readImage(bytes.NewReader(file), m)
	if err != nil {
		panic(err)
	}
	var visit func(id uint64)
	visit = func(id uint64) {
		n, _, err := im.node(id, nil)
		if err != nil {
			panic(err)
		}
		for i := 0; i < n.count && !n.leaf; i++ {
			children = append(children, int(id)*m.pageSize+headerSize+i*elementSize+8)
			visit(n.child(i))
		}
	}
	visit(im.rows.root)
	at := int(m.freelist) * m.pageSize
	for i := range int(order.Uint16(file[at+10:])) {
		free = append(free, at+headerSize+8*i)
	}
	return children, free
}
