package clock_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

func TestNowDoesNotAllocate(t *testing.T) {
	c := clock.System()
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
