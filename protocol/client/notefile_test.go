package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/protocol/client"
)

// noteOf is the text of a checkpoint of a log of n records: a NoteFile looks no
// further.
func noteOf(n int) []byte {
	return fmt.Appendf(nil, "log\n%d\n%s\n\n— log AAAA\n", n, tlog.EmptyRoot)
}

func TestNoteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := client.NoteFile(filepath.Join(dir, "client.log-00000000"))
	if note, err := f.Load(); note != nil || err != nil {
		t.Fatalf("before the first: %q, %v", note, err)
	}
	for _, c := range []struct{ store, want int }{{0, 0}, {10, 10}, {9, 10}, {10, 10}, {11, 11}} {
		if err := f.Store(noteOf(c.store)); err != nil {
			t.Fatal(err)
		}
		if note, err := f.Load(); err != nil || !bytes.Equal(note, noteOf(c.want)) {
			t.Errorf("after %d: %q, %v", c.store, note, err)
		}
	}
	info, err := os.Stat(string(f))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestNoteFileIsShared stores from many places at once: no reader sees anything but a
// whole note, and none that is shorter than one it saw before.
func TestNoteFileIsShared(t *testing.T) {
	t.Parallel()
	f := client.NoteFile(filepath.Join(t.TempDir(), "note"))
	check(t, f.Store(noteOf(0)))
	var stores, reads sync.WaitGroup
	stop := make(chan struct{})
	reads.Go(func() {
		for most := -1; ; {
			select {
			case <-stop:
				return
			default:
			}
			note, err := f.Load()
			n := -1
			if _, e := fmt.Sscanf(string(note), "log\n%d\n", &n); err != nil || e != nil || n < most || !bytes.Equal(note, noteOf(n)) {
				t.Errorf("%q behind %d, %v, %v", note, most, err, e)
				return
			}
			most = n
		}
	})
	for i := range 8 {
		stores.Go(func() {
			for n := range 5 {
				if err := f.Store(noteOf(100*n + i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stores.Wait()
	close(stop)
	reads.Wait()
}

// TestNoteFileWaitsForNobody while another process holds the note: it stays.
func TestNoteFileWaitsForNobody(t *testing.T) {
	t.Parallel()
	f := client.NoteFile(filepath.Join(t.TempDir(), "note"))
	check(t, f.Store(noteOf(1)))
	other := locked(t, string(f))
	check(t, f.Store(noteOf(2)))
	if note, err := f.Load(); err != nil || !bytes.Equal(note, noteOf(1)) {
		t.Errorf("%q, %v", note, err)
	}
	check(t, other.Close())
	check(t, f.Store(noteOf(3)))
	if note, err := f.Load(); err != nil || !bytes.Equal(note, noteOf(3)) {
		t.Errorf("%q, %v", note, err)
	}
}

// TestNoteFileIsNotHeldByReadersOfItsFolder: another user who may look into the folder keeps no
// note an old one by a lock of the folder. A file that is empty, because a process was killed
// before its first note, is none.
func TestNoteFileIsNotHeldByReadersOfItsFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := client.NoteFile(filepath.Join(dir, "note"))
	check(t, os.WriteFile(string(f), nil, 0o600))
	if note, err := f.Load(); note != nil || err != nil {
		t.Errorf("an empty file: %q, %v", note, err)
	}
	locked(t, dir)
	check(t, f.Store(noteOf(1)))
	if note, err := f.Load(); err != nil || !bytes.Equal(note, noteOf(1)) {
		t.Errorf("%q, %v", note, err)
	}
}

// locked holds the lock of a file or folder until it is closed, or the test ends.
func locked(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	check(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	return f
}

// TestNoteFileRefusals are errors, and what is there stays.
func TestNoteFileRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	long := client.NoteFile(filepath.Join(dir, "long"))
	check(t, os.WriteFile(string(long), bytes.Repeat([]byte("x"), tlog.MaxNote+1), 0o600))
	if _, err := long.Load(); err == nil || !strings.Contains(err.Error(), "is no checkpoint") {
		t.Errorf("a long file: %v", err)
	}
	if err := client.NoteFile(filepath.Join(dir, "none", "note")).Store(noteOf(1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	elsewhere, linked := filepath.Join(dir, "elsewhere"), client.NoteFile(filepath.Join(dir, "linked"))
	check(t, os.WriteFile(elsewhere, []byte("mine"), 0o600))
	check(t, os.Symlink(elsewhere, string(linked)+".new"))
	if err := linked.Store(noteOf(1)); err == nil {
		t.Error("a link was followed")
	}
	if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "mine" {
		t.Errorf("through a link was written %q, %v", b, err)
	}
}

// TestCheckLog is over when the comparison is, and says what it found and where the
// evidence is.
func TestCheckLog(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	note := func(l leaves) string { return l.note(t, s, "log") }
	for name, c := range map[string]struct {
		is   *shown
		err  error
		kept string
	}{
		"grown":   {&shown{hello: note("abcdefgh"), newest: []leaves{"abcdefghi"}}, nil, note("abcdefghi")},
		"shorter": {&shown{hello: note("abc"), newest: []leaves{"abc"}}, client.ErrForked, note("abcde")},
		"forked":  {&shown{hello: note("abcdxfgh"), newest: []leaves{"abcdxfgh"}}, client.ErrForked, note("abcde")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := client.NoteFile(filepath.Join(t.TempDir(), "note"))
			check(t, f.Store([]byte(note("abcde"))))
			cl := newAppliance(t, 0, c.is.serve(t, s)).client(func(cfg *client.Config) { cfg.AuditKey, cfg.Checkpoints = s.key, f })
			create(t.Context(), cl)
			err := cl.CheckLog(t.Context())
			var e *client.LogError
			if !errors.Is(err, c.err) || errors.As(err, &e) && e.File != string(f) {
				t.Errorf("%v, %+v", err, e)
			}
			got, err := f.Load()
			if k, o := size(t, got), size(t, []byte(c.kept)); err != nil || k != o {
				t.Errorf("a checkpoint of %d records is kept, want %d; %v", k, o, err)
			}
		})
	}
	if err := newAppliance(t, 0, (&shown{}).serve(t, s)).client(func(*client.Config) {}).CheckLog(t.Context()); err != nil {
		t.Errorf("without a key: %v", err)
	}
}

// size returns how many records a checkpoint covers.
func size(t *testing.T, note []byte) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(string(note), "log\n%d\n", &n); err != nil {
		t.Fatalf("%q: %v", note, err)
	}
	return n
}
