// Package access is the door: the one way from a wire to an operation. Every
// call that comes through it is decoded, decided and recorded exactly once.
//
// Read first: [Handle], which puts a method behind the door, and serve below
// it, which is all of it; [Call], what a method sees; [Session] and [Held], what
// a front sees: the server of one wire, as protocol/server is.
//
// It does not read sockets, wait for disks or keep keys. Policies, principals
// and the audit log are packages below.
package access

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/work"
)

// Config is what a Gate stands on. All members are required.
type Config struct {
	Log    *audit.Log
	Clock  *clock.Clock
	Realm  api.Realm
	Logger *slog.Logger
}

// Gate holds what all sessions share. Safe for concurrent use.
type Gate struct {
	Config
	refusals refusals
	outbox   outbox
	sessions sync.Pool
	damaged  atomic.Int64 // calls that met damage of the store
}

// NewGate returns a gate in front of a log. Run its [Gate.Keep] beside it.
func NewGate(cfg Config) *Gate {
	g := &Gate{Config: cfg}
	g.sessions.New = func() any { return newSession(g) }
	return g
}

// Route is an operation behind the door. The zero value serves nothing.
type Route struct {
	op    *api.Op
	serve func(*Call, api.Wire, []byte) work.Class
}

// Op returns the operation's row.
func (r Route) Op() *api.Op { return r.op }

// Serve decodes body, runs the operation, stages its audit record and appends
// the reply to c's session. It never waits for the disk. A result other than
// work.None means: no effect, no record, no reply yet; take c.Ticket(), copy
// body, and run it again from a worker of that class with Session.Again.
// body must not change until Serve returns, and is not kept.
func (r Route) Serve(c *Call, w api.Wire, body []byte) work.Class { return r.serve(c, w, body) }

// Handle puts the method f behind the door as operation op. It is the only way
// to make a [Route]. f runs on the connection's goroutine or on a worker, at any
// number of them at once; in and out are zero before and wiped after it.
func Handle[In, Out any](g *Gate, op api.OpOf[In, Out], f func(*Call, *In, *Out) error) Route {
	b := &bound[In, Out]{op: op.Op, f: f}
	b.pool.New = func() any { return new(exchange[In, Out]) }
	return Route{op: op.Op, serve: b.serve}
}

// bound is an operation with its method.
type bound[In, Out any] struct {
	op   *api.Op
	f    func(*Call, *In, *Out) error
	pool sync.Pool
}

// exchange is a request and its response.
type exchange[In, Out any] struct {
	in  In
	out Out
}

func (b *bound[In, Out]) serve(c *Call, w api.Wire, body []byte) work.Class {
	x := b.pool.Get().(*exchange[In, Out])
	defer func() { *x = exchange[In, Out]{}; b.pool.Put(x) }()
	c.begin(b.op, &x.in, &x.out)
	err := c.acceptable()
	if err == nil {
		err = b.run(c, w, body, x)
	}
	if y, again := err.(*yield); again {
		c.wipe()
		c.class = y.class
		return y.class
	}
	c.finish(w, c.outcome(err))
	return work.None
}

// finish records and answers. Where a response cannot be written, even by a
// panic, the caller is told so; the record is the one that was staged.
func (c *Call) finish(w api.Wire, e *api.Error) {
	if err := c.answer(w, e); err != nil {
		c.in, c.out = nil, nil
		c.answer(w, api.AsError(err))
	}
}

func (c *Call) answer(w api.Wire, e *api.Error) (err error) {
	defer c.contain(&err)
	if !c.recorded {
		c.record(e)
		c.recorded = true
	}
	c.reply(w, e)
	return nil
}

// run decodes the request and calls the method.
func (b *bound[In, Out]) run(c *Call, w api.Wire, body []byte, x *exchange[In, Out]) (err error) {
	defer c.contain(&err)
	if err = w.Decode(b.op, body, &x.in, c); err != nil {
		return err
	}
	return b.f(c, &x.in, &x.out)
}

// contain, deferred, turns a panic into an internal error, so that it costs one
// request. The panic's value may hold anything and is not logged, unless it is
// the runtime's own; nor are the arguments of the functions on the stack.
func (c *Call) contain(err *error) {
	p := recover()
	if p == nil {
		return
	}
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	c.session.gate.Logger.LogAttrs(c.ctx, slog.LevelError, "operation panicked",
		slog.String("op", c.action()), slog.String("panic", what), slog.String("stack", stack()))
	*err = api.Internal(fmt.Errorf("%s panicked: %s", c.action(), what))
}

// stack returns the callers of the function that panicked, a line each.
func stack() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])]) // without Callers, stack and contain
	var lines strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&lines, "%s %s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return lines.String()
		}
	}
}

// yield is the error of a call that may not wait here for slow work.
type yield struct{ class work.Class }

func (y *yield) Error() string { return "to be run again by a worker: " + y.class.String() }

// yields holds one value a class, so that yielding allocates nothing.
var yields = [...]yield{{work.None}, {work.Store}, {work.Token}, {work.Compute}, {work.Generate}}

// Session opens a place at the door for one connection, or for one request of
// a front that has no connections: who calls, and from where ("tcp 192.0.2.1:4711"),
// for the audit record. It is for one goroutine; Close it.
func (g *Gate) Session(ctx context.Context, who identity.Handle, source string) *Session {
	s := g.sessions.Get().(*Session)
	s.ctx, s.who, s.source = ctx, who, source
	return s
}
