package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/audit"
)

var errDisk = errors.New("disk gave up")

// TestFaultEverywhere lets each operation fail once, the disk working again after it. What was
// acknowledged is there at the next start; after a failed write or sync the log answers nothing
// more, however well the disk works; after a failed create or cut it goes on.
func TestFaultEverywhere(t *testing.T) {
	t.Parallel()
	whole := newDisk()
	if err := new(story).run(tiny(whole), new(*audit.Log)); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= whole.ops; at++ {
		d := newDisk()
		var failed string
		d.fail = func(op int, kind, _ string) error {
			if op == at {
				failed = kind
				return errDisk
			}
			return nil
		}
		var s story
		var l *audit.Log
		err := s.run(tiny(d), &l)
		if !errors.Is(err, errDisk) && failed != "create" && failed != "truncate" {
			t.Fatalf("%s fails at operation %d: %v", failed, at, err)
		}
		if l != nil && !s.closing && failed != "create" && failed != "truncate" {
			wantDead(t, l, s.acked)
		}
		for _, how := range []cut{lost, killed} {
			s := s
			if err := s.check(t, d.restart(how, nil), none); err != nil {
				t.Errorf("%s fails at operation %d, then %v: %v", failed, at, how, err)
			}
		}
	}
}

// wantDead checks that a log gives the same answer for ever and publishes nothing.
func wantDead(t *testing.T, l *audit.Log, acked int) {
	t.Helper()
	for range 3 {
		if _, err := add(l, 900, 901); !errors.Is(err, audit.ErrDead) || !errors.Is(err, errDisk) {
			t.Errorf("append to a dead log: %v", err)
		}
		if err := l.Wait(context.Background(), l.Durable()+1); !errors.Is(err, audit.ErrDead) {
			t.Errorf("wait for a dead log: %v", err)
		}
		if err := l.Err(); !errors.Is(err, audit.ErrDead) || l.State().Dead == nil {
			t.Errorf("Err of a dead log: %v", err)
		}
	}
	if err := l.Wait(context.Background(), audit.Position(acked)); err != nil {
		t.Errorf("what was acknowledged is no longer: %v", err)
	}
	if err := l.Rekey(); !errors.Is(err, audit.ErrDead) {
		t.Errorf("rekey of a dead log: %v", err)
	}
	if err := l.Close(context.Background()); !errors.Is(err, audit.ErrDead) {
		t.Errorf("close of a dead log: %v", err)
	}
}

// TestDeadWakesAll lets a sync fail under many who wait.
func TestDeadWakesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		var broken atomic.Bool
		d.fail = func(_ int, kind, name string) error {
			if broken.Load() && kind == "sync" && strings.HasSuffix(name, ".seg") {
				return errDisk
			}
			return nil
		}
		c := small(d)
		var states []audit.State
		c.OnChange = func(s audit.State) { states = append(states, s) }
		l := open(t, c)
		mustAdd(t, l, 0, 3)
		synctest.Wait()
		broken.Store(true)
		ends := make(chan error)
		go func() {
			ends <- l.Follow(context.Background(), 0, func(audit.Position, []byte) error { return nil })
		}()
		for range 20 {
			go func() { ends <- l.Wait(context.Background(), 4) }()
		}
		synctest.Wait()
		if _, err := add(l, 3, 4); err != nil {
			t.Fatal(err)
		}
		for range 21 {
			if err := <-ends; !errors.Is(err, audit.ErrDead) {
				t.Errorf("got %v, want ErrDead", err)
			}
		}
		synctest.Wait()
		if l.Durable() != 3 || len(states) != 1 || states[0].Dead == nil {
			t.Errorf("%d durable, states %+v", l.Durable(), states)
		}
		if err := l.Close(context.Background()); !errors.Is(err, audit.ErrDead) {
			t.Errorf("close: %v", err)
		}
	})
}

// TestFull runs out of space: what is begun is refused early, refusals are recorded from the
// reserve, nothing accepted is lost, and all is well once there is room.
func TestFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := small(d)
		d.limit = 4*c.SegmentBytes + 8<<10
		var states []audit.State
		c.OnChange = func(s audit.State) { states = append(states, s) }
		l := open(t, c)
		n, refusals := 0, 0
		for l.Err() == nil {
			mustAdd(t, l, n, n+1)
			synctest.Wait()
			n++
		}
		if !errors.Is(l.Err(), audit.ErrFull) || !errors.Is(l.Err(), syscall.ENOSPC) || errors.Is(l.Err(), audit.ErrDead) {
			t.Errorf("Err: %v", l.Err())
		}
		s := l.State()
		if !s.Full || s.FreeBytes >= c.SegmentBytes/4 || s.FreeBytes < c.SegmentBytes/8 || s.Dead != nil || !errors.Is(s.SpaceErr, syscall.ENOSPC) {
			t.Errorf("state: %+v", s)
		}
		var last audit.Position
		for {
			p, err := add(l, n, n+1)
			if err != nil {
				if !errors.Is(err, audit.ErrFull) {
					t.Fatal(err)
				}
				break
			}
			synctest.Wait()
			n, refusals, last = n+1, refusals+1, p
		}
		if refusals < 3 {
			t.Errorf("reserve held %d records", refusals)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := l.Wait(ctx, last); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait for a record without a place: %v", err)
		}
		cancel()

		d.mu.Lock()
		d.limit = 0
		d.mu.Unlock()
		if err := l.Wait(context.Background(), last); err != nil {
			t.Errorf("wait once there is room: %v", err)
		}
		synctest.Wait()
		if l.Err() != nil || len(states) != 2 || !states[0].Full || states[1].Full {
			t.Errorf("Err: %v, states: %+v", l.Err(), states)
		}
		mustAdd(t, l, n, n+20)
		if err := wantRecords(l, n+20); err != nil {
			t.Error(err)
		}
		closeLog(t, l)
		mustVerify(t, d)
	})
}

// hesitant is a disk that takes its time to make a file, and then has no room for it.
type hesitant struct {
	*disk
	hold chan struct{} // closed when it has made up its mind; nil while it works
}

func (h *hesitant) Create(name string, size int64) (audit.File, error) {
	if h.hold == nil {
		return h.disk.Create(name, size)
	}
	<-h.hold
	return nil, syscall.ENOSPC
}

// TestFullWhileManyWait: who waits for room in memory is refused, too, once the disk turns out to
// have none.
func TestFullWhileManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hesitant{disk: newDisk()}
		l := open(t, small(h))
		synctest.Wait()
		h.hold = make(chan struct{})
		refused := make(chan error, 1)
		go func() {
			for n := 0; ; n += 20 {
				if _, err := add(l, n, n+20); err != nil {
					refused <- err
					return
				}
			}
		}()
		synctest.Wait()
		if len(refused) > 0 || l.State().Size < 8000 {
			t.Fatalf("after %d records nobody waits", l.State().Size)
		}
		close(h.hold)
		synctest.Wait()
		select {
		case err := <-refused:
			if !errors.Is(err, audit.ErrFull) {
				t.Errorf("refused with %v", err)
			}
		default:
			t.Error("who waits is not told")
		}
		if err := l.Close(context.Background()); !errors.Is(err, audit.ErrFull) {
			t.Errorf("close: %v", err)
		}
	})
}

// TestFullAtTheEnd closes a log, and opens one, without room for what must be kept.
func TestFullAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := small(d)
		d.limit = 2*c.SegmentBytes + 8<<10
		l := open(t, c)
		n := 0
		for {
			if _, err := add(l, n, n+1); err != nil {
				break
			}
			synctest.Wait()
			n++
		}
		acked := int(l.Durable())
		if err := l.Close(context.Background()); !errors.Is(err, audit.ErrFull) {
			t.Errorf("close: %v", err)
		}
		if _, err := audit.Open(c); !errors.Is(err, audit.ErrFull) {
			t.Errorf("open: %v", err)
		}
		d.limit = 0
		l = open(t, c)
		if err := wantRecords(l, acked); err != nil {
			t.Error(err)
		}
		closeLog(t, l)
	})
}

// pass lets the bubble's time go by and its goroutines come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestSignerFails keeps the log going while the token does not sign, and says so.
func TestSignerFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := small(d)
		good := c.Signer.SignDigest
		var broken atomic.Bool
		c.CheckpointEvery = time.Second
		c.Signer.SignDigest = func(ctx context.Context, digest []byte) ([]byte, error) {
			if broken.Load() {
				return nil, errDisk
			}
			return good(ctx, digest)
		}
		var changes []string
		c.OnChange = func(s audit.State) { changes = append(changes, fmt.Sprint(s.CheckpointErr != nil)) }
		l := open(t, c)
		pass(2 * time.Second)
		broken.Store(true)
		mustAdd(t, l, 0, 3)
		pass(5 * time.Second)
		if s := l.State(); !errors.Is(s.CheckpointErr, errDisk) || s.LastCheckpoint.Size != 0 || l.Err() != nil {
			t.Errorf("state: %+v", s)
		}
		broken.Store(false)
		pass(2 * time.Second)
		if s := l.State(); s.CheckpointErr != nil || s.LastCheckpoint.Size != 3 || s.LastCheckpoint.Time.IsZero() {
			t.Errorf("state: %+v", s)
		}
		if got := strings.Join(changes, " "); got != "true false" {
			t.Errorf("changes: %s", got)
		}
		closeLog(t, l)
	})
}

// TestCheckpointPace counts signatures: at most one a second, and none without new records.
func TestCheckpointPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := small(d)
		c.CheckpointEvery = time.Second
		good, signed := c.Signer.SignDigest, 0
		c.Signer.SignDigest = func(ctx context.Context, digest []byte) ([]byte, error) {
			signed++
			return good(ctx, digest)
		}
		l := open(t, c)
		for n := range 100 {
			mustAdd(t, l, n, n+1)
			pass(100 * time.Millisecond)
		}
		pass(time.Second)
		if signed < 10 || signed > 12 {
			t.Errorf("%d checkpoints in 11 seconds", signed)
		}
		before := signed
		pass(time.Hour)
		if signed != before {
			t.Errorf("%d checkpoints of nothing new", signed-before)
		}
		mustVerify(t, d)
		closeLog(t, l)
		if signed != before {
			t.Errorf("closing signed what was signed")
		}
	})
}
