// Package work runs slow jobs (a store miss, a call to the token, an RSA operation) off the
// connections, in bounded pools by class.
//
// Read [Class], [Size] and [Pools]. Each class has its own workers and its own queue and shares
// nothing with the others, so a token that takes a second per call delays token calls only. A full
// class says so at once: the caller answers ThrottlingException instead of letting requests pile
// up.
//
// It does not retry, order jobs beyond first come first served within a class, stop a job that
// runs, or know callers: fairness between accounts is the quota's duty, and a deadline is the job's
// own.
package work

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Class says what a piece of work waits for.
type Class uint8

// The classes of work.
const (
	// None is finished work, or work that waits for nothing; it has no pool.
	None Class = iota
	// Store waits for the record store: a read that missed its cache, every write.
	Store
	// Token waits for the token, which may do one thing at a time.
	Token
	// Compute waits for the processor: RSA, post-quantum keys, large digests.
	Compute
	classes
)

// String names the class in lower case, for metrics and messages.
func (c Class) String() string {
	switch c {
	case None:
		return "none"
	case Store:
		return "store"
	case Token:
		return "token"
	case Compute:
		return "compute"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Bounds of a [Size].
const (
	MaxWorkers = 1024
	MaxQueue   = 65536
)

// Size bounds one class.
type Size struct {
	// Workers is how many jobs run at once, 1 to [MaxWorkers].
	Workers int
	// Queue is how many more may wait for a worker, 0 to [MaxQueue].
	Queue int
}

// Check reports the bound that s breaks.
func (s Size) Check() error {
	if s.Workers < 1 || s.Workers > MaxWorkers {
		return fmt.Errorf("work: %d workers, must be 1 to %d", s.Workers, MaxWorkers)
	}
	if s.Queue < 0 || s.Queue > MaxQueue {
		return fmt.Errorf("work: queue of %d, must be 0 to %d", s.Queue, MaxQueue)
	}
	return nil
}

// Pools holds one pool for each class except [None]. It is safe for concurrent use.
type Pools struct {
	pools  [classes]*pool
	report atomic.Pointer[PanicFunc]
}

// PanicFunc is told of a panic in a job: its class, the panic's value and the stack of the job. The
// value may hold request data. It runs on the worker, must be safe for concurrent use and must not
// panic itself.
type PanicFunc func(c Class, value any, stack []byte)

// New returns running pools. The sizes come from a checked configuration, so one that names not
// exactly [Store], [Token] and [Compute], or that [Size.Check] refuses, is a programmer's error and
// panics. Idle pools hold no goroutine.
func New(sizes map[Class]Size) *Pools {
	p := new(Pools)
	for c := Store; c < classes; c++ {
		size, ok := sizes[c]
		if !ok {
			panic(fmt.Sprintf("work: no size for class %s", c))
		}
		if err := size.Check(); err != nil {
			panic(fmt.Sprintf("%v (class %s)", err, c))
		}
		p.pools[c] = newPool(p, c, size)
	}
	if len(sizes) != int(classes)-1 {
		panic("work: a size for a class that has no pool")
	}
	return p
}

// OnPanic sets the function that is told of panics in jobs; nil, as at the start, tells nobody. A
// panic costs its job alone either way.
func (p *Pools) OnPanic(f PanicFunc) { p.report.Store(&f) }

// Go hands f to the workers of class c and returns true, or returns false at once, without having
// kept f, when c's workers and queue are full, when the pools are closed, or when c has no pool. It
// never blocks on a job.
func (p *Pools) Go(c Class, f func()) bool {
	if c == None || c >= classes {
		return false
	}
	return p.pools[c].submit(f)
}

// Close refuses new jobs from now on and waits until all accepted ones, queued ones too, are done.
// When ctx ends first it returns its error, and the rest goes on running. Close may be called
// again, also concurrently, to wait again.
func (p *Pools) Close(ctx context.Context) error {
	for _, q := range p.pools[Store:] {
		q.close()
	}
	for _, q := range p.pools[Store:] {
		select {
		case <-q.drained:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pool is one class. A worker is a goroutine that lives while there are jobs for it.
type pool struct {
	of    *Pools
	class Class
	size  Size

	// mu guards what follows and is never held while a job runs. Jobs wait in queue only while all
	// workers run.
	mu      sync.Mutex
	running int
	closed  bool
	queue   chan func()

	// drained is closed once the pool is closed and its last worker has ended.
	drained chan struct{}
}

func newPool(of *Pools, c Class, size Size) *pool {
	return &pool{of: of, class: c, size: size, queue: make(chan func(), size.Queue), drained: make(chan struct{})}
}

// submit starts a worker for f while there are fewer than allowed, and queues f otherwise. Counting
// under the lock, rather than offering f to waiting goroutines, makes exactly Workers+Queue jobs
// fit, however the scheduler feels.
func (q *pool) submit(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if q.running < q.size.Workers {
		q.running++
		go q.work(f)
		return true
	}
	select {
	case q.queue <- f:
		return true
	default:
		return false
	}
}

// work runs f and then whatever waits. A job that ends its goroutine (runtime.Goexit) is replaced
// by a fresh worker.
func (q *pool) work(f func()) {
	exited := true
	defer func() {
		if exited {
			q.carryOn()
		}
	}()
	for f != nil {
		q.run(f)
		f = q.next()
	}
	exited = false
}

// carryOn takes the next job to a new goroutine, in place of one that ends.
func (q *pool) carryOn() {
	if f := q.next(); f != nil {
		go q.work(f)
	}
}

// next takes a job from the queue, or counts the worker out when there is none.
func (q *pool) next() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case f := <-q.queue:
		return f
	default:
	}
	q.running--
	q.drain()
	return nil
}

// run contains a panic of f.
func (q *pool) run(f func()) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if report := q.of.report.Load(); report != nil && *report != nil {
			(*report)(q.class, v, debug.Stack())
		}
	}()
	f()
}

func (q *pool) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		q.drain()
	}
}

// drain notes the end of a closed pool; the caller holds mu. Both ways here, closing and a worker's
// end, happen at most once with closed set and nothing running, for a closed pool starts no worker.
func (q *pool) drain() {
	if q.closed && q.running == 0 {
		close(q.drained)
	}
}
