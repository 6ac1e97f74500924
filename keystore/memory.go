package keystore

import (
	"iter"
	"sync/atomic"

	"github.com/tidwall/btree"
)

// Memory is a Store in the memory of the process, for tests and throw-away appliances. Its group
// commit, limits and feed are those of the engines on disk; nothing of it survives.
type Memory struct{ *Local }

var _ Store = Memory{}

// NewMemory returns an empty store at revision 0.
func NewMemory() Memory {
	m := new(memory)
	m.newest.Store(&memoryState{rows: new(btree.Map[string, []byte])})
	l, err := NewLocal(m)
	if err != nil {
		panic(err) // a memory always has a snapshot
	}
	return Memory{l}
}

// memory is the Engine. A state is immutable once it is published: Commit changes a copy, which
// shares what it does not change.
type memory struct{ newest atomic.Pointer[memoryState] }

type memoryState struct {
	rows     *btree.Map[string, []byte]
	revision Revision
}

func (m *memory) Snapshot() (Snapshot, error) { return m.newest.Load(), nil }

func (m *memory) Commit(r Revision, rows []Row) error {
	next := &memoryState{rows: m.newest.Load().rows.Copy(), revision: r}
	for _, row := range rows {
		if row.Deleted {
			next.rows.Delete(row.Name.encoded)
		} else {
			next.rows.Set(row.Name.encoded, row.Value)
		}
	}
	m.newest.Store(next)
	return nil
}

func (m *memory) Close() error { return nil }

func (s *memoryState) Get(n Name) ([]byte, error) {
	v, ok := s.rows.Get(n.encoded)
	if !ok {
		return nil, ErrNotFound
	}
	return v, nil
}

func (s *memoryState) Scan(lo, hi Name) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		rows := s.rows.Iter()
		for more := rows.Seek(lo.encoded); more; more = rows.Next() {
			if hi.encoded != "" && rows.Key() >= hi.encoded {
				return
			}
			if !yield(Entry{Name{rows.Key()}, rows.Value()}, nil) {
				return
			}
		}
	}
}

func (s *memoryState) Revision() Revision { return s.revision }

func (s *memoryState) Close() {}
