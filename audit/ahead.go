package audit

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// aheadFiles is how many segments are kept ready: at full speed one lasts half a second, and
// allocating its successor must not make anyone wait, also when the disk hesitates once.
const aheadFiles = 2

// retryAhead is how long the log waits before it tries again to make a segment.
const retryAhead = time.Second

// spare is a segment file that was allocated and holds no batch; name and zeros are durable.
type spare struct {
	number uint64
	file   File
}

// ahead makes segment files before they are needed. One goroutine makes them, outside the lock;
// the committer takes them.
type ahead struct {
	mu     sync.Mutex    // guards all below; never held across a file operation
	change sync.Cond     // any of them changed
	ready  []spare       // in order
	next   uint64        // number of the next file to make
	err    error         // why the last attempt did not succeed
	over   error         // why nothing more is made: the log ended
	size   int64         // of each file, without its header
	kick   chan struct{} // one was taken
}

// init makes the zero value ready.
func (a *ahead) init() {
	a.change.L = &a.mu
	a.kick = make(chan struct{}, 1)
}

// take returns the next file. While there is none it waits for the attempt under way; if that
// fails, so does take.
func (a *ahead) take() (spare, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.ready) == 0 && a.err == nil && a.over == nil {
		a.change.Wait()
	}
	switch {
	case a.over != nil:
		return spare{}, a.over
	case len(a.ready) == 0:
		return spare{}, errors.Join(ErrFull, a.err)
	}
	s := a.ready[0]
	a.ready = append(a.ready[:0], a.ready[1:]...)
	signal(a.kick)
	return s, nil
}

// wanted returns the number of the next file to make; false if enough are ready.
func (a *ahead) wanted() (uint64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next, len(a.ready) < aheadFiles && a.over == nil
}

// made takes the outcome of one attempt. A file that comes after the log ended is closed with
// the others and stays for the next start.
func (a *ahead) made(f File, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	if err == nil {
		a.ready = append(a.ready, spare{a.next, f})
		a.next++
	}
	a.change.Broadcast()
}

// end lets no more files be made or taken.
func (a *ahead) end(err error) {
	a.mu.Lock()
	if a.over == nil {
		a.over = err
	}
	a.mu.Unlock()
	a.change.Broadcast()
}

// state returns the room in the files that are ready, and why the last attempt did not succeed.
func (a *ahead) state() (free int64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.size * int64(len(a.ready)), a.err
}

// release closes the files that were not taken.
func (a *ahead) release() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, s := range a.ready {
		errs = append(errs, s.file.Close())
	}
	a.ready = nil
	return errors.Join(errs...)
}

// runAhead keeps files ready. After an attempt that did not succeed it tries again each second.
func (l *Log) runAhead(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.ahead.kick:
		case <-timer.C:
		}
		if l.fillAhead() != nil {
			timer.Reset(retryAhead)
		}
	}
}

// fillAhead makes files until enough are ready. One goroutine at a time may call it.
func (l *Log) fillAhead() error {
	for {
		number, more := l.ahead.wanted()
		if !more {
			return nil
		}
		f, err := l.makeSegment(number)
		l.ahead.made(f, err)
		l.checkSpace()
		if err != nil {
			return err
		}
		signal(l.wake) // a stalled commit goes on
	}
}

// makeSegment makes one file, durably. Want of space is an error like another; a failed sync
// kills the log.
func (l *Log) makeSegment(number uint64) (File, error) {
	name := segmentName(number)
	f, err := l.cfg.Files.Create(name, l.cfg.SegmentBytes)
	if err != nil {
		return nil, err
	}
	if err := l.syncNew(f); err != nil {
		return nil, errors.Join(l.die(err), f.Close())
	}
	return f, nil
}

// syncNew makes a file's size, zeros and name durable.
func (l *Log) syncNew(f File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return l.cfg.Files.SyncDir()
}

// removeFile removes a file that may not be there.
func removeFile(files Files, name string) error {
	if err := files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkSpace sets or clears ErrFull: full is when no segment can be made and what is there
// holds less than the reserve. It is asked after every batch and every attempt, so a judgement
// that another overtook is soon corrected.
func (l *Log) checkSpace() {
	free, err := l.ahead.state()
	full := err != nil && free+l.left.Load() < l.cfg.Reserve
	now := l.trouble.Load()
	if now != nil && now.dead || full == (now != nil) {
		return
	}
	var next *condition
	if full {
		next = &condition{err: errors.Join(ErrFull, err)}
	}
	if l.trouble.CompareAndSwap(now, next) {
		l.changed()
	}
}
