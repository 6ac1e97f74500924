package audit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/securemem"
)

// TestStory is the life of a log: begun, filled over several segments, closed, opened again,
// and proven whole each time.
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
	if err := l.Rekey(); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("rekey: %v", err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*audit.Config){
		"no files":           func(c *audit.Config) { c.Files = nil },
		"no clock":           func(c *audit.Config) { c.Clock = nil },
		"no signer":          func(c *audit.Config) { c.Signer.SignDigest = nil },
		"no public key":      func(c *audit.Config) { c.Signer.Public = nil },
		"no origin":          func(c *audit.Config) { c.Origin = "" },
		"origin with space":  func(c *audit.Config) { c.Origin = "a b" },
		"tiny segment":       func(c *audit.Config) { c.SegmentBytes = 8 << 10 },
		"huge segment":       func(c *audit.Config) { c.SegmentBytes = 2 << 30 },
		"odd segment":        func(c *audit.Config) { c.SegmentBytes = 64<<10 + 512 },
		"negative reserve":   func(c *audit.Config) { c.Reserve = -1 },
		"unknown durability": func(c *audit.Config) { c.Durability = 9 },
	} {
		d := newDisk()
		c := tiny(d)
		change(&c)
		if _, err := audit.Open(c); err == nil || d.ops > 0 {
			t.Errorf("%s: %v after %d operations", name, err, d.ops)
		}
	}
}

// TestKeys starts locked, unlocks, fails to unlock, and locks: each batch says how it was
// written, and what has a MAC checks.
func TestKeys(t *testing.T) {
	t.Parallel()
	d := newDisk()
	c := tiny(d)
	var refusal error
	asked := 0
	c.StartKey = func(nonce [32]byte) (*securemem.Buffer, error) {
		asked++
		if refusal != nil {
			return nil, refusal
		}
		return startKey(nonce)
	}
	refusal = fmt.Errorf("domain: %w", audit.ErrLocked)
	l := open(t, c)
	mustAdd(t, l, 0, 5)
	if l.State().Keyed {
		t.Error("keyed while locked")
	}
	refusal = nil
	if err := l.Rekey(); err != nil || !l.State().Keyed {
		t.Fatalf("rekey: %v, %+v", err, l.State())
	}
	mustAdd(t, l, 5, 12)
	refusal = errDisk
	if err := l.Rekey(); !errors.Is(err, errDisk) || !l.State().Keyed {
		t.Errorf("rekey with a broken token: %v, %+v", err, l.State())
	}
	mustAdd(t, l, 12, 15)
	refusal = audit.ErrLocked
	if err := errors.Join(l.Rekey(), l.Rekey()); err != nil || l.State().Keyed {
		t.Errorf("lock: %v, %+v", err, l.State())
	}
	mustAdd(t, l, 15, 20)
	closeLog(t, l)
	if r := mustVerify(t, d); r.Size != 20 || r.Keyed != 10 || r.Checked != 10 || r.Segments != 3 {
		t.Errorf("report: %+v", r)
	}

	// A key of the wrong length is the hook's fault; the log does not open with it.
	c.StartKey = func([32]byte) (*securemem.Buffer, error) { return securemem.New(16) }
	if _, err := audit.Open(c); err == nil {
		t.Error("opened with a key of 16 bytes")
	}
	if asked != 5 {
		t.Errorf("token asked %d times", asked)
	}
}

// TestLongChain checks MACs over many segments of one start, and again from the middle.
func TestLongChain(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	for n := 0; n < 200; n += 4 {
		mustAdd(t, l, n, n+4)
		if n == 100 {
			if err := l.SignCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	l = open(t, tiny(d.restart(lost, nil)))
	if s := l.State(); s.Recovered.Records != 96 || s.Recovered.Unchecked != 0 || s.Segments < 8 {
		t.Errorf("state: %+v", s)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	l := open(t, tiny(newDisk()))
	var trail audit.Trail
	largest := 16<<10 - audit.HeaderBytes - audit.BatchBytes - audit.FrameBytes
	trail.AddEncoded(make([]byte, 10))
	trail.AddEncoded(make([]byte, largest+1))
	if _, err := l.Append(&trail, true); !errors.Is(err, audit.ErrTooLarge) || trail.Len() != 2 || l.State().Size != 0 {
		t.Errorf("got %v, trail %d, state %+v", err, trail.Len(), l.State())
	}
	trail.Reset()
	for range 3 {
		trail.AddEncoded(make([]byte, largest))
	}
	if p, err := l.Append(&trail, true); err != nil || p != 3 || l.Durable() != 3 {
		t.Errorf("got %v, %v", p, err)
	}
	l = open(t, func() audit.Config { c := tiny(newDisk()); c.SegmentBytes = 4 << 20; return c }())
	trail.AddEncoded(make([]byte, audit.MaxRecord+1))
	if _, err := l.Append(&trail, true); !errors.Is(err, audit.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	trail.Reset()
	for range 9 { // more than one batch holds
		trail.AddEncoded(make([]byte, audit.MaxRecord))
	}
	if p, err := l.Append(&trail, true); err != nil || p != 9 || l.Durable() != 9 {
		t.Errorf("got %v, %v", p, err)
	}
	if records, err := read(l); err != nil || len(records) != 9 {
		t.Errorf("%d records, %v", len(records), err)
	}
}

func TestEmptyTrail(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	mustAdd(t, l, 0, 4)
	before := d.ops
	if p, err := l.Append(new(audit.Trail), true); p != 4 || err != nil || d.ops != before {
		t.Errorf("got %v, %v, %d operations", p, err, d.ops-before)
	}
}

// TestBackpressure holds the disk: Append blocks once more than 8 MiB wait, and goes on when
// they were taken.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := small(d)
		c.SegmentBytes = 16 << 20
		l := open(t, c)
		synctest.Wait()
		held, hold := make(chan struct{}), make(chan struct{})
		var once sync.Once
		d.before = func() { once.Do(func() { close(held); <-hold }) }
		appended := 0
		go func() {
			var trail audit.Trail
			for range 11 {
				for range 16 {
					trail.AddEncoded(make([]byte, 64<<10))
				}
				if _, err := l.Append(&trail, false); err != nil {
					t.Error(err)
				}
				appended++
				if appended == 1 {
					<-held
				}
			}
		}()
		synctest.Wait()
		if appended != 9 { // one in the committer's hands, and 8 MiB with their frames
			t.Errorf("%d MiB appended while the disk was held", appended)
		}
		close(hold)
		synctest.Wait()
		if appended != 11 {
			t.Errorf("%d MiB appended", appended)
		}
		if err := l.Wait(t.Context(), 11*16); err != nil {
			t.Error(err)
		}
		closeLog(t, l)
	})
}

// TestSegmentSizeChanges opens the same log with larger and smaller segments: files made ahead
// in the old size are not used.
func TestSegmentSizeChanges(t *testing.T) {
	t.Parallel()
	d := newDisk()
	n := 0
	for _, size := range []int64{16 << 10, 64 << 10, 20 << 10, 16 << 10} {
		c := tiny(d)
		c.SegmentBytes = size
		l := open(t, c)
		if err := wantRecords(l, n); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			mustAdd(t, l, n, n+3)
			n += 3
		}
		closeLog(t, l)
		mustVerify(t, d)
	}
}

func TestDamageText(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]*audit.Damage{
		"audit: segment 3: x":                                {Segment: 3, Batch: -1, What: "x"},
		"audit: segment 3, at record 7: x":                   {Segment: 3, Batch: -1, First: 7, Last: 7, What: "x"},
		"audit: segment 3, batch 0, record 7: x":             {Segment: 3, First: 7, Last: 8, What: "x"},
		"audit: segment 3, batch 2, records 7 to 9: x":       {Segment: 3, Batch: 2, First: 7, Last: 10, What: "x"},
		"audit: segment 0, batch 1, at record 0: file is no": {Batch: 1, What: "file is no"},
	} {
		if d.Error() != want || !errors.Is(d, audit.ErrDamaged) || errors.Is(d, audit.ErrForked) {
			t.Errorf("got %q, want %q", d.Error(), want)
		}
	}
}

// TestSynced says what a power cut leaves, in either durability.
func TestSynced(t *testing.T) {
	t.Parallel()
	for _, durability := range []audit.Durability{audit.Synced, audit.Written} {
		c := tiny(newDisk())
		c.Durability = durability
		l := open(t, c)
		mustAdd(t, l, 0, 5)
		if want := audit.Position(5); durability == audit.Synced && l.Synced() != want {
			t.Errorf("%v: %d records, want %d", durability, l.Synced(), want)
		}
		if durability == audit.Written && l.Synced() != 0 {
			t.Errorf("%v: %d records without a checkpoint", durability, l.Synced())
		}
		if err := l.SignCheckpoint(); err != nil || l.Synced() != 5 {
			t.Errorf("%v: %d records at a checkpoint, %v", durability, l.Synced(), err)
		}
		closeLog(t, l)
	}
}
