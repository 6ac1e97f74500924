package racktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol/client"
)

// Ask makes one request and returns its error.
type Ask func(ctx context.Context, c *client.Client) error

// Load is many connections that ask the same again and again, each with several
// requests under way, to see when a change reaches them, or that it does not.
type Load struct {
	tb    testing.TB
	conns int
	line  *line
	end   context.CancelFunc
	once  sync.Once
	wg    sync.WaitGroup

	mu  sync.Mutex
	now *phase // guarded by mu
}

// phase is a time in which a request that is begun may have some outcomes and no other.
type phase struct {
	want    []api.Kind
	answers []int         // by connection
	missing int           // connections with fewer than enough answers
	settled chan struct{} // closed when none is missing
	faults  []string      // the first few
}

// What a phase waits for, and how long.
const (
	enough     = 25
	loadDepth  = 2
	loadWait   = time.Minute
	mostFaults = 3
)

// Load starts a load on conns connections of one client, on each of which all of
// asks are asked. It returns when each has had answers. What is asked succeeds,
// until a Change. The load ends with the test.
func (r *Rack) Load(tb testing.TB, cfg client.Config, conns int, asks ...Ask) *Load {
	tb.Helper()
	l := &Load{tb: tb, conns: conns, line: newLine(tb, cfg.Addr)}
	cfg.Addr, cfg.Conns, cfg.Retries = l.line.Addr().String(), 1, -1
	ctx, end := context.WithCancel(context.Background())
	l.end = end
	settled := l.enter(api.KindNone)
	for i := range conns {
		c := r.NewClient(cfg)
		for range loadDepth {
			for _, ask := range asks {
				l.wg.Go(func() { l.run(ctx, i, c, ask) })
			}
		}
	}
	tb.Cleanup(l.Stop)
	l.wait(settled)
	return l
}

// Change makes a change while the load goes on, and checks that every request
// that any connection begins once change has returned is answered so: KindNone
// for success. Before that it may be answered as it was. change returns when the
// change was answered.
func (l *Load) Change(what string, change func() error, want api.Kind) {
	l.tb.Helper()
	l.mu.Lock()
	before := l.now.want
	l.mu.Unlock()
	l.enter(append(slices.Clone(before), want)...)
	if err := change(); err != nil {
		l.tb.Errorf("%s: %v", what, err)
	}
	l.wait(l.enter(want))
	l.report("after " + what)
}

// report tells of the faults of the phase, once.
func (l *Load) report(when string) {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fault := range l.now.faults {
		l.tb.Errorf("%s: %s", when, fault)
	}
	l.now.faults = nil
}

// Stop ends the load and checks that the answers stayed as they were after the
// last change, and that it came over the connections that it began with.
func (l *Load) Stop() {
	l.once.Do(func() {
		l.end()
		l.wg.Wait()
		l.report("to the end")
		if n := l.line.close(); n != l.conns {
			l.tb.Errorf("the load came over %d connections, want %d that stay open", n, l.conns)
		}
	})
}

// enter begins a phase, in which requests may be answered in some ways.
func (l *Load) enter(want ...api.Kind) *phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = &phase{want: want, answers: make([]int, l.conns), missing: l.conns, settled: make(chan struct{})}
	return l.now
}

// wait returns when every connection has had enough answers in a phase.
func (l *Load) wait(p *phase) {
	l.tb.Helper()
	select {
	case <-p.settled:
	case <-time.After(loadWait):
		l.tb.Fatal("the load is not answered")
	}
}

// run asks on connection i until ctx ends.
func (l *Load) run(ctx context.Context, i int, c *client.Client, ask Ask) {
	for {
		l.mu.Lock()
		began := l.now
		l.mu.Unlock()
		err := ask(ctx, c)
		if ctx.Err() != nil {
			return
		}
		l.answered(began, i, err)
	}
}

// answered counts an answer for the phase in which its request was begun.
func (l *Load) answered(p *phase, i int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, told := errors.AsType[*api.Error](err)
	if (err != nil && !told || !slices.Contains(p.want, api.KindOf(err))) && len(p.faults) < mostFaults {
		p.faults = append(p.faults, fmt.Sprintf("connection %d: a request was answered with error %v, want %v", i, err, p.want))
	}
	if p.answers[i]++; p.answers[i] == enough {
		if p.missing--; p.missing == 0 {
			close(p.settled)
		}
	}
}

// line is a stretch of cable between clients and an appliance, which counts the
// connections that go through it.
type line struct {
	net.Listener
	to string
	wg sync.WaitGroup

	mu    sync.Mutex
	count int        // guarded by mu
	ends  []net.Conn // guarded by mu
}

func newLine(tb testing.TB, to string) *line {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	w := &line{Listener: l, to: to}
	w.wg.Go(w.accept)
	return w
}

func (w *line) accept() {
	for {
		near, err := w.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		w.count++
		w.ends = append(w.ends, near, far)
		w.mu.Unlock()
		w.wg.Go(func() { carry(near, far) })
		w.wg.Go(func() { carry(far, near) })
	}
}

// carry copies until one end closes, and then closes both.
func carry(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
}

// close cuts the line and returns how many connections went through it.
func (w *line) close() int {
	w.Close()
	w.mu.Lock()
	for _, c := range w.ends {
		c.Close()
	}
	n := w.count
	w.mu.Unlock()
	w.wg.Wait()
	return n
}
