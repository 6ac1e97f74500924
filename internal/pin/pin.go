// Package pin reads PINs and other short secrets that an operator keeps for the appliance, from where nobody else sees them: a private
// file, a systemd credential, or the environment. Read Source first. It is never given a secret itself: command lines and
// configurations hold only where to find it.
package pin

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

var (
	// ErrSource is wrapped by Check for a Source that makes no sense.
	ErrSource = errors.New("pin: bad source")

	// ErrUnreadable is wrapped by Read for a PIN that cannot be had, or not safely, from its source.
	ErrUnreadable = errors.New("pin: it cannot be read")
)

// maxPIN bounds a PIN in bytes.
const maxPIN = 256

// Source says where a PIN is: at most one field is set. The zero Source is no PIN.
type Source struct {
	File       string // absolute path of a regular file of the process's own user, or root's, mode 0600 or narrower
	Env        string // name of an environment variable, which every process of the same user can read
	Credential string // name of a systemd credential (LoadCredentialEncrypted=), a file in $CREDENTIALS_DIRECTORY
}

// Given reports whether the source names a PIN.
func (s Source) Given() bool { return s != Source{} }

// Check returns an error that wraps ErrSource for a source that contradicts itself. It reads nothing, and the error does not repeat
// what may be a PIN in the wrong place.
func (s Source) Check() error {
	given := 0
	for _, field := range []string{s.File, s.Env, s.Credential} {
		if field != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return fmt.Errorf("%w: it can come from one place only", ErrSource)
	case s.File != "" && !filepath.IsAbs(s.File):
		return fmt.Errorf("%w: the path of its file is not absolute", ErrSource)
	case s.Credential == "..", s.Credential != "" && filepath.Base(s.Credential) != s.Credential:
		return fmt.Errorf("%w: that of its credential is not a name", ErrSource)
	}
	return nil
}

// Read returns the PIN, 1 to 256 bytes without newlines and zero bytes, in locked memory that the caller frees, or nil for the zero
// Source. A newline at the end is an editor's and is taken off. It returns an error that wraps ErrUnreadable.
func (s Source) Read() (*securemem.Buffer, error) {
	switch {
	case s.File != "":
		return readFile(s.File, 0o077)
	case s.Env != "":
		return parse([]byte(os.Getenv(s.Env)), "the environment variable "+s.Env)
	case s.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("%w: $CREDENTIALS_DIRECTORY is not set: the unit needs LoadCredentialEncrypted=%s:…", ErrUnreadable, s.Credential)
		}
		// systemd gives the unit's user access by an ACL, which shows as a group's.
		return readFile(filepath.Join(dir, s.Credential), 0o007)
	}
	return nil, nil
}

// readFile returns the PIN in a file on which none of the forbidden mode bits is set.
func readFile(path string, forbidden fs.FileMode) (*securemem.Buffer, error) {
	// Not through a symbolic link, whose target someone else may choose, and without waiting where the path is a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	defer f.Close()
	if err := judge(f, forbidden); err != nil {
		return nil, err
	}
	room, err := securemem.New(maxPIN + 3)
	if err != nil {
		return nil, err
	}
	defer room.Free()
	n, err := io.ReadFull(f, room.Bytes())
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return parse(room.Bytes()[:n], path)
}

// judge refuses what is not a private file. The file is open already, so it cannot be swapped in between.
func judge(f *os.File, forbidden fs.FileMode) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no regular file", ErrUnreadable, f.Name())
	case info.Mode().Perm()&forbidden != 0:
		return fmt.Errorf("%w: %s has mode %04o, at most 0600 is safe", ErrUnreadable, f.Name(), info.Mode().Perm())
	case !ok || int(stat.Uid) != os.Geteuid() && stat.Uid != 0:
		return fmt.Errorf("%w: %s belongs to another user", ErrUnreadable, f.Name())
	}
	return nil
}

// parse returns a copy of the PIN in b, which from names.
func parse(b []byte, from string) (*securemem.Buffer, error) {
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: %s is empty", ErrUnreadable, from)
	case len(b) > maxPIN:
		return nil, fmt.Errorf("%w: %s holds more than a PIN, which has at most %d bytes", ErrUnreadable, from, maxPIN)
	case bytes.ContainsAny(b, "\n\r\x00"):
		return nil, fmt.Errorf("%w: %s holds more than one line", ErrUnreadable, from)
	}
	return securemem.From(b)
}
