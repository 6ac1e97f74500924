package supervise

import "time"

// Pauses are what lies between the end of a worker and the next: nothing after
// the first, then First, twice as much each time, and at most Most. A worker that
// was ready for Lasting begins the row anew. Zero members are 1 s, 30 s and 1 min.
type Pauses struct {
	First, Most, Lasting time.Duration

	now time.Duration
}

// next returns the pause after a worker that was ready for some time.
func (p *Pauses) next(lived time.Duration) time.Duration {
	if lived >= or(p.Lasting, time.Minute) {
		p.now = 0
	}
	pause := p.now
	p.now = min(max(2*p.now, or(p.First, time.Second)), or(p.Most, 30*time.Second))
	return pause
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
