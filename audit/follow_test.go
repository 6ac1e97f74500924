package audit_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/tlog"
)

// TestHammer lets many goroutines append bursts of their own, alone and not, while followers
// read, checkpoints are signed, proofs made, the files verified and keys changed. Each record
// is durable when Wait says so, stands once and in its burst's order, and each follower sees
// all of them.
func TestHammer(t *testing.T) {
	t.Parallel()
	const producers, bursts, each = 8, 40, 5
	const total = producers * bursts * each
	dir := audit.Dir(t.TempDir())
	l := open(t, small(dir))
	var producing, following sync.WaitGroup
	logs := make([][][]byte, 3)
	for i := range logs {
		following.Go(func() {
			err := l.Follow(context.Background(), 0, func(p audit.Position, r []byte) error {
				if p > l.Durable() {
					return fmt.Errorf("record %d is not durable", p)
				}
				if logs[i] = append(logs[i], bytes.Clone(r)); len(logs[i]) == total {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Errorf("follower: %v", err)
			}
		})
	}
	for p := range producers {
		producing.Go(func() { hammer(t, l, p, bursts, each) })
	}
	done := make(chan struct{})
	go func() { producing.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		mustVerify(t, dir)
		now := l.Durable()
		if _, err := l.Consistency(t.Context(), now/2, now); err != nil {
			t.Error(err)
		}
		if err := l.Rekey(); err != nil {
			t.Error(err)
		}
	}
	following.Wait()
	closeLog(t, l)
	if r := mustVerify(t, dir); r.Size != total || r.Covered != total || r.Checked != total {
		t.Errorf("report: %+v", r)
	}
	next := make([]uint32, producers)
	for i, r := range logs[0] {
		p, n := binary.BigEndian.Uint32(r), binary.BigEndian.Uint32(r[4:])
		if n != next[p] {
			t.Fatalf("record %d is number %d of producer %d, want %d", i, n, p, next[p])
		}
		next[p]++
		if !bytes.Equal(r, logs[1][i]) || !bytes.Equal(r, logs[2][i]) {
			t.Fatalf("followers differ at %d", i)
		}
	}
}

func hammer(t *testing.T, l *audit.Log, producer, bursts, each int) {
	var trail audit.Trail
	n := 0
	for i := range bursts {
		for range each {
			r := binary.BigEndian.AppendUint32(nil, uint32(producer))
			r = binary.BigEndian.AppendUint32(r, uint32(n))
			trail.AddEncoded(append(r, make([]byte, n*7%300)...))
			n++
		}
		p, err := l.Append(&trail, i%3 == 0)
		if err == nil {
			err = l.Wait(context.Background(), p)
		}
		if err != nil || l.Durable() < p || trail.Len() != 0 {
			t.Errorf("producer %d: %v", producer, err)
			return
		}
	}
}

func TestFollowFromAnywhere(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, small(d))
	const total = 90
	for n := 0; n < total; n += 3 {
		mustAdd(t, l, n, n+3)
	}
	for from := range audit.Position(total) {
		next := from
		err := l.Follow(t.Context(), from, func(p audit.Position, r []byte) error {
			if p != next+1 || !bytes.Equal(r, encoded(int(next))) {
				return fmt.Errorf("from %d: got position %d, want record %d", from, p, next)
			}
			if next = p; next == total {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := l.Follow(ctx, total, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at the end: %v", err)
	}
	if err := l.Follow(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that is done: %v", err)
	}
	seen := make(chan audit.Position, 1)
	ended := make(chan error)
	go func() {
		ended <- l.Follow(context.Background(), total, func(p audit.Position, _ []byte) error { seen <- p; return nil })
	}()
	mustAdd(t, l, total, total+1)
	if p := <-seen; p != total+1 {
		t.Errorf("got %d", p)
	}
	closeLog(t, l)
	if err := <-ended; !errors.Is(err, audit.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestWalk reads exactly what it is asked for, and nothing that is not durable.
func TestWalk(t *testing.T) {
	t.Parallel()
	l := open(t, small(newDisk()))
	const total = 60
	for n := 0; n < total; n += 3 {
		mustAdd(t, l, n, n+3)
	}
	for from := range audit.Position(total + 1) {
		for _, to := range []audit.Position{from, from + 1, (from + total) / 2, total} {
			if to < from || to > total {
				continue
			}
			next := from
			err := l.Walk(t.Context(), from, to, func(p audit.Position, r []byte) error {
				if p != next+1 || !bytes.Equal(r, encoded(int(next))) {
					return fmt.Errorf("got position %d, want record %d", p, next)
				}
				next = p
				return nil
			})
			if err != nil || next != to {
				t.Fatalf("from %d to %d: ended at %d, %v", from, to, next, err)
			}
		}
	}
	for _, bad := range [][2]audit.Position{{0, total + 1}, {total + 1, total + 1}, {5, 4}} {
		if err := l.Walk(t.Context(), bad[0], bad[1], nil); !errors.Is(err, tlog.ErrRange) {
			t.Errorf("from %d to %d: %v", bad[0], bad[1], err)
		}
	}
	if err := l.Walk(t.Context(), 0, total, func(audit.Position, []byte) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Errorf("the function's error came back as %v", err)
	}
}

// TestFollowDamage stops at a record that was changed under the running log.
func TestFollowDamage(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	mustAdd(t, l, 0, 5)
	mustAdd(t, l, 5, 9)
	layout, err := audit.Layouts(d.bytes(audit.SegmentFile(0)))
	if err != nil {
		t.Fatal(err)
	}
	d.bytes(audit.SegmentFile(0))[layout[1].At+70] ^= 1
	if _, err := read(l); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// TestProofs compares every proof of a log over several segments and tiles with a tree in
// memory, in an order that makes the log forget and read again.
func TestProofs(t *testing.T) {
	t.Parallel()
	d := newDisk()
	l := open(t, tiny(d))
	const total = 1000
	var tree tlog.Frontier
	roots, leaves := []tlog.Hash{tree.Root()}, []tlog.Hash{}
	for n := range total {
		leaves = append(leaves, tlog.LeafHash(encoded(n)))
		tree.Append(leaves[n])
		roots = append(roots, tree.Root())
	}
	check := func(l *audit.Log, older, newer int) {
		t.Helper()
		proof, err := l.Consistency(t.Context(), audit.Position(older), audit.Position(newer))
		if err == nil {
			err = tlog.VerifyConsistency(uint64(older), uint64(newer), roots[older], roots[newer], proof)
		}
		if err != nil {
			t.Fatalf("consistency %d to %d: %v", older, newer, err)
		}
		if older == newer {
			return
		}
		if proof, err = l.Inclusion(t.Context(), audit.Position(older), audit.Position(newer)); err == nil {
			err = tlog.VerifyInclusion(uint64(older), uint64(newer), leaves[older], proof, roots[newer])
		}
		if err != nil {
			t.Fatalf("inclusion of %d in %d: %v", older, newer, err)
		}
	}
	for n := 0; n < total; n += 100 {
		mustAdd(t, l, n, n+100)
		check(l, n/3, n+100)
		check(l, n+99, n+100)
	}
	again := open(t, tiny(d.restart(kept, nil)))
	for i := range 80 {
		older := i * 577 % total
		check(l, older, total)
		check(again, older, older+(total-older)*(i%10)/10)
	}
	if _, err := l.Consistency(t.Context(), 0, total+1); !errors.Is(err, tlog.ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := again.Inclusion(ctx, 3, 7); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
