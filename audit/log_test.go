package audit_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/audit"
)

// TestStory is the life of a log: begun, filled over several segments, closed, opened again, and proven whole each time.
func TestStory(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]audit.Files{"memory": newDisk(), "disk": audit.Dir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			for range 3 {
				l := open(t, small(files))
				if err := wantRecords(l, n); err != nil {
					t.Fatal(err)
				}
				for range 10 {
					mustAdd(t, l, n, n+7)
					n += 7
				}
				if s := l.State(); int(s.Durable) != n || s.Size != s.Durable || !s.Keyed || s.Full || s.Dead != nil || s.FreeBytes == 0 {
					t.Errorf("state: %+v", s)
				}
				closeLog(t, l)
				r := mustVerify(t, files)
				if int(r.Size) != n || r.Covered != r.Size || r.Checked != uint64(n) || r.Unfinished || r.Origin != origin {
					t.Errorf("report: %+v", r)
				}
			}
		})
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	l := open(t, small(newDisk()))
	mustAdd(t, l, 0, 3)
	closeLog(t, l)
	if _, err := add(l, 3, 4); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := l.Wait(t.Context(), 3); err != nil {
		t.Errorf("wait for what is durable: %v", err)
	}
	if err := l.Wait(t.Context(), 4); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("wait for more: %v", err)
	}
	if err := l.Close(context.Background()); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("close again: %v", err)
	}
}
