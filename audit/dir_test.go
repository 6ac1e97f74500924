package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/audit"
)

func TestDir(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := audit.Dir(path)
	f, err := d.Create("a", 8192)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := f.Size(); err != nil || size != 8192 {
		t.Errorf("size %d, %v", size, err)
	}
	if info, err := os.Stat(filepath.Join(path, "a")); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := d.Create("a", 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create again: %v", err)
	}
	if _, err := f.WriteAt([]byte("hello"), 100); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Sync(), d.SyncDir(), f.Close(), d.Rename("a", "b")); err != nil {
		t.Error(err)
	}
	r, err := d.Open("b", audit.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := r.ReadAt(b, 100); err != nil || !bytes.Equal(b, []byte("hello")) {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := r.WriteAt(b, 0); err == nil {
		t.Error("wrote to a file opened for reading")
	}
	r.Close()
	if names, err := d.List(); err != nil || !slices.Equal(names, []string{"b"}) {
		t.Errorf("names %v, %v", names, err)
	}
	if err := d.Remove("b"); err != nil {
		t.Error(err)
	}
	if _, err := d.Open("b", audit.ReadWrite); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what was removed: %v", err)
	}
}

// TestDirFollowsNoLinks keeps the log from writing where a link points.
func TestDirFollowsNoLinks(t *testing.T) {
	t.Parallel()
	path, elsewhere := t.TempDir(), t.TempDir()
	target := filepath.Join(elsewhere, "target")
	if err := errors.Join(os.WriteFile(target, []byte("x"), 0o600), os.Symlink(target, filepath.Join(path, "a")), os.Symlink(elsewhere, filepath.Join(path, "sub"))); err != nil {
		t.Fatal(err)
	}
	d := audit.Dir(path)
	if _, err := d.Open("a", audit.ReadWrite); err == nil {
		t.Error("opened a link to a file")
	}
	if _, err := audit.Dir(filepath.Join(path, "sub")).Open("target", audit.ReadWrite); err == nil {
		t.Error("opened a file in a link to a folder")
	}
	for _, name := range []string{"../a", "sub/target", "/etc/passwd", ".", ".."} {
		if _, err := d.Open(name, audit.ReadOnly); err == nil {
			t.Errorf("opened %q", name)
		}
		if err := d.Rename(name, "b"); err == nil {
			t.Errorf("renamed %q", name)
		}
	}
}

// TestInUse keeps a second process, or a second log of this one, out.
func TestInUse(t *testing.T) {
	t.Parallel()
	d := audit.Dir(t.TempDir())
	l := open(t, small(d))
	if _, err := audit.Open(small(d)); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	mustVerify(t, d)
	closeLog(t, l)
	closeLog(t, open(t, small(d)))
}

// TestLogWhileAChildStarts: a program that is being started has copies of all open files until it runs. The log is
// free all the same as soon as it is closed.
func TestLogWhileAChildStarts(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	l := open(t, small(audit.Dir(path)))
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for _, e := range entries {
		var fd int
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target != path {
			continue
		}
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			t.Fatal(err)
		}
		child, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(child)
		copies++
	}
	closeLog(t, l)
	if copies == 0 {
		t.Error("the folder is not open")
	}
	closeLog(t, open(t, small(audit.Dir(path))))
}
