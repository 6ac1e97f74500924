package racktest

import (
	"bytes"
	"errors"
	"io/fs"
	"sync"

	"github.com/keyrack/keyrack/audit"
)

// ErrKilled is what everything answers once a [Power] is off.
var ErrKilled = errors.New("killed")

// Power is the life of one process: after so many uses of its disk everything stops, in the
// middle of whatever it was. Safe for concurrent use.
type Power struct {
	mu   sync.Mutex
	left int // guarded by mu; 0 = it is off
	used int // guarded by mu
}

// NewPower returns a life of n uses, the last of which fails.
func NewPower(n int) *Power { return &Power{left: n} }

// Use is one use. It returns ErrKilled from the last one on.
func (p *Power) Use() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used++
	if p.left--; p.left <= 0 {
		p.left = 0
		return ErrKilled
	}
	return nil
}

// Used returns how many uses there were.
func (p *Power) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Last makes this many more uses the last ones.
func (p *Power) Last(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = n
}

// Off ends the life, and reports whether it had ended before.
func (p *Power) Off() (was bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was = p.left <= 0
	p.left = 0
	return was
}

// Platter keeps the files of an audit log in memory, and what of them was synced. Safe for
// concurrent use.
type Platter struct {
	mu    sync.Mutex
	files map[string]*sectors // guarded by mu
	reads map[string]int      // guarded by mu; beyond a file's first byte
}

type sectors struct{ now, synced []byte }

// NewPlatter returns an empty one.
func NewPlatter() *Platter { return &Platter{files: map[string]*sectors{}, reads: map[string]int{}} }

// Lose forgets what was not synced, as a power cut does.
func (p *Platter) Lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.files {
		s.now = bytes.Clone(s.synced)
	}
}

// In returns the platter in the hands of one process. Each write, sync and change of a name is
// a use of its power.
func (p *Platter) In(life *Power) audit.Files { return spun{p, life} }

// spun is a platter in the hands of one process.
type spun struct {
	*Platter
	life *Power
}

func (s spun) List() (names []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.files {
		names = append(names, name)
	}
	return names, nil
}

func (s spun) Create(name string, size int64) (audit.File, error) {
	if err := s.life.Use(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] != nil {
		return nil, fs.ErrExist
	}
	s.files[name] = &sectors{make([]byte, size), make([]byte, size)}
	return spunFile{s, name, s.files[name]}, nil
}

func (s spun) Open(name string, _ audit.Mode) (audit.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	return spunFile{s, name, s.files[name]}, nil
}

func (s spun) Rename(from, to string) error {
	if err := s.life.Use(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[to] = s.files[from]
	delete(s.files, from)
	return nil
}

func (s spun) Remove(name string) error {
	if err := s.life.Use(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, name)
	return nil
}

func (s spun) SyncDir() error { return s.life.Use() }

// ForgetReads begins the count of Reads anew.
func (p *Platter) ForgetReads() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.reads)
}

// Reads returns how often a file was read beyond its first byte.
func (p *Platter) Reads(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reads[name]
}

type spunFile struct {
	on   spun
	name string
	s    *sectors
}

func (f spunFile) ReadAt(b []byte, at int64) (int, error) {
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	if at > 0 {
		f.on.reads[f.name]++
	}
	return bytes.NewReader(f.s.now).ReadAt(b, at)
}

func (f spunFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.on.life.Use(); err != nil {
		return 0, err
	}
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	return copy(f.s.now[at:], b), nil
}

func (f spunFile) Sync() error {
	if err := f.on.life.Use(); err != nil {
		return err
	}
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	f.s.synced = bytes.Clone(f.s.now)
	return nil
}

// Truncate cuts the file, as Sync makes durable.
func (f spunFile) Truncate(size int64) error {
	if err := f.on.life.Use(); err != nil {
		return err
	}
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	f.s.now = f.s.now[:size]
	return nil
}

func (f spunFile) Size() (int64, error) {
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	return int64(len(f.s.now)), nil
}

func (f spunFile) Close() error { return nil }
