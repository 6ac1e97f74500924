package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/bbolt"
)

// openFile opens a store's file, judges it and locks it.
func openFile(path string) (*os.File, error) {
	// Not through a symbolic link, whose target someone else may choose, and without waiting where
	// the path is a pipe.
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENXIO):
		return nil, fmt.Errorf("%w: %w", ErrUnsafe, err)
	case errors.Is(err, syscall.EROFS):
		return nil, fmt.Errorf("keystore/bolt: the store must be on a medium that can be written: %w", err)
	case err != nil:
		return nil, fmt.Errorf("keystore/bolt: %w", err)
	}
	if err := claim(path, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// claim refuses what is not a private regular file, and takes the lock that bolt takes, flock(2),
// without waiting. The kernel releases it when f is closed or the process ends.
func claim(path string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("keystore/bolt: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no regular file", ErrUnsafe, path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o; make it 0600", ErrUnsafe, path, info.Mode().Perm())
	case !ok || int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to another user", ErrUnsafe, path)
	}
	err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", ErrInUse, path)
	}
	return err
}

// flock takes or releases a lock on an open file. Locks belong to the open file, not to the process:
// a second Open in the same process is refused as well.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("flock "+f.Name(), err)
		}
	}
}

// release lets go of a locked file. Closing alone would not do: a process that this one is about to
// start has the open file too, until it runs its own program, and with it the lock.
func release(f *os.File) error { return errors.Join(flock(f, syscall.LOCK_UN), f.Close()) }

// Create makes a new, empty store at path, of mode 0600, and opens it as Open does. The file appears
// whole and durable or, whatever happens, not at all; what a Create that was cut off left beside it
// goes with the next one. Nobody else can open it first. Errors are ErrExists and what the file
// system says.
func Create(path string) (*Store, error) {
	f, err := create(path)
	if err != nil {
		return nil, err
	}
	return openLocked(path, f, mapping)
}

// create makes the file under another name in the same folder, syncs it, locks it, links it to its
// own name and syncs the folder, and returns it. It holds the lock on the folder, so that it alone
// uses the temporary name.
func create(path string) (*os.File, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("keystore/bolt: %w", err)
	}
	defer dir.Close() // and with it the lock
	if err := flock(dir, syscall.LOCK_EX); err != nil {
		return nil, err
	}
	fresh := path + ".new"
	if err := remove(fresh); err != nil {
		return nil, fmt.Errorf("keystore/bolt: %w", err)
	}
	if err := build(fresh); err != nil {
		if cause := full(err); cause != 0 && !errors.Is(err, cause) {
			err = fmt.Errorf("%s: %w", fresh, cause)
		}
		return nil, errors.Join(fmt.Errorf("keystore/bolt: %w", err), remove(fresh))
	}
	f, err := openFile(fresh)
	if err != nil {
		return nil, errors.Join(err, remove(fresh))
	}
	// A link fails where something is, which a rename would overwrite.
	err = os.Link(fresh, path)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w: %s", ErrExists, path)
	}
	if err := errors.Join(err, remove(fresh)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := dir.Sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// build writes an empty store and syncs it: 32 KiB, without room for rows. An error leaves a file
// behind.
func build(path string) error {
	var f *os.File
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync:       true, // once, at the end
		FreelistType: bbolt.FreelistMapType,
		OpenFile: func(path string, _ int, mode os.FileMode) (_ *os.File, err error) {
			f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
			return f, err
		},
	})
	if err != nil {
		return err
	}
	err = db.Update(writeHeader)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, db.Close())
}

// writeHeader makes the buckets of an empty store.
func writeHeader(tx *bbolt.Tx) error {
	if _, err := tx.CreateBucket([]byte(bucketRows)); err != nil {
		return err
	}
	header, err := tx.CreateBucket([]byte(bucketHeader))
	if err != nil {
		return err
	}
	return errors.Join(
		header.Put([]byte(keyMagic), []byte(magic)),
		header.Put([]byte(keyFormat), binary.BigEndian.AppendUint32(nil, format)),
		header.Put([]byte(keyRevision), make([]byte, 8)))
}
