// Package clock gives the whole appliance one reading of the time: UTC, whole microseconds, never
// backwards.
//
// Read [Clock], [System] and [NewTest], in that order. Code that stamps, expires or orders by time
// takes a *Clock and never calls time.Now itself, so that a test moves time without waiting for it.
//
// It does not judge whether the time is true: a wall clock that jumps forward takes the reading
// with it. While one that was set back, or that never knew the time ([Clock.Floor]), is behind, the
// reading goes on with the monotonic clock, so that what is to end after a minute ends after a
// minute. It has no timers, and remembers nothing of an earlier process.
package clock

import (
	"sync/atomic"
	"time"
)

// Clock reads the time. A Clock is safe for concurrent use; the zero value is not usable, [System]
// and [NewTest] make one.
type Clock struct {
	// read returns, in microseconds, the wall clock since 1970, which may step back, and a
	// monotonic clock, which never does.
	read func() (wall, mono int64)
	// ahead is by how much the reading is ahead of the monotonic clock: the most that the wall
	// clock or a floor ever was. It only grows, so the reading never goes back.
	ahead atomic.Int64
}

// System returns a clock over the operating system's clocks. Inside a testing/synctest bubble that
// is the bubble's own time.
func System() *Clock {
	start := time.Now()
	return newClock(func() (wall, mono int64) {
		now := time.Now()
		return now.UnixMicro(), now.Sub(start).Microseconds()
	})
}

// NewTest returns a clock that stands at start (cut to whole microseconds) and the function that
// lets d pass. A negative d sets the wall clock back and lets no time pass: the reading stands
// still. The function is safe for concurrent use.
func NewTest(start time.Time) (c *Clock, advance func(d time.Duration)) {
	c, advance, _ = NewTestWall(start)
	return c, advance
}

// NewTestWall is NewTest with a second function, which sets the wall clock to a time, ahead or back, and lets
// no time pass.
func NewTestWall(start time.Time) (c *Clock, advance func(d time.Duration), set func(wall time.Time)) {
	var wall, mono atomic.Int64
	wall.Store(start.UnixMicro())
	return newClock(func() (int64, int64) { return wall.Load(), mono.Load() }), func(d time.Duration) {
			wall.Add(d.Microseconds())
			mono.Add(max(0, d.Microseconds()))
		}, func(t time.Time) {
			wall.Store(t.UnixMicro())
		}
}

// newClock takes the first reading at once, so that times before 1970 are held like all others.
func newClock(read func() (wall, mono int64)) *Clock {
	c := &Clock{read: read}
	wall, mono := read()
	c.ahead.Store(wall - mono)
	return c
}

// Now returns the time in UTC, in whole microseconds, without a monotonic part. No call returns
// less than one that returned before it began, in any goroutine. It does not allocate.
func (c *Clock) Now() time.Time {
	return time.UnixMicro(c.micros()).UTC()
}

// Floor makes every later Now return at least t, rounded up to a whole microsecond, and go on from
// there while the wall clock is behind: t is a time that an earlier process has seen. A t that was
// passed already changes nothing.
func (c *Clock) Floor(t time.Time) {
	_, mono := c.read()
	c.raise(t.Add(time.Microsecond-1).UnixMicro() - mono)
}

// Behind returns how far the wall clock is behind what Now gives out, 0 while it is not. Less than
// a second counts as 0: the two clocks are not read in one instant.
func (c *Clock) Behind() time.Duration {
	wall, mono := c.read()
	behind := time.Duration(c.ahead.Load()-(wall-mono)) * time.Microsecond
	if behind < time.Second {
		return 0
	}
	return behind
}

// Wall returns what the system's clock says by itself, in UTC, whole microseconds: it may step back, and be wrong.
func (c *Clock) Wall() time.Time {
	wall, _ := c.read()
	return time.UnixMicro(wall).UTC()
}

// Running returns for how long the clock has been there, by the monotonic clock: what no setting of
// the wall clock changes.
func (c *Clock) Running() time.Duration {
	_, mono := c.read()
	return time.Duration(mono) * time.Microsecond
}

// micros returns the wall's reading, or where that is behind what was given out, the monotonic
// clock's. While the wall clock is steady the callers only read ahead, so that its cache line is
// not fought over.
func (c *Clock) micros() int64 {
	wall, mono := c.read()
	return mono + c.raise(wall-mono)
}

// raise makes ahead at least least, and returns it.
func (c *Clock) raise(least int64) int64 {
	for {
		ahead := c.ahead.Load()
		if least <= ahead {
			return ahead
		}
		if c.ahead.CompareAndSwap(ahead, least) {
			return least
		}
	}
}
