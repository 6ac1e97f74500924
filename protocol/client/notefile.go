package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/internal/tlog"
)

// NoteFile is a [Checkpoints] that is a file of mode 0600, one for each appliance. Any number
// of clients and processes may share it: what it holds is always one whole note, and never an
// older one than before. Its folder must exist, and be one where others cannot write.
type NoteFile string

// How long Store waits for another process that stores: one sync, as a rule.
const (
	lockTries = 100
	lockPause = 10 * time.Millisecond
)

// String returns the file's path.
func (f NoteFile) String() string { return string(f) }

// Load returns the note, nil if there is no file yet.
func (f NoteFile) Load() ([]byte, error) {
	file, err := os.Open(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	note, err := io.ReadAll(io.LimitReader(file, tlog.MaxNote+1))
	if err == nil && len(note) > tlog.MaxNote {
		err = fmt.Errorf("%s is no checkpoint: it has more than %d bytes", f, tlog.MaxNote)
	}
	return note, err
}

// Store replaces the note in one step, unless the file has one of a longer log, which another
// process was shown since: after a crash the file has the old one or the new one, whole. Where
// others store all the time, it gives up and leaves it to them.
func (f NoteFile) Store(note []byte) error {
	dir, err := os.Open(filepath.Dir(string(f)))
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock
	if locked, err := lock(dir); err != nil || !locked {
		return err
	}
	now, err := f.Load()
	if err != nil {
		return err
	}
	if length(now) >= length(note) {
		return nil
	}
	return f.replace(note)
}

// lock takes the folder's lock, flock(2), which a process that ends gives back.
func lock(dir *os.File) (bool, error) {
	for range lockTries {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return true, nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return false, &fs.PathError{Op: "flock", Path: dir.Name(), Err: err}
		}
		time.Sleep(lockPause)
	}
	return false, nil
}

// length returns how many records a note's log has, and one more; 0 for what is no note. Who
// signed it is for who reads it.
func length(note []byte) uint64 {
	text, _, _ := strings.Cut(string(note), "\n\n")
	c, err := tlog.ParseCheckpoint(text + "\n")
	if err != nil {
		return 0
	}
	return c.Size + 1
}

// replace writes the file anew, with the lock held: the same name beside it serves every time,
// so that a process that was killed leaves at most one file behind.
func (f NoteFile) replace(note []byte) error {
	beside := string(f) + ".new"
	file, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(note)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(beside, string(f))
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside))
	}
	return nil
}
