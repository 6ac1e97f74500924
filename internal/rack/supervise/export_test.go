package supervise

import "time"

// Next is the pause after a worker that was ready for some time.
func (p *Pauses) Next(lived time.Duration) time.Duration { return p.next(lived) }
