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
	p := &place{path: "-", what: what}
	fs.Var(p, "out", "write "+what+" to `FILE`, readable by its owner only, whole or not at all, and never over a file that holds something; - is standard output")
	return &p.path
}

// placeFlag declares a flag for a file that a command writes: what is what goes there.
// [place.free] is asked before the command does anything.
func placeFlag(fs *flag.FlagSet, name, what, usage string) *string {
	p := &place{what: what}
	fs.Var(p, name, usage)
	return &p.path
}

// place is where a command writes. There is one rule for all: a file that holds something
// is never overwritten, because what is in it (a key, a ciphertext, the only plaintext)
// may be nowhere else. An empty one, as mktemp(1) makes it, holds nothing; devices and
// pipes are written into.
type place struct{ path, what string }

// String returns the path.
func (p *place) String() string { return p.path }

// Set takes any path: whether it is free is known when all flags are.
func (p *place) Set(path string) error {
	p.path = path
	return nil
}

// free refuses a file that holds something.
func (p *place) free() error {
	if info, err := os.Stat(p.path); p.path != "-" && err == nil && holds(info) {
		return fmt.Errorf("write %s: %w", p.what, taken(p.path))
	}
	return nil
}

// holds reports whether a file has something in it that would be lost.
func holds(info fs.FileInfo) bool { return info.Mode().IsRegular() && info.Size() > 0 }

// taken is the error of a file that holds something.
func taken(path string) error { return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist} }

// freePlaces refuses the first flag of a command that names a file that holds something.
func freePlaces(flags *flag.FlagSet) (err error) {
	flags.VisitAll(func(f *flag.Flag) {
		if p, ok := f.Value.(*place); ok && err == nil {
			err = p.free()
		}
	})
	return err
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
// followed and stays. A file that got something in it meanwhile is refused, as
// [place.free] does.
func (sh *shell) writeOutput(path string, b []byte) error {
	if path == "-" {
		_, err := sh.out.Write(b)
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replaceFile(path, b, publish)
	case err != nil:
		return err
	case !info.Mode().IsRegular(): // a device or a pipe cannot be replaced
		return writeInto(path, b)
	case holds(info):
		return taken(path)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	return replaceFile(path, b, os.Rename)
}

// publish gives a finished file its name, unless somebody was faster. A file system without links, FAT say, cannot tell.
func publish(finished, path string) error {
	err := os.Link(finished, path)
	switch {
	case err == nil:
		return os.Remove(finished)
	case errors.Is(err, fs.ErrExist):
		return taken(path)
	}
	return os.Rename(finished, path)
}

// replaceFile makes path a file of its own, mode 0600: after a crash it is not
// there, or as empty as it was, or whole. The new one is written beside it, since a rename
// works within one file system only, and synced before it gets the name by publish, or by os.Rename
// where an empty one is.
func replaceFile(path string, b []byte, name func(finished, path string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".keyrack-*")
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: "create", Path: path, Err: e.Err} // the name that was asked for
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = name(f.Name(), path)
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
