package clock

// New returns a clock over any wall and monotonic clock, both in microseconds.
func New(read func() (wall, mono int64)) *Clock { return newClock(read) }
