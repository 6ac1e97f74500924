package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// load keeps requests in flight. Its lanes run on the clients' own goroutines:
// the answer to one request sends the next. So there is no goroutine, channel or
// lock between an answer and the next request, and requests that are sent for
// answers that arrived together leave together.
type load struct {
	*work
	step      int  // of a lane through the requests: the number of lanes
	random    bool // requests are drawn at random instead
	lines     []*line
	running   sync.WaitGroup // lanes
	measuring atomic.Bool    // answers count
	stopped   atomic.Bool    // answers send nothing more
	failed    chan error     // the first error
}

// line is one connection.
type line struct {
	client  *client.Client
	answers atomic.Int64
	waits   histogram // written by the connection's reading goroutine alone
}

// lane is one request at a time on a connection. It is touched by whoever handles
// its one request: first start, then the connection's reading goroutine.
type lane struct {
	*load
	line *line
	next int // request
	sent time.Time
	got  func(client.Reply) // answered, made once
}

// run prepares, loads, measures and stops.
func (b *benchmark) run() (*benchResult, error) {
	w, err := b.prepare()
	if err != nil {
		return nil, err
	}
	operator, err := b.sh.local(*b.socket)
	if err == nil {
		defer operator.Close()
	}
	l := &load{work: w, step: b.conns * b.depth, random: b.keys > 1, failed: make(chan error, 1)}
	err = l.start(b)
	var r *benchResult
	if err == nil {
		r, err = b.measure(l, operator)
	}
	l.stop()
	if r != nil {
		r.latencies(l)
	}
	return r, err
}

// start connects and lets all lanes go.
func (l *load) start(b *benchmark) error {
	for i := range b.conns {
		c, err := l.connect()
		if err != nil {
			return err
		}
		line := &line{client: c}
		l.lines = append(l.lines, line)
		for j := range b.depth {
			l.running.Add(1)
			lane := &lane{load: l, line: line, next: (i*b.depth + j) % len(l.requests)}
			lane.got = lane.answered
			lane.send(time.Now())
		}
	}
	return nil
}

// stop ends the lanes when their requests are answered, and then the connections.
// After it nothing writes the histograms any more.
func (l *load) stop() {
	l.stopped.Store(true)
	l.running.Wait()
	for _, line := range l.lines {
		line.client.Close()
	}
}

// send sends the lane's next request. It does not wait for the answer.
func (a *lane) send(now time.Time) {
	a.sent = now
	if err := a.line.client.Start(context.Background(), a.op, a.requests[a.next], a.got); err != nil {
		a.fail(err)
	}
}

// answered is called with each answer.
func (a *lane) answered(r client.Reply) {
	if err := r.Err(); err != nil {
		a.fail(err)
		return
	}
	now := time.Now()
	if a.measuring.Load() {
		a.line.waits.add(now.Sub(a.sent))
	}
	a.line.answers.Add(1)
	if a.stopped.Load() {
		a.running.Done()
		return
	}
	if a.next = (a.next + a.step) % len(a.requests); a.random {
		a.next = rand.IntN(len(a.requests))
	}
	a.send(now)
}

// fail ends the lane; the first error ends the measurement.
func (a *lane) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
	a.running.Done()
}

// answers returns how many requests were answered so far.
func (l *load) answers() (n int64) {
	for _, line := range l.lines {
		n += line.answers.Load()
	}
	return n
}

// pass lets time pass while the load runs, and shows how much is left.
func (l *load) pass(b *benchmark, what string, d time.Duration) error {
	timer, tick := time.NewTimer(d), time.NewTicker(2*meterPause)
	defer timer.Stop()
	defer tick.Stop()
	begun, before := time.Now(), l.answers()
	for {
		select {
		case <-timer.C:
			return nil
		case err := <-l.failed:
			return err
		case <-b.ctx.Done():
			return fmt.Errorf("%w: %s for %v of %v", errInterrupted, what, time.Since(begun).Round(time.Millisecond), d)
		case <-tick.C:
			since := time.Since(begun)
			b.sh.progress("%s: %.0f operations a second, %v left", what, float64(l.answers()-before)/since.Seconds(), (d - since).Round(time.Second))
		}
	}
}

// reading is what counters say at one moment.
type reading struct {
	at      time.Time
	answers int64
	cpu     time.Duration // of this process
	status  *applianceapi.GetStatusResponse
}

// read reads the counters. The appliance's are left out where its operator's
// socket is not known. Answers are counted when the status has arrived: under load
// it queues behind other requests, whose cost it includes.
func (l *load) read(operator *client.Client) (reading, error) {
	r := reading{}
	var err error
	if operator != nil {
		r.status, err = call(operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	}
	r.at, r.answers = time.Now(), l.answers()
	var u syscall.Rusage
	err = errors.Join(err, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	r.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return r, err
}

// measure lets the load warm up, and returns what lies between two readings, also
// with the error that it was interrupted. Where a disk stalls for longer than the measurement, it is made longer.
func (b *benchmark) measure(l *load, operator *client.Client) (*benchResult, error) {
	if err := l.pass(b, "warming up", b.duration/5); err != nil {
		return nil, err
	}
	from, err := l.read(operator)
	if err != nil {
		return nil, err
	}
	l.measuring.Store(true)
	var early error
	for passed := time.Duration(0); early == nil && (passed == 0 || l.answers() == from.answers && passed < callTimeout); passed += b.duration {
		if early = l.pass(b, "measuring", b.duration); early != nil && !errors.Is(early, errInterrupted) {
			return nil, early
		}
	}
	to, err := l.read(operator)
	l.measuring.Store(false)
	if err != nil {
		return nil, err
	}
	if early != nil && to.answers == from.answers {
		return nil, early
	}
	r, err := b.result(from, to)
	return r, cmp.Or(err, early)
}

// result returns what lies between two readings, for each operation. The
// appliance's cost includes its idle work, such as one checkpoint a second.
func (b *benchmark) result(from, to reading) (*benchResult, error) {
	n, seconds := to.answers-from.answers, to.at.Sub(from.at).Seconds()
	if n == 0 {
		return nil, hinted("see keyrack status, and whether the disk of the audit log works", "no request was answered within %v", callTimeout)
	}
	each := func(total float64) float64 { return total / float64(n) }
	r := &benchResult{
		Operation: b.op, Size: b.size, Connections: b.conns, Depth: b.depth, DistinctSalts: b.salts,
		Seconds: seconds, Operations: n, OpsPerSecond: float64(n) / seconds,
		ClientCPUMicros: each(float64((to.cpu - from.cpu).Nanoseconds()) / 1e3),
	}
	if b.op == "status" {
		r.Size = 0
	}
	if b.keys > 1 {
		r.Keys = b.keys
	}
	if to.status != nil {
		r.serverCost = &serverCost{
			ServerCPUMicros:  each(float64(to.status.CPUMicros - from.status.CPUMicros)),
			AllocationsPerOp: each(float64(to.status.Allocations - from.status.Allocations)),
			BytesPerOp:       each(float64(to.status.AllocatedBytes - from.status.AllocatedBytes)),
			AuditDurability:  to.status.AuditDurability,
		}
	}
	return r, nil
}

// latencies adds how long callers waited, from sending to the answer's arrival,
// once no lane runs any more.
func (r *benchResult) latencies(l *load) {
	var all histogram
	for _, line := range l.lines {
		all.merge(&line.waits)
	}
	micros := func(q float64) float64 { return float64(all.quantile(q).Nanoseconds()) / 1e3 }
	r.P50Micros, r.P99Micros, r.P999Micros = micros(0.5), micros(0.99), micros(0.999)
}
