package clock_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/internal/clock"
)

// start has nanoseconds and a zone, neither of which a reading keeps.
var start = time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("CET", 3600))

func TestReadingIsUTCInWholeMicroseconds(t *testing.T) {
	t.Parallel()
	c, _ := clock.NewTest(start)
	want := time.Date(2026, 3, 1, 11, 0, 0, 123_456_000, time.UTC)
	if got := c.Now(); got != want {
		t.Fatalf("Now() = %v, want %v", got, want)
	}
	for _, now := range []time.Time{c.Now(), clock.System().Now()} {
		if now.Location() != time.UTC || now.Nanosecond()%1000 != 0 || now != now.Round(0) {
			t.Errorf("%v is not a bare UTC microsecond", now)
		}
	}
}

func TestTestClockMovesOnlyWhenTold(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(start)
	first := c.Now()
	if got := c.Now(); got != first {
		t.Fatalf("the clock went from %v to %v by itself", first, got)
	}
	advance(90 * time.Second)
	if got := c.Now().Sub(first); got != 90*time.Second {
		t.Fatalf("advanced by %v, want 90 s", got)
	}
}

func TestWallSetBackLetsTheReadingGoOn(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(start)
	first := c.Now()
	steps := []struct{ move, want time.Duration }{
		{-time.Hour, 0}, {30 * time.Minute, 30 * time.Minute}, {time.Second, 30*time.Minute + time.Second}, {-time.Second, 30*time.Minute + time.Second},
	}
	for _, s := range steps {
		advance(s.move)
		if got := c.Now().Sub(first); got != s.want {
			t.Errorf("after a move by %v the clock stands at +%v, want +%v", s.move, got, s.want)
		}
	}
}

func TestTimeBefore1970IsHeldToo(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(time.Unix(-100, 0))
	advance(-time.Second)
	if got := c.Now().Unix(); got != -100 {
		t.Fatalf("Now() = %d s, want -100 s", got)
	}
}

func TestSystemFollowsTheBubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := clock.System()
		first := c.Now()
		time.Sleep(time.Minute)
		if got := c.Now().Sub(first); got != time.Minute {
			t.Fatalf("moved by %v, want one minute", got)
		}
	})
}

// TestNeverBackwardsForAnyone hands readings from goroutine to goroutine: whoever reads later must
// not read less.
func TestNeverBackwardsForAnyone(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(start)
	handed := make(chan time.Time, 1)
	handed <- c.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				before := <-handed
				now := c.Now()
				if now.Before(before) {
					t.Errorf("read %v after %v", now, before)
				}
				handed <- now
			}
		})
		wg.Go(func() {
			for i := range 500 {
				advance(time.Duration(i%7-3) * time.Millisecond)
				c.Now()
			}
		})
	}
	wg.Wait()
}

// machine is a computer's two clocks, in microseconds: time passes, and somebody sets the wall clock.
type machine struct{ wall, mono int64 }

func (m *machine) read() (wall, mono int64) { return m.wall, m.mono }

func (m *machine) pass(d int64) { m.wall, m.mono = m.wall+d, m.mono+d }

// TestAMachineThatDoesNotKnowTheTime starts in 1970 with a floor in 2026: the time goes on from
// the floor, until the wall clock is set right.
func TestAMachineThatDoesNotKnowTheTime(t *testing.T) {
	t.Parallel()
	const minute = 60_000_000
	floor := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	m := &machine{wall: 7, mono: 3 * minute}
	c := clock.New(m.read)
	if behind := c.Behind(); behind != 0 {
		t.Errorf("behind by %v without a floor", behind)
	}
	c.Floor(floor)
	want := floor.Sub(time.UnixMicro(7))
	for i := range 3 {
		if got := c.Now().Sub(floor); got != time.Duration(i)*time.Minute {
			t.Errorf("%d min after the floor was set, the clock stands at +%v", i, got)
		}
		if behind := c.Behind(); behind != want {
			t.Errorf("behind by %v, want %v", behind, want)
		}
		m.pass(minute)
		c.Floor(floor) // long passed
	}
	m.wall = floor.Add(time.Hour).UnixMicro()
	if got := c.Now().Sub(floor); got != time.Hour || c.Behind() != 0 {
		t.Errorf("after the wall clock was set the clock stands at +%v, behind by %v", got, c.Behind())
	}
}

// TestFloorIsRoundedUp: what an earlier process has seen is never given out as something less.
func TestFloorIsRoundedUp(t *testing.T) {
	t.Parallel()
	c, _ := clock.NewTest(time.Unix(0, 0))
	c.Floor(start)
	if got := c.Now().Sub(start); got < 0 || got >= time.Microsecond {
		t.Errorf("the clock stands %v from its floor", got)
	}
}

// TestAWallClockThatWasSetBackIsBehind, by what it was set back, if that is worth telling. Time
// that passes changes nothing of it.
func TestAWallClockThatWasSetBackIsBehind(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(start)
	for _, s := range []struct{ move, want time.Duration }{
		{-999_999 * time.Microsecond, 0}, {-time.Microsecond, time.Second}, {-time.Hour, time.Hour + time.Second},
		{time.Minute, time.Hour + time.Second},
	} {
		advance(s.move)
		if got := c.Behind(); got != s.want {
			t.Errorf("after a move by %v: behind by %v, want %v", s.move, got, s.want)
		}
	}
}

// TestFloorHoldsForAnyone: once Floor has returned, nobody reads less.
func TestFloorHoldsForAnyone(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(time.Unix(0, 0))
	var next atomic.Int64
	next.Store(start.UnixMicro())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 10_000 {
				floor := time.UnixMicro(next.Add(1))
				c.Floor(floor)
				if now := c.Now(); now.Before(floor) {
					t.Errorf("read %v under the floor %v", now, floor)
					return
				}
				if i%100 == 0 {
					advance(time.Duration(i%7-3) * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
}

// TestReadingIsTheLargestOfThree holds any history of a clock against a model: the reading is what
// was given out plus the time that has passed since, the floor, or the wall clock. So it is never
// less than before, and never under the floor.
func TestReadingIsTheLargestOfThree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		moment := rapid.Int64Range(-1e15, 4e15) // 1938 to 2096
		m := &machine{wall: moment.Draw(t, "wall"), mono: rapid.Int64Range(0, 1e15).Draw(t, "mono")}
		c, reading, last, floor := clock.New(m.read), m.wall, m.wall, int64(-1<<62)
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				d := rapid.Int64Range(0, 1e13).Draw(t, "µs")
				m.pass(d)
				reading += d
			},
			"set":   func(t *rapid.T) { m.wall = moment.Draw(t, "wall") },
			"nudge": func(t *rapid.T) { m.wall += rapid.Int64Range(-2e6, 2e6).Draw(t, "µs") },
			"floor": func(t *rapid.T) {
				floor = max(floor, moment.Draw(t, "floor"))
				c.Floor(time.UnixMicro(floor))
				reading = max(reading, floor)
			},
			"read": func(t *rapid.T) {
				reading = max(reading, m.wall)
				got := c.Now().UnixMicro()
				if got != reading || got < last || got < floor {
					t.Fatalf("Now() = %d µs, want %d; it was %d, the floor is %d", got, reading, last, floor)
				}
				last = got
			},
			"": func(t *rapid.T) {
				want := max(0, time.Duration(reading-m.wall)*time.Microsecond)
				if want < time.Second {
					want = 0
				}
				if got := c.Behind(); got != want {
					t.Fatalf("Behind() = %v, want %v", got, want)
				}
			},
		})
	})
}

func TestNowDoesNotAllocate(t *testing.T) {
	c := clock.System()
	c.Floor(c.Now().Add(time.Hour))
	if n := testing.AllocsPerRun(100, func() { c.Now() }); n != 0 {
		t.Fatalf("Now allocates %v times, want 0", n)
	}
}

func BenchmarkNow(b *testing.B) {
	c := clock.System()
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}

func BenchmarkNowParallel(b *testing.B) {
	c := clock.System()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Now()
		}
	})
}

// TestRunning counts what passes, whatever becomes of the wall clock.
func TestRunning(t *testing.T) {
	t.Parallel()
	c, advance := clock.NewTest(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	before := c.Running()
	advance(time.Hour)
	advance(-24 * time.Hour)
	c.Floor(time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC))
	if passed := c.Running() - before; passed != time.Hour {
		t.Errorf("%v passed, want an hour", passed)
	}
}
