package sealed_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// lent is a store that its user cannot close.
type lent struct{ keystore.Store }

func (lent) Close() error { return nil }

// heldStore is a store whose Updates can be held up. The hooks are called by each, and set before.
type heldStore struct {
	keystore.Store
	before, after func()
}

func (s *heldStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	s.before()
	defer s.after()
	return s.Store.Update(ctx, f)
}

// once returns a hook that waits, the first time it is called, and what tells of that and ends it.
func once() (hook func(), waiting <-chan struct{}, release func()) {
	inside, out := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	return func() {
		if held.CompareAndSwap(false, true) {
			close(inside)
			<-out
		}
	}, inside, func() { close(out) }
}

// disk is a medium that outlives the stores over it. It can refuse commits, with or without having
// made them, and hold up readers. Once it has made a commit that it refused, it refuses everything
// until there is a new store over it, as an engine must. The hooks are set before they can be called.
type disk struct {
	mu      sync.Mutex // guards what follows, up to the hooks
	state   *diskState
	commits int
	dead    bool

	// commit is asked before the i-th commit, from 1 on: whether it takes place, and what the store
	// is told.
	commit func(i int) (done bool, err error)
	// snapshot is called before each snapshot, read before each Get of one.
	snapshot func()
	read     func(keystore.Name)
}

type diskState struct {
	of       *disk
	rows     map[keystore.Name][]byte
	revision keystore.Revision
}

var errDisk = errors.New("disk: refused")

func newDisk() *disk {
	d := &disk{commit: func(int) (bool, error) { return true, nil }, snapshot: func() {}, read: func(keystore.Name) {}}
	d.state = &diskState{of: d}
	return d
}

// store returns a new store over what is on the disk.
func (d *disk) store(t testing.TB) keystore.Store {
	t.Helper()
	d.mu.Lock()
	d.dead = false
	d.mu.Unlock()
	l, err := keystore.NewLocal(d)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (d *disk) Snapshot() (keystore.Snapshot, error) {
	d.snapshot()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errDisk
	}
	return d.state, nil
}

func (d *disk) Commit(r keystore.Revision, rows []keystore.Row) error {
	d.mu.Lock()
	d.commits++
	i := d.commits
	d.mu.Unlock()
	done, err := d.commit(i)
	if !done {
		return err
	}
	next := &diskState{of: d, rows: maps.Clone(d.state.rows), revision: r}
	if next.rows == nil {
		next.rows = make(map[keystore.Name][]byte)
	}
	for _, row := range rows {
		if row.Deleted {
			delete(next.rows, row.Name)
		} else {
			next.rows[row.Name] = row.Value
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.dead = next, err != nil
	return err
}

func (d *disk) Close() error { return nil }

func (s *diskState) Get(n keystore.Name) ([]byte, error) {
	s.of.read(n)
	v, ok := s.rows[n]
	if !ok {
		return nil, keystore.ErrNotFound
	}
	return v, nil
}

func (s *diskState) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	return func(yield func(keystore.Entry, error) bool) {
		for _, n := range slices.SortedFunc(maps.Keys(s.rows), keystore.Name.Compare) {
			if n.Compare(lo) < 0 || hi != (keystore.Name{}) && n.Compare(hi) >= 0 {
				continue
			}
			if !yield(keystore.Entry{Name: n, Value: s.rows[n]}, nil) {
				return
			}
		}
	}
}

func (s *diskState) Revision() keystore.Revision { return s.revision }
func (s *diskState) Close()                      {}
