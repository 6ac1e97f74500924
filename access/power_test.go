package access_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/keystore"
)

// errKilled is what everything answers after the process was killed.
var errKilled = errors.New("killed")

// power is the life of one process: after so many uses of disk and store
// everything stops, in the middle of whatever it was.
type power struct {
	mu   sync.Mutex
	left int // guarded by mu; 0 = it is off
}

func (p *power) use() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left <= 0 {
		p.left = 0
		return errKilled
	}
	return nil
}

// uses returns how many there were of what is to last for ever.
func (p *power) uses() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return forEver - p.left
}

// off ends the life, and reports whether it had ended before.
func (p *power) off() (was bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was = p.left <= 0
	p.left = 0
	return was
}

// mortalStore is a store as a process sees it that may be killed before a
// transaction, and after it was committed.
type mortalStore struct {
	keystore.Store
	*power
}

func (m mortalStore) View(ctx context.Context, f func(keystore.Reader) error) error {
	if err := m.use(); err != nil {
		return err
	}
	return m.Store.View(ctx, f)
}

func (m mortalStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if err := m.use(); err != nil {
		return 0, err
	}
	rev, err := m.Store.Update(ctx, f)
	if err == nil {
		err = m.use()
	}
	return rev, err
}

// platter keeps the files of an audit log, and what of them was synced.
type platter struct {
	mu    sync.Mutex
	files map[string]*sectors // guarded by mu
	reads map[string]int      // guarded by mu; beyond a file's header
}

type sectors struct{ now, synced []byte }

func newPlatter() *platter { return &platter{files: map[string]*sectors{}, reads: map[string]int{}} }

// lose forgets what was not synced, as a power cut does.
func (p *platter) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.files {
		s.now = bytes.Clone(s.synced)
	}
}

// spun is a platter in the hands of one process.
type spun struct {
	*platter
	*power
}

func (s spun) List() (names []string, err error) {
	s.platter.mu.Lock()
	defer s.platter.mu.Unlock()
	for name := range s.files {
		names = append(names, name)
	}
	return names, nil
}

func (s spun) Create(name string, size int64) (audit.File, error) {
	if err := s.use(); err != nil {
		return nil, err
	}
	s.platter.mu.Lock()
	defer s.platter.mu.Unlock()
	if s.files[name] != nil {
		return nil, fs.ErrExist
	}
	s.files[name] = &sectors{make([]byte, size), make([]byte, size)}
	return spunFile{s, name, s.files[name]}, nil
}

func (s spun) Open(name string, _ audit.Mode) (audit.File, error) {
	s.platter.mu.Lock()
	defer s.platter.mu.Unlock()
	if s.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	return spunFile{s, name, s.files[name]}, nil
}

func (s spun) Rename(from, to string) error {
	if err := s.use(); err != nil {
		return err
	}
	s.platter.mu.Lock()
	defer s.platter.mu.Unlock()
	s.files[to] = s.files[from]
	delete(s.files, from)
	return nil
}

func (s spun) Remove(name string) error {
	if err := s.use(); err != nil {
		return err
	}
	s.platter.mu.Lock()
	defer s.platter.mu.Unlock()
	delete(s.files, name)
	return nil
}

func (s spun) SyncDir() error { return s.use() }

type spunFile struct {
	on   spun
	name string
	s    *sectors
}

func (f spunFile) ReadAt(b []byte, at int64) (int, error) {
	f.on.platter.mu.Lock()
	defer f.on.platter.mu.Unlock()
	if at > 0 {
		f.on.reads[f.name]++
	}
	return bytes.NewReader(f.s.now).ReadAt(b, at)
}

func (f spunFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.on.use(); err != nil {
		return 0, err
	}
	f.on.platter.mu.Lock()
	defer f.on.platter.mu.Unlock()
	return copy(f.s.now[at:], b), nil
}

func (f spunFile) Sync() error {
	if err := f.on.use(); err != nil {
		return err
	}
	f.on.platter.mu.Lock()
	defer f.on.platter.mu.Unlock()
	f.s.synced = bytes.Clone(f.s.now)
	return nil
}

func (f spunFile) Size() (int64, error) { return int64(len(f.s.now)), nil }
func (f spunFile) Close() error         { return nil }
