package soft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keyrack/keyrack/internal/securemem"
)

// readFile returns the bytes of the private file at path, read straight into locked memory. Its kind, owner, mode and
// size are judged before a byte is read.
func readFile(path string) (*securemem.Buffer, error) {
	// Not through a symbolic link, whose target someone else may choose, and without waiting where the path is a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := judge(path, info); err != nil {
		return nil, err
	}
	buf, err := securemem.New(int(info.Size()))
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f, buf.Bytes()); err != nil {
		buf.Free()
		return nil, err
	}
	return buf, nil
}

// judge refuses what is not a private file of a possible size. The file is open already, so it cannot be swapped in between.
func judge(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no regular file", ErrUnsafe, path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o, at most 0600 is safe", ErrUnsafe, path, info.Mode().Perm())
	case !ok || int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to another user", ErrUnsafe, path)
	case info.Size() < int64(minFileSize) || info.Size() > int64(maxFileSize):
		return fmt.Errorf("%w: %s has %d bytes", ErrDamaged, path, info.Size())
	}
	return nil
}

// createFile writes data to a new file. A hard link fails where something exists: nothing is overwritten, ever.
func createFile(path string, data []byte) error {
	return locked(path, func(fresh string) error {
		if err := writeFile(fresh, data); err != nil {
			return err
		}
		return errors.Join(os.Link(fresh, path), os.Remove(fresh))
	})
}

// replaceFile puts data in the place of a file that still holds old; otherwise it returns ErrChanged.
func replaceFile(path string, old, data []byte) error {
	return locked(path, func(fresh string) error {
		now, err := readFile(path)
		if err != nil {
			return errors.Join(ErrChanged, err)
		}
		defer now.Free()
		if !bytes.Equal(now.Bytes(), old) {
			return ErrChanged
		}
		if err := writeFile(fresh, data); err != nil {
			return err
		}
		return os.Rename(fresh, path)
	})
}

// locked runs change while no other process of this package writes in path's directory, then syncs the directory, so that
// what change did survives a power cut. It gives change the name to write to, where a crash may have left a file.
func locked(path string, change func(fresh string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock
	if err := flock(dir); err != nil {
		return fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := change(fresh); err != nil {
		return err
	}
	return dir.Sync()
}

// flock takes the exclusive lock on f, flock(2); the kernel releases it when f is closed or the process ends.
func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// writeFile writes a new file of mode 0600 and syncs it; it leaves none behind when it fails.
func writeFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
