package audit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/keyrack/keyrack/audit"
)

// errCut is what a disk answers once its power is gone, errCutting what the operation hears
// during which it goes: that one has happened, unsynced.
var (
	errCut     = errors.New("power is cut")
	errCutting = fmt.Errorf("%w just now", errCut)
)

// disk is a folder in memory that keeps apart what programs see and what a power cut leaves:
// contents become durable by Sync, names by SyncDir. It counts its operations, and can fail at
// any of them. It implements audit.Files.
type disk struct {
	mu    sync.Mutex
	names map[string]*inode // as programs see them
	safe  map[string]*inode // as a power cut leaves them
	steps []func(map[string]*inode)

	ops    int            // operations that change something, so far
	kinds  map[string]int // how many of each
	cutAt  int            // the operation at which the power goes; 0 is never
	dead   bool
	fail   func(op int, kind, name string) error // fault injection; may be nil
	before func()                                // called before each write, without the lock; may be nil
	limit  int64                                 // bytes of all files together; 0 is no limit
}

// inode is a file's contents. unsynced are the writes since the last Sync, in order.
type inode struct {
	seen     []byte
	safe     []byte
	unsynced []write
}

// write is one, or, with cut set, a cut of the file at that place.
type write struct {
	at   int64
	data []byte
	cut  bool
}

func newDisk() *disk {
	return &disk{names: map[string]*inode{}, safe: map[string]*inode{}, kinds: map[string]int{}}
}

// op counts an operation and says if it may happen.
func (d *disk) op(kind, name string) error {
	if d.dead {
		return errCut
	}
	d.ops++
	d.kinds[kind]++
	if d.ops == d.cutAt {
		d.dead = true
		return errCutting
	}
	if d.fail != nil {
		if err := d.fail(d.ops, kind, name); err != nil {
			return fmt.Errorf("%s %s: %w", kind, name, err)
		}
	}
	return nil
}

// cut is one way in which a power cut may go.
type cut int

const (
	lost    cut = iota // nothing unsynced is left
	kept               // everything is left, as if the kernel had just written it
	sectors            // a random subset of the unsynced sectors and the first few unsynced changes of names are left
	killed             // only the process died: everything is seen, nothing more than before is durable
)

func (c cut) String() string { return [...]string{"lost", "kept", "sectors", "killed"}[c] }

// restart returns the disk as the next process finds it.
func (d *disk) restart(how cut, rnd *rand.Rand) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	if how == killed {
		n := newDisk()
		n.names, n.safe, n.steps = d.names, d.safe, d.steps
		return n
	}
	names := maps.Clone(d.safe)
	steps := len(d.steps)
	switch how {
	case lost:
		steps = 0
	case sectors:
		steps = rnd.IntN(len(d.steps) + 1)
	}
	for _, step := range d.steps[:steps] {
		step(names)
	}
	n := newDisk()
	for name, f := range names {
		data := f.after(how, rnd)
		n.names[name] = &inode{seen: data, safe: slices.Clone(data)}
	}
	n.safe = maps.Clone(n.names)
	return n
}

// after returns what a power cut leaves of a file.
func (f *inode) after(how cut, rnd *rand.Rand) []byte {
	switch how {
	case lost:
		return slices.Clone(f.safe)
	case kept:
		return slices.Clone(f.seen)
	}
	data := slices.Clone(f.safe)
	if len(data) < len(f.seen) && rnd.IntN(2) == 0 {
		data = append(data, make([]byte, len(f.seen)-len(data))...)
	}
	for _, w := range f.unsynced {
		if w.cut && rnd.IntN(2) == 0 {
			data = data[:min(int(w.at), len(data))]
		}
		for i := 0; i < len(w.data); i += audit.Sector {
			end := min(i+audit.Sector, len(w.data))
			if at := int(w.at) + i; rnd.IntN(2) == 0 && int(w.at)+end <= len(data) {
				copy(data[at:], w.data[i:end])
			}
		}
	}
	return data
}

func (d *disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.names)), nil
}

func (d *disk) change(f func(map[string]*inode)) {
	f(d.names)
	d.steps = append(d.steps, f)
}

func (d *disk) Create(name string, size int64) (audit.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if d.limit > 0 && d.used()+size > d.limit {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	err := d.op("create", name)
	if err == nil || errors.Is(err, errCutting) {
		f := &inode{seen: make([]byte, size)}
		d.change(func(names map[string]*inode) { names[name] = f })
	}
	if err != nil {
		return nil, err
	}
	return &handle{d, name, d.names[name], false}, nil
}

func (d *disk) used() (n int64) {
	for _, f := range d.names {
		n += int64(len(f.seen))
	}
	return n
}

func (d *disk) Open(name string, mode audit.Mode) (audit.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errCut
	}
	f := d.names[name]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &handle{d, name, f, mode == audit.ReadOnly}, nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.op("rename", to)
	if err == nil || errors.Is(err, errCutting) {
		d.change(func(names map[string]*inode) {
			if f := names[from]; f != nil {
				names[to] = f
				delete(names, from)
			}
		})
	}
	return err
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	err := d.op("remove", name)
	if err == nil {
		d.change(func(names map[string]*inode) { delete(names, name) })
	}
	return err
}

func (d *disk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op("syncdir", ""); err != nil {
		return err
	}
	for _, step := range d.steps {
		step(d.safe)
	}
	d.steps = nil
	return nil
}

// bytes returns a file's contents to read or to change.
func (d *disk) bytes(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[name].seen
}

// uncut gives every segment the size back that its header tells, as a forger may.
func (d *disk) uncut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range d.names {
		if strings.HasSuffix(name, ".seg") && bytes.HasPrefix(f.seen, []byte("KRAUDIT")) {
			f.seen = append(f.seen, make([]byte, int(binary.BigEndian.Uint64(f.seen[16:]))-len(f.seen))...)
		}
	}
}

// shorten takes bytes away at the end of a file.
func (d *disk) shorten(name string, by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	f.seen = f.seen[:len(f.seen)-by]
}

// handle is an open file.
type handle struct {
	disk     *disk
	name     string
	f        *inode
	readOnly bool
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.dead {
		return 0, errCut
	}
	if at >= int64(len(h.f.seen)) {
		return 0, io.EOF
	}
	n := copy(b, h.f.seen[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	if h.disk.before != nil {
		h.disk.before()
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.readOnly {
		return 0, fs.ErrPermission
	}
	if at+int64(len(b)) > int64(len(h.f.seen)) {
		return 0, errors.New("write beyond the end")
	}
	err := h.disk.op("write", h.name)
	if err == nil || errors.Is(err, errCutting) {
		h.f.unsynced = append(h.f.unsynced, write{at: at, data: slices.Clone(b)})
		copy(h.f.seen[at:], b)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *handle) Sync() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.op("sync", h.name); err != nil {
		return err
	}
	h.f.safe = slices.Clone(h.f.seen)
	h.f.unsynced = nil
	return nil
}

func (h *handle) Truncate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.readOnly || size > int64(len(h.f.seen)) {
		return fs.ErrPermission
	}
	err := h.disk.op("truncate", h.name)
	if err == nil || errors.Is(err, errCutting) {
		h.f.unsynced = append(h.f.unsynced, write{at: size, cut: true})
		h.f.seen = h.f.seen[:size:size]
	}
	return err
}

func (h *handle) Size() (int64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return int64(len(h.f.seen)), nil
}

func (h *handle) Close() error { return nil }
