package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// inFlag and outFlag declare --in and --out.
func inFlag(fs *flag.FlagSet, what string) *string {
	return fs.String("in", "-", "read "+what+" from `FILE`; - is standard input")
}

func outFlag(fs *flag.FlagSet, what string) *string {
	return fs.String("out", "-", "write "+what+" to `FILE`, readable by its owner only and whole or not at all; - is standard output")
}

// readInput reads a file, or standard input for "-": at most limit bytes and
// one more, by which the caller sees that there were too many.
func (sh *shell) readInput(path string, limit int) ([]byte, error) {
	r := sh.in
	if path == "-" && isTerminal(sh.in) {
		fmt.Fprintln(sh.err, "reading standard input: Ctrl-D ends it")
	}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	return io.ReadAll(io.LimitReader(r, int64(limit)+1))
}

// binaryOutput refuses to show a ciphertext on a terminal, which it would upset. It asks
// before anything is read or made.
func (sh *shell) binaryOutput(path string, f *format) error {
	if path != "-" || *f != asText || !isTerminal(sh.out) {
		return nil
	}
	return misused("give --out FILE, or a pipe, as in: keyrack encrypt --key KEY | base64", "a ciphertext is binary, and standard output is a terminal")
}

// writeOutput writes a file, or standard output for "-". A symbolic link is
// followed and stays; what it points to is replaced.
func (sh *shell) writeOutput(path string, b []byte) error {
	if path == "-" {
		_, err := sh.out.Write(b)
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replaceFile(path, b)
	case err != nil:
		return err
	case !info.Mode().IsRegular(): // a device or a pipe cannot be replaced
		return writeInto(path, b)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	return replaceFile(path, b)
}

// replaceFile makes path a file of its own, mode 0600: after a crash it is the
// old one or the new one, whole. The new one is written beside it, since a rename
// works within one file system only, and synced before it gets the name.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".keyrack-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// writeInto writes into what is there and stays: a pipe, a terminal, /dev/null.
func writeInto(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
