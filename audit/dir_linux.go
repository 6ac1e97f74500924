package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir returns the folder at path as [Files]. The folder must exist; neither it nor a file in it
// is followed if it is a symbolic link. Files are made with mode 0600, allocated by fallocate
// (or by writing zeros where the file system cannot), and synced by fdatasync.
func Dir(path string) Files { return dir(path) }

// dir is the path of the folder.
type dir string

// at opens the folder for one operation: these are rare, and no descriptor needs an owner this
// way.
func (d dir) at(op, name string, f func(fd int) error) error {
	path := filepath.Join(string(d), name)
	fd, err := unix.Open(string(d), unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = f(fd)
		unix.Close(fd)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// plain reports whether name can only be that of a file right in the folder.
func plain(name string) bool {
	return filepath.IsLocal(name) && filepath.Base(name) == name && name != "."
}

func (d dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d dir) Create(name string, size int64) (File, error) {
	f, err := d.open("create", name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := f.allocate(size); err != nil {
		err = fmt.Errorf("allocate %d bytes for %s: %w", size, f.Name(), err)
		return nil, errors.Join(err, f.Close(), d.Remove(name))
	}
	return f, nil
}

func (d dir) Open(name string, mode Mode) (File, error) {
	flags := unix.O_RDONLY
	if mode == ReadWrite {
		flags = unix.O_RDWR
	}
	f, err := d.open("open", name, flags)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// open opens or makes a file of the folder, not what a link of that name points to.
func (d dir) open(op, name string, flags int) (*osFile, error) {
	if !plain(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	var f *osFile
	err := d.at(op, name, func(at int) error {
		fd, err := unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			f = &osFile{os.NewFile(uintptr(fd), filepath.Join(string(d), name))}
		}
		return err
	})
	return f, err
}

func (d dir) Rename(from, to string) error {
	if !plain(from) || !plain(to) {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrInvalid}
	}
	return d.at("rename", to, func(at int) error { return unix.Renameat(at, from, at, to) })
}

func (d dir) Remove(name string) error {
	if !plain(name) {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrInvalid}
	}
	return d.at("remove", name, func(at int) error { return unix.Unlinkat(at, name, 0) })
}

func (d dir) SyncDir() error { return d.at("sync", "", unix.Fsync) }

// Lock holds an exclusive flock on the folder itself.
func (d dir) Lock() (func() error, error) {
	f, err := os.OpenFile(string(d), unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrInUse, f.Name()), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	// Closing alone would not do: a process that this one is about to start has the open folder too, until it runs its
	// own program, and with it the lock.
	return func() error { return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }, nil
}

// osFile is a file of the operating system.
type osFile struct{ *os.File }

// allocate gives the file its size and writes zeros into all of it. Blocks that were allocated
// and never written cost each later sync a change of the file system's own tables: a tenth of an
// operation where nobody pipelines.
func (f *osFile) allocate(size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return eraseRange(f, 0, size)
}

// Sync is fdatasync: the size does not change, so no metadata need be written with each batch.
func (f *osFile) Sync() error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil { // never a second time, whatever the error
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
