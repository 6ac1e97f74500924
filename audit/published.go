package audit

import (
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/tlog"
)

// tip is the end of the published log.
type tip struct {
	size Position
	root tlog.Hash
	file *segment // where the last record stands; later than that only if all before is synced
}

// published is what the committer has made public, and who waits for more.
type published struct {
	mu   sync.Mutex    // guards all below; held for a few assignments
	tip  tip           // never moves back
	more chan struct{} // closed when the tip moves or the log ends; nil while nobody waits, so that a batch costs no allocation then
	err  error         // set once the tip can move no more
}

// wait returns a channel that is closed when the tip moves, nil if want is reached already, or
// the reason why it never will be.
func (p *published) wait(want Position) (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.tip.size >= want:
		return nil, nil
	case p.err != nil:
		return nil, p.err
	case p.more == nil:
		p.more = make(chan struct{})
	}
	return p.more, nil
}

// set moves the tip and wakes all who wait: one channel closed, however many they are. It
// reports false, and does nothing, after the end.
func (p *published) set(t tip, durable *atomic.Uint64) bool {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return false
	}
	p.tip = t
	durable.Store(uint64(t.size))
	p.wake()
	return true
}

// wake closes the channel, if anyone waits, and unlocks.
func (p *published) wake() {
	more := p.more
	p.more = nil
	p.mu.Unlock()
	if more != nil {
		close(more)
	}
}

// move says that all published records are synced and the next will stand in file.
func (p *published) move(file *segment) {
	p.mu.Lock()
	p.tip.file = file
	p.mu.Unlock()
}

// now returns the tip, and keeps its file open until the caller releases it.
func (p *published) now() tip {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tip.file.retain()
	return p.tip
}

// over returns why the tip moves no more, or nil.
func (p *published) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// end says that the tip moves no more, and why. The first reason stays.
func (p *published) end(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.wake()
}
