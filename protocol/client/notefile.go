package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	switch {
	case err == nil && len(note) > tlog.MaxNote:
		return nil, fmt.Errorf("%s is no checkpoint: it has more than %d bytes", f, tlog.MaxNote)
	case len(note) == 0: // as lock has made it
		return nil, err
	}
	return note, err
}

// Store replaces the note in one step, unless the file has one of a longer log, which another
// process was shown since: after a crash the file has the old one or the new one, whole. Where
// others store all the time, it gives up and leaves it to them.
func (f NoteFile) Store(note []byte) error {
	held, err := f.lock()
	if err != nil || held == nil {
		return err
	}
	defer held.Close() // and with it the lock
	now, err := f.Load()
	if err != nil {
		return err
	}
	if length(now) >= length(note) {
		return nil
	}
	return f.replace(note)
}

// lock takes the note's lock, flock(2), which a process that ends gives back; nil is that others
// have it. The file itself is locked, not its folder: that could be held by whoever may read it,
// and the note would stay an old one for ever. Who replaces the file takes its lock along.
func (f NoteFile) lock() (*os.File, error) {
	for range lockTries {
		file, err := os.OpenFile(string(f), os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && f.isStill(file) {
			return file, nil
		}
		file.Close()
		if err != nil && err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return nil, &fs.PathError{Op: "flock", Path: string(f), Err: err}
		}
		time.Sleep(lockPause)
	}
	return nil, nil
}

// isStill reports whether an open file is the note, and not one that was replaced meanwhile.
func (f NoteFile) isStill(file *os.File) bool {
	ours, err := file.Stat()
	there, err2 := os.Lstat(string(f))
	return err == nil && err2 == nil && os.SameFile(ours, there)
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
