// Package work runs slow jobs (a store miss, a call to the token, an RSA operation) off the
// connections, in bounded pools by class.
//
// Read [Class], [Size] and [Pools]. Each class has its own workers and its own queue and shares
// nothing with the others, so a token that takes a second per call delays token calls only. Within
// a class accounts take turns ([Queue]), and none can have all workers or the whole queue: how many
// it may have shrinks with what is left, so there is room for the next one. A full class says so at
// once: the caller answers ThrottlingException instead of letting requests pile up.
//
// It does not retry, stop a job that runs, or limit how often an account asks: that is
// access/quota's duty, and a deadline is the job's own.
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
	// Generate waits for the processor for seconds: new RSA keys.
	Generate
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
	case Generate:
		return "generate"
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
	// Queue is how many places there are to wait for a worker, 0 to [MaxQueue].
	Queue int
}

// Account is whose job it is: 12 digits, or zero bytes for the operator's.
type Account [12]byte

// PlaceBytes is how much of a request a place in the queue holds: a job that keeps more memory takes
// more places, so that a queue bounds memory too.
const PlaceBytes = 4096

// share is how many times what is left of the workers one account may have: 12 of 16, 3 of 4. Of the
// queue it may have as much as is left: half of it alone, a third beside another.
const share = 3

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
// exactly [Store], [Token], [Compute] and [Generate], or that [Size.Check] refuses, is a programmer's error and
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

// Go hands f, which keeps size bytes of memory while it waits, to the workers of class c and returns
// true; or it returns false at once, without having kept f, when the account has its share of c's
// workers and queue, when the pools are closed, or when c has no pool. It never blocks on a job.
func (p *Pools) Go(c Class, by Account, size int, f func()) bool {
	if c == None || c >= classes {
		return false
	}
	return p.pools[c].submit(job{by, 1 + size/PlaceBytes, f})
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

	// mu guards what follows and is never held while a job runs. No job waits that may run.
	mu      sync.Mutex
	running int
	taken   int // places of the queue
	closed  bool
	queue   Queue[Account, job]
	has     map[Account]holding // of accounts with jobs

	// drained is closed once the pool is closed and its last worker has ended.
	drained chan struct{}
}

// job is what Go was given.
type job struct {
	by     Account
	places int // that it takes while it waits
	run    func()
}

// holding is what an account has of a pool.
type holding struct{ running, places int }

func newPool(of *Pools, c Class, size Size) *pool {
	return &pool{of: of, class: c, size: size, has: map[Account]holding{}, drained: make(chan struct{})}
}

// submit starts a worker for j if its account may have another, and queues j otherwise.
func (q *pool) submit(j job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return false
	case q.may(j.by):
		q.count(j.by, 1, 0)
		go q.work(j)
		return true
	case q.has[j.by].places+j.places > q.size.Queue-q.taken-j.places+1:
		return false
	}
	q.count(j.by, 0, j.places)
	q.queue.Push(j.by, j)
	return true
}

// may reports whether an account may have another worker, with mu held.
func (q *pool) may(by Account) bool { return q.has[by].running < share*(q.size.Workers-q.running) }

// count adds to what an account has, with mu held.
func (q *pool) count(by Account, running, places int) {
	h := q.has[by]
	h.running += running
	h.places += places
	q.running += running
	q.taken += places
	if q.has[by] = h; h == (holding{}) {
		delete(q.has, by)
	}
}

// work runs j and then whatever waits. A job that ends its goroutine (runtime.Goexit) is replaced
// by a fresh worker.
func (q *pool) work(j job) {
	exited := true
	defer func() {
		if exited {
			q.carryOn(j.by)
		}
	}()
	for more := true; more; {
		q.run(j.run)
		j, more = q.next(j.by)
	}
	exited = false
}

// carryOn takes the next job to a new goroutine, in place of one that ends.
func (q *pool) carryOn(by Account) {
	if j, more := q.next(by); more {
		go q.work(j)
	}
}

// next counts an account's job out and takes one from the queue. What else may run now that it could
// not before, because its account's share has grown, gets workers of its own.
func (q *pool) next(by Account) (j job, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count(by, -1, 0)
	j, more = q.pop()
	for other, ok := q.pop(); ok; other, ok = q.pop() {
		go q.work(other)
	}
	q.drain()
	return j, more
}

// pop counts in the next job of the queue that may run, with mu held.
func (q *pool) pop() (job, bool) {
	by, j, ok := q.queue.Pop(q.may)
	if ok {
		q.count(by, 1, -j.places)
	}
	return j, ok
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
