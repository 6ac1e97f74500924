package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxFile bounds a settings file, in bytes: the commented example has a tenth.
const maxFile = 64 << 10

// ErrUnsafe says that others could change a settings file: whoever can, decides
// where the appliance listens and which token it trusts.
var ErrUnsafe = errors.New("settings: the file can be changed by others")

// Read reads a settings file against the table. It returns ErrUnsafe, Faults, or
// what the system says.
func (t Table) Read(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := trusted(f); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, Faults{{path, 0, fmt.Sprintf("it is larger than any settings file, %d bytes", maxFile)}}
	}
	return t.Parse(path, text)
}

// trusted refuses what is no file, and one that others than its owner may write, or
// that belongs to neither root nor us. It asks the open file: a path may lead
// elsewhere a moment later.
func trusted(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return Faults{{f.Name(), 0, "it is not an ordinary file"}}
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%w: %s has mode %04o", ErrUnsafe, f.Name(), mode)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d", ErrUnsafe, f.Name(), owner)
	}
	return nil
}
