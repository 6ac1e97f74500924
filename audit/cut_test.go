package audit_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyrack/keyrack/audit"
)

// size returns how many bytes all segments have together.
func (d *disk) size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

// TestManyStarts begins a log some hundred times, a few records each time, half of the time
// without a Close. What finished segments hold is all that they keep, and a start changes no more
// the more of them there are.
func TestManyStarts(t *testing.T) {
	t.Parallel()
	const starts, each, size = 200, 3, 32 << 10
	d := newDisk()
	config := func(d *disk) audit.Config {
		c := tiny(d)
		c.SegmentBytes = size
		return c
	}
	var ops []int
	for n := range starts {
		before := d.ops
		l := open(t, config(d))
		ops = append(ops, d.ops-before)
		mustAdd(t, l, n*each, (n+1)*each)
		switch {
		case n%2 == 0:
			closeLog(t, l)
		case n%4 == 1:
			d = d.restart(killed, nil)
		default:
			d = d.restart(lost, nil)
		}
	}
	l := open(t, config(d))
	if err := wantRecords(l, starts*each); err != nil {
		t.Error(err)
	}
	if used := d.size() - 3*size; l.State().Segments != starts+1 || used > starts*3*audit.HeaderBytes {
		t.Errorf("%d segments take %d bytes", l.State().Segments, used)
	}
	if early, late := ops[10], ops[starts-2]; late > early+5 {
		t.Errorf("start 10 changed the disk %d times, start %d did %d times", early, starts-2, late)
	}
	closeLog(t, l)
	r := mustVerify(t, d, l.Checkpoint())
	if r.Size != starts*each || r.Unfinished || r.Checked != starts*each {
		t.Errorf("report %+v", r)
	}
	f := &audit.Filter{After: record(500).Time, Before: record(510).Time}
	s, _, err := audit.Search(d, audit.VerifyOptions{}, f, func(audit.Position, *audit.Record, []byte) error { return nil })
	if err != nil || s.Found != 10 {
		t.Errorf("searched %+v, %v", s, err)
	}
}

// TestCutOnDisk does the same with the operating system's files: a start in the background cuts
// what its predecessor left whole, of whose folder a copy was taken as a kill leaves it; a stop
// cuts its own.
func TestCutOnDisk(t *testing.T) {
	t.Parallel()
	before, path := t.TempDir(), t.TempDir()
	bytes := func(n uint64) int64 {
		info, err := os.Stat(filepath.Join(path, audit.SegmentFile(n)))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	c := small(audit.Dir(before))
	c.SegmentBytes = 1 << 20
	killed := open(t, c)
	mustAdd(t, killed, 0, 5)
	copyRunning(t, path, before)
	closeLog(t, killed)
	c.Files = audit.Dir(path)
	if bytes(0) != c.SegmentBytes {
		t.Errorf("segment in use has %d bytes", bytes(0))
	}
	l := open(t, c)
	for end := time.Now().Add(30 * time.Second); bytes(0) == c.SegmentBytes; {
		if time.Now().After(end) {
			t.Fatal("finished segment was not cut")
		}
		if err := wantRecords(l, 5); err != nil { // also while it is cut
			t.Fatal(err)
		}
		mustVerify(t, c.Files)
	}
	mustAdd(t, l, 5, 7)
	if err := l.Rekey(); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, l, 7, 9)
	closeLog(t, l)
	for n := range uint64(3) {
		if size := bytes(n); size > 3*audit.HeaderBytes || size%audit.Sector != 0 {
			t.Errorf("segment %d has %d bytes", n, size)
		}
	}
	l = open(t, c)
	if err := wantRecords(l, 9); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
}

// copyRunning copies the files of a running log, as they are when it comes to them: what the log
// renames or removes meanwhile is not in the copy, as it is not there after a kill.
func copyRunning(t *testing.T, to, from string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCutKeepsEvidence leaves a finished segment whole that holds what no log writes.
func TestCutKeepsEvidence(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(b []byte){
		"a byte behind the end": func(b []byte) { b[len(b)-audit.HeaderBytes-1] = 1 },
		"a changed length":      func(b []byte) { b[audit.HeaderBytes+59]++ },
		"the last batch blank":  func(b []byte) { clear(b[audit.HeaderBytes+audit.Sector:]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDisk()
			l := open(t, tiny(d))
			mustAdd(t, l, 0, 1)
			mustAdd(t, l, 1, 2)
			if err := l.Rekey(); err != nil {
				t.Fatal(err)
			}
			mustAdd(t, l, 2, 4)
			closeLog(t, l)
			d.uncut()
			b := d.bytes(audit.SegmentFile(0))
			change(b)
			open(t, tiny(d))
			if got := len(d.bytes(audit.SegmentFile(0))); got != len(b) {
				t.Errorf("cut to %d bytes", got)
			}
			if _, err := verify(t, d); !errors.Is(err, audit.ErrDamaged) {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// TestCutWhileRead verifies and follows a log while segment after segment is finished and cut.
func TestCutWhileRead(t *testing.T) {
	t.Parallel()
	d := newDisk()
	c := small(d)
	c.SegmentBytes = 64 << 10
	l := open(t, c)
	followed := make(chan error, 1)
	go func() {
		followed <- l.Follow(context.Background(), 0, func(p audit.Position, _ []byte) error {
			if p == 300 {
				return errEnough
			}
			return nil
		})
	}()
	verified := make(chan error, 1)
	go func() {
		for l.Durable() < 300 {
			if _, err := verify(t, d); err != nil {
				verified <- fmt.Errorf("at %d: %w", l.Durable(), err)
				return
			}
		}
		verified <- nil
	}()
	for n := 0; n < 300; n += 3 {
		mustAdd(t, l, n, n+3)
		if err := l.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-followed; !errors.Is(err, errEnough) {
		t.Error(err)
	}
	if err := <-verified; err != nil {
		t.Error(err)
	}
	closeLog(t, l)
}
