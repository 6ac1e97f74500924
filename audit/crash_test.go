package audit_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/keyrack/keyrack/audit"
)

// story is one run on a disk that may lose its power: what was promised to whom until then.
type story struct {
	acked   int      // records that Wait answered for
	notes   [][]byte // checkpoints that others may have seen
	closing bool     // Close was called
}

// run fills several segments in three lives of the log, with bursts of many sizes, checkpoints and
// a change of the key between. The first two lives end without Close. It leaves the log of the life in which it ended
// in now; nil if that did not open.
func (s *story) run(c audit.Config, now **audit.Log) error {
	for _, bursts := range []int{16, 6, 25} {
		*now = nil
		l, err := audit.Open(c)
		if err != nil {
			return err
		}
		*now = l
		if err := s.live(l, bursts); err != nil {
			return err
		}
	}
	s.closing = true
	err := (*now).Close(context.Background())
	if err == nil {
		s.notes = append(s.notes, (*now).Checkpoint())
	}
	return err
}

func (s *story) live(l *audit.Log, bursts int) error {
	for i := range bursts {
		if err := s.burst(l, 1+i*i%7); err != nil {
			return err
		}
		if i == 4 {
			if err := l.Rekey(); err != nil {
				return err
			}
		}
		if i%8 != 3 {
			continue
		}
		if err := l.SignCheckpoint(); err != nil {
			return err
		}
		s.notes = append(s.notes, l.Checkpoint())
	}
	return nil
}

func (s *story) burst(l *audit.Log, n int) error {
	from := int(l.State().Size)
	p, err := add(l, from, from+n)
	if err == nil {
		err = l.Wait(context.Background(), p)
	}
	if err == nil {
		s.acked = int(p)
	}
	return err
}

// check opens what a cut left, and checks that nothing promised is lost, also if the power goes
// again right after; then the log goes on.
func (s *story) check(t testing.TB, d *disk, change func(*audit.Config)) error {
	c := tiny(d)
	change(&c)
	l, err := audit.Open(c)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := wantRecords(l, s.acked); err != nil {
		return err
	}
	again, err := audit.Open(tiny(d.restart(lost, nil)))
	if err != nil {
		return fmt.Errorf("open after a second cut: %w", err)
	}
	if err := wantRecords(again, int(l.Durable())); err != nil {
		return fmt.Errorf("after a second cut: %w", err)
	}
	if err := s.burst(l, 3); err != nil {
		return err
	}
	if err := l.Close(context.Background()); err != nil {
		return err
	}
	r, err := verify(t, d, s.notes...)
	if err == nil && (int(r.Size) != s.acked || r.Covered != r.Size || r.Unfinished) {
		err = fmt.Errorf("%d records acknowledged, report: %+v", s.acked, r)
	}
	return err
}

// cutEverywhere cuts the power at each operation of the run, in one way, and returns what the
// checks found.
func cutEverywhere(t testing.TB, how cut, seed uint64, change func(*audit.Config)) (points int, kinds map[string]int, faults []error) {
	whole := newDisk()
	c := tiny(whole)
	change(&c)
	if err := new(story).run(c, new(*audit.Log)); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= whole.ops; at++ {
		d := newDisk()
		d.cutAt = at
		c := tiny(d)
		change(&c)
		var s story
		if err := s.run(c, new(*audit.Log)); err == nil && !d.dead {
			t.Fatalf("operation %d did not happen", at)
		}
		points++
		after := d.restart(how, rand.New(rand.NewPCG(seed, uint64(at))))
		if err := s.check(t, after, change); err != nil {
			faults = append(faults, fmt.Errorf("cut at operation %d (%v): %w", at, how, err))
		}
	}
	return points, whole.kinds, faults
}

func none(*audit.Config) {}

// TestPowerCut is the promise: whatever was acknowledged is there after the power went,
// wherever that was.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		how  cut
		seed uint64
	}{{lost, 0}, {kept, 0}, {killed, 0}, {sectors, 1}, {sectors, 2}} {
		t.Run(fmt.Sprintf("%v %d", way.how, way.seed), func(t *testing.T) {
			t.Parallel()
			points, kinds, faults := cutEverywhere(t, way.how, way.seed, none)
			for _, f := range faults {
				t.Error(f)
			}
			sum := 0
			for n := range maps.Values(kinds) {
				sum += n
			}
			if points != sum || kinds["write"] < 50 || kinds["sync"] < 50 || kinds["create"] < 3 || kinds["rename"] < 3 || kinds["truncate"] < 2 {
				t.Errorf("%d cut points, operations: %v", points, kinds)
			}
			t.Logf("%d cut points: %v", points, kinds)
		})
	}
}

// TestPowerCutFindsMissingSync shows that the test above can fail: with the syncs left out,
// records are lost.
func TestPowerCutFindsMissingSync(t *testing.T) {
	t.Parallel()
	for _, how := range []cut{lost, sectors} {
		if _, _, faults := cutEverywhere(t, how, 1, audit.SkipSync); len(faults) == 0 {
			t.Errorf("%v: no fault found in a log that does not sync", how)
		} else {
			t.Logf("%v: %d faults found, the first: %v", how, len(faults), faults[0])
		}
	}
}

// TestPowerCutDuringRecovery cuts a second time, at each operation of the start after a first
// cut.
func TestPowerCutDuringRecovery(t *testing.T) {
	t.Parallel()
	whole := newDisk()
	if err := new(story).run(tiny(whole), new(*audit.Log)); err != nil {
		t.Fatal(err)
	}
	points := 0
	for at := 3; at <= whole.ops; at += 7 {
		for second := 1; ; second++ {
			d := newDisk()
			d.cutAt = at
			var s story
			if err := s.run(tiny(d), new(*audit.Log)); err == nil && !d.dead {
				t.Fatalf("operation %d did not happen", at)
			}
			rnd := rand.New(rand.NewPCG(uint64(at), uint64(second)))
			d = d.restart(sectors, rnd)
			d.cutAt = second
			if _, err := audit.Open(tiny(d)); err == nil {
				break
			}
			points++
			if err := s.check(t, d.restart(sectors, rnd), none); err != nil {
				t.Errorf("cut at operation %d and then at %d: %v", at, second, err)
			}
		}
	}
	t.Logf("%d cut points", points)
}

// TestPowerCutWritten is the weaker promise of durability "written": records may be lost, but
// none that a checkpoint covers, and what is left is a log.
func TestPowerCutWritten(t *testing.T) {
	t.Parallel()
	whole := newDisk()
	written := func(c *audit.Config) { c.Durability = audit.Written }
	c := tiny(whole)
	written(&c)
	if err := new(story).run(c, new(*audit.Log)); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= whole.ops; at++ {
		d := newDisk()
		d.cutAt = at
		c := tiny(d)
		written(&c)
		var s story
		if err := s.run(c, new(*audit.Log)); err == nil && !d.dead {
			t.Fatalf("operation %d did not happen", at)
		}
		d = d.restart(sectors, rand.New(rand.NewPCG(1, uint64(at))))
		l, err := audit.Open(tiny(d))
		if err != nil {
			t.Fatalf("cut at operation %d: %v", at, err)
		}
		if err := wantRecords(l, 0); err != nil {
			t.Fatalf("cut at operation %d: %v", at, err)
		}
		closeLog(t, l)
		mustVerify(t, d, s.notes...)
	}
}
