package racktest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/keyrack/keyrack/audit"
)

// Disk is an audit log's folder whose syncs can be held up or made to fail, and
// which can be full. Its files take no space before they are written to, so that
// an appliance starts in little time. Safe for concurrent use.
type Disk struct {
	audit.Files
	dir    string
	mu     sync.Mutex
	open   chan struct{} // guarded by mu; closed when syncs may go on; nil = they always may
	broken error         // guarded by mu; what every sync answers
	full   bool          // guarded by mu; no further file can be made
}

// NewDisk returns a disk that works, in a folder that need not exist yet.
func NewDisk(dir string) *Disk { return &Disk{Files: audit.Dir(dir), dir: dir} }

// Hold makes every later sync wait until Release.
func (d *Disk) Hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = make(chan struct{})
}

// Release lets all syncs go on.
func (d *Disk) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil {
		close(d.open)
		d.open = nil
	}
}

// Break makes every later sync answer err.
func (d *Disk) Break(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

// Fill says whether there is no room for further files.
func (d *Disk) Fill(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// ErrNoSpace is what a full disk answers.
var ErrNoSpace = errors.New("no space left on device")

// Create makes a file, unless the disk is full.
func (d *Disk) Create(name string, size int64) (audit.File, error) {
	d.mu.Lock()
	full := d.full
	d.mu.Unlock()
	if full {
		return nil, ErrNoSpace
	}
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return nil, err
	}
	return d.Open(name, audit.ReadWrite)
}

// Open opens a file.
func (d *Disk) Open(name string, mode audit.Mode) (audit.File, error) {
	f, err := d.Files.Open(name, mode)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d}, nil
}

type diskFile struct {
	audit.File
	on *Disk
}

// Sync waits, and then syncs or fails.
func (f *diskFile) Sync() error {
	f.on.mu.Lock()
	open := f.on.open
	f.on.mu.Unlock()
	if open != nil {
		<-open
	}
	f.on.mu.Lock()
	broken := f.on.broken
	f.on.mu.Unlock()
	if broken != nil {
		return broken
	}
	return f.File.Sync()
}
