// Package clock gives the whole appliance one reading of the time: UTC, whole microseconds, never
// backwards.
//
// Read [Clock], [System] and [NewTest], in that order. Code that stamps, expires or orders by time
// takes a *Clock and never calls time.Now itself, so that a test moves time without waiting for it.
//
// It does not judge whether the time is true: a wall clock that jumps forward takes the reading
// with it, and one that steps back holds it where it was until the wall has caught up. It has no
// timers.
package clock

import (
	"sync/atomic"
	"time"
)

// Clock reads the time. A Clock is safe for concurrent use; the zero value is not usable, [System]
// and [NewTest] make one.
type Clock struct {
	// wall returns the underlying time in microseconds since 1970; it may step back.
	wall func() int64
	// last is the latest reading that was given out to anyone.
	last atomic.Int64
}

// System returns a clock over the operating system's wall clock. Inside a testing/synctest bubble
// that is the bubble's own time.
func System() *Clock {
	return newClock(func() int64 { return time.Now().UnixMicro() })
}

// NewTest returns a clock that stands at start (cut to whole microseconds) and the function that
// moves its wall clock by d. A negative d is a wall clock that was set back: the reading then
// stands still until advance has made up for it. The function is safe for concurrent use.
func NewTest(start time.Time) (c *Clock, advance func(d time.Duration)) {
	wall := new(atomic.Int64)
	wall.Store(start.UnixMicro())
	return newClock(wall.Load), func(d time.Duration) { wall.Add(d.Microseconds()) }
}

// newClock takes the first reading at once, so that times before 1970 are held like all others.
func newClock(wall func() int64) *Clock {
	c := &Clock{wall: wall}
	c.last.Store(wall())
	return c
}

// Now returns the time in UTC, in whole microseconds, without a monotonic part. No call returns
// less than one that returned before it began, in any goroutine. It does not allocate.
func (c *Clock) Now() time.Time {
	return time.UnixMicro(c.micros()).UTC()
}

// micros raises last to the wall's reading, or answers last where the wall is behind it. Within one
// microsecond the callers only read last, so that its cache line is not fought over.
func (c *Clock) micros() int64 {
	now := c.wall()
	for {
		last := c.last.Load()
		if now <= last {
			return last
		}
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}
