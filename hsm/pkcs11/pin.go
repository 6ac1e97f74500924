package pkcs11

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyrack/keyrack/internal/securemem"
)

// maxPIN bounds a PIN in bytes; vendors end at 255.
const maxPIN = 256

// readPIN returns the PIN, in locked memory that the caller frees, or nil where the configuration names none. A newline at
// the end is an editor's and is taken off. It is read anew for each login, and so need not be kept.
func (c *Config) readPIN() (*securemem.Buffer, error) {
	switch {
	case c.PIN != nil:
		return c.PIN.Read()
	case c.PINFile != "":
		return readPINFile(c.PINFile, 0o077)
	case c.PINEnv != "":
		return pinOf([]byte(os.Getenv(c.PINEnv)), "the environment variable "+c.PINEnv)
	case c.PINCredential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, fmt.Errorf("%w: $CREDENTIALS_DIRECTORY is not set: the unit needs LoadCredentialEncrypted=%s:…", ErrPINFile, c.PINCredential)
		}
		// systemd gives the unit's user access by an ACL, which shows as a group's.
		return readPINFile(filepath.Join(dir, c.PINCredential), 0o007)
	}
	return nil, nil
}

// readPINFile reads the PIN in a regular file of the process's own user, or root's, on which none of the forbidden mode bits is set.
func readPINFile(path string, forbidden fs.FileMode) (*securemem.Buffer, error) {
	// Not through a symbolic link, whose target someone else may choose, and without waiting where the path is a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is no regular file", ErrPINFile, path)
	case info.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("%w: %s has mode %04o, at most 0600 is safe", ErrPINFile, path, info.Mode().Perm())
	case !ok || int(stat.Uid) != os.Geteuid() && stat.Uid != 0:
		return nil, fmt.Errorf("%w: %s belongs to another user", ErrPINFile, path)
	}
	room, err := securemem.New(maxPIN + 2)
	if err != nil {
		return nil, err
	}
	defer room.Free()
	n, err := io.ReadFull(f, room.Bytes())
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrPINFile, err)
	}
	return pinOf(room.Bytes()[:n], path)
}

// pinOf returns a copy of the PIN in b, which from names.
func pinOf(b []byte, from string) (*securemem.Buffer, error) {
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: %s is empty", ErrPINFile, from)
	case len(b) > maxPIN:
		return nil, fmt.Errorf("%w: %s holds more than a PIN, which has at most %d bytes", ErrPINFile, from, maxPIN)
	case bytes.ContainsAny(b, "\n\r\x00"):
		return nil, fmt.Errorf("%w: %s holds more than one line", ErrPINFile, from)
	}
	return securemem.From(b)
}

// The file of Config.Refused is one line: "v1", the token's binding, a salt and a mark, in hexadecimal. The mark has eight bits
// only: who steals the file learns eight bits of a PIN that was wrong, and one corrected PIN of 256 is taken for the wrong one.
const (
	refusedSalt  = 16
	refusedIter  = 200_000
	refusedBytes = 1
)

// refusedBefore reports whether the file at path says that this token has refused this PIN. A file that is absent or makes no
// sense says nothing.
func refusedBefore(path string, binding [bindingSize]byte, pin []byte) bool {
	if path == "" {
		return false
	}
	text, err := os.ReadFile(path)
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 4 || fields[0] != "v1" || fields[1] != hex.EncodeToString(binding[:]) {
		return false
	}
	salt, err := hex.DecodeString(fields[2])
	if err != nil || len(salt) != refusedSalt {
		return false
	}
	mark, err := refusedMark(salt, pin)
	return err == nil && hex.EncodeToString(mark) == fields[3]
}

// rememberRefused writes the file that refusedBefore reads.
func rememberRefused(path string, binding [bindingSize]byte, pin []byte) error {
	if path == "" {
		return nil
	}
	salt := make([]byte, refusedSalt)
	_, _ = rand.Read(salt) // never fails
	mark, err := refusedMark(salt, pin)
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, "v1 %x %x %x\n", binding, salt, mark), 0o600)
}

// forgetRefused ends what rememberRefused began, after a PIN that was right.
func forgetRefused(path string) {
	if path != "" {
		_ = os.Remove(path) // it speaks of another PIN: it does no harm where it stays
	}
}

// refusedMark returns the first eight bits of PBKDF2-HMAC-SHA-256 (SP 800-132) of the PIN.
func refusedMark(salt, pin []byte) (mark []byte, err error) {
	securemem.Do(func() {
		var full []byte
		full, err = pbkdf2.Key(sha256.New, string(pin), salt, refusedIter, sha256.Size)
		if err == nil {
			mark = bytes.Clone(full[:refusedBytes])
		}
	})
	return mark, err
}
