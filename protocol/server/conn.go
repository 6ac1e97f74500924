package server

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// conn is one connection. Its goroutine reads frames and serves them until no
// whole one is left, with no lock and no wait for the disk; then the burst goes
// to the audit log and its replies to the outbox.
type conn struct {
	*Server
	ctx     context.Context // of all that is done for the connection
	cancel  context.CancelFunc
	raw     net.Conn        // as accepted
	peer    Peer            // once identified
	session *access.Session // nil while the connection rests
	outbox  *outbox         // nil while the connection rests
	stopped atomic.Bool

	seat     seat          // where it has one; that of a Unix socket never takes one
	local    bool          // of the Unix socket; set once
	stranger bool          // guarded by Server.mu; in Server.strangers, and this is where:
	source   netip.Addr    // set once
	place    int           // guarded by Server.mu
	silent   time.Time     // guarded by Server.mu; since when it is waited for; zero while we compute
	told     *list.Element // guarded by Server.mu
	counted  bool          // guarded by Server.mu; in Server.peers, and in Server.accounts under:
	account  api.AccountID // guarded by Server.mu

	buf        []byte // what was read and not served yet is buf[start:end]; nil while the connection rests
	start, end int
	lastHeard  time.Time // when the connection began to rest, less restTime
	head       [4]byte   // takes the first bytes after a rest
	since      time.Time // when the frame at start began to arrive; zero if none did
	deadline   time.Time // of the next read
	single     bool      // the last burst was one request, so the peer seems to send one at a time
	credit     int       // requests that its account's quota has granted
	full       bool      // the peer's window is: what is in buf waits
}

// Sizes of the read buffer, and how many bytes of replies end a burst early.
const (
	readBuffer = 64 << 10
	burstBytes = 64 << 10
)

// restTime is how long a connection without a request under way keeps its memory for
// the next one, at most: a client may hold many connections, most of them idle.
const restTime = time.Second

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// How long, and for how many bytes, a connection that ends hears the peer out.
const (
	lingerTime  = time.Second
	lingerBytes = 16 << 20
)

// errStopped ends a connection because the server does.
var errStopped = errors.New("the server stops")

func newConn(ctx context.Context, s *Server, nc net.Conn) *conn {
	c := &conn{Server: s, raw: nc}
	_, c.local = nc.(*net.UnixConn)
	c.seat = seat{Conn: nc, of: c, over: c.local}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

// run identifies the peer, greets it and serves it to its end. What ends it is
// told and recorded if it is an *api.Error: only then it is the peer's fault.
func (c *conn) run(identify Identify) {
	defer c.cut()
	ctx := c.ctx
	greeted := make(chan error)
	go func() { greeted <- c.greet(ctx, identify) }() // a handshake wants a deep stack, which an idle connection would keep
	if err := <-greeted; err != nil {
		c.turnAway(ctx, err)
		return
	}
	c.lastHeard = time.Now()
	end := c.serve(ctx)
	c.wake(ctx)
	defer c.rest()
	if errors.Is(end, errPeerGone) {
		c.cancel() // nobody waits for what the workers still do
	}
	c.outbox.close()
	c.Logger.LogAttrs(ctx, slog.LevelDebug, "connection ended", slog.String("source", c.peer.Source), slog.Any("error", end))
	if e, told := errors.AsType[*api.Error](end); told {
		c.dismiss(ctx, c.session, e)
	} else if errors.Is(end, errStopped) {
		c.linger()
	}
}

// greet completes the handshake, finds the principal and says hello.
func (c *conn) greet(ctx context.Context, identify Identify) (err error) {
	limited, cancel := context.WithTimeout(ctx, c.Limits.HandshakeTimeout)
	defer cancel()
	c.raw.SetDeadline(time.Now().Add(c.Limits.HandshakeTimeout))
	if c.stopped.Load() { // stop came before: its deadline holds
		return errStopped
	}
	if c.peer, err = c.identified(limited, identify); err != nil {
		if c.stopped.Load() {
			return errStopped
		}
		return api.Errorf(api.KindUnrecognizedClient, "handshake: %v", err)
	}
	who := c.peer.Who.Principal(c.Gate.Clock.Now())
	if who == nil {
		return c.unknown()
	}
	if e := c.admit(c, who.Account); e != nil {
		return e
	}
	hello := *c.Hello()
	hello.Window = int64(c.Limits.Window)
	if _, err = c.peer.Write(protocol.AppendHello(nil, &hello)); err != nil {
		return fmt.Errorf("%w: hello: %w", errPeerGone, err)
	}
	return c.raw.SetDeadline(time.Time{})
}

// identified learns who the peer is. A handshake computes in turn with others.
func (c *conn) identified(ctx context.Context, identify Identify) (Peer, error) {
	if c.local {
		return identify(ctx, c.raw)
	}
	defer c.seat.leave()
	c.seat.ctx = ctx
	return identify(ctx, &c.seat)
}

// unknown says to somebody who is no principal what to do about it.
func (c *conn) unknown() error {
	if c.peer.Who.Hash() == (identity.KeyHash{}) {
		return api.Errorf(api.KindUnrecognizedClient, "this socket serves root and the user that the appliance runs as, nobody else")
	}
	return api.Errorf(api.KindUnrecognizedClient, "no principal is registered for the key %s, or its certificate is over", c.peer.Who.Hash())
}

// turnAway ends a connection that is not served.
func (c *conn) turnAway(ctx context.Context, end error) {
	e, told := errors.AsType[*api.Error](end)
	if !told {
		return
	}
	source := c.peer.Source
	if source == "" {
		source = sourceOf(c.raw)
	}
	s := c.Gate.Session(ctx, c.peer.Who, source)
	defer s.Close()
	c.dismiss(ctx, s, e)
}

// dismiss records why a connection ends and tells the peer, if its handshake
// was completed. Nobody else writes any more.
func (c *conn) dismiss(ctx context.Context, s *access.Session, e *api.Error) {
	s.RecordConnection(e)
	c.refused(c)
	if c.peer.Conn != nil {
		s.Farewell(protocol.AppendError(nil, 0, e))
	}
	held := s.Flush(true)
	defer held.Release()
	b, err := held.Bytes(ctx)
	if err != nil || len(b) == 0 {
		return
	}
	c.raw.SetWriteDeadline(time.Now().Add(c.Limits.WriteTimeout))
	if _, err := c.peer.Write(b); err == nil {
		c.linger()
	}
}

// linger lets the peer read the last frames: to close a socket with unread
// bytes is to reset it, and then the peer's system may drop what it has received
// from us (RFC 1122 §4.2.2.13). So it is closed for writing first, and the peer
// is heard until it closes too, or takes too long.
func (c *conn) linger() {
	for _, half := range []net.Conn{c.peer.Conn, c.raw} { // the TLS connection sends its alert, the socket its FIN
		if w, ok := half.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
	}
	c.raw.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.raw, lingerBytes)
}

// serve reads and answers until the peer leaves, misbehaves or is stopped, and
// returns which.
func (c *conn) serve(ctx context.Context) error {
	for {
		served, need, err := 0, 1, error(nil)
		if c.outbox != nil {
			served, need, err = c.burst(ctx)
		}
		if served > 0 {
			c.flush(ctx, served == 1 && c.start == c.end)
		}
		switch {
		case err != nil:
			return misbehaved(err)
		case need > 0 && c.stopped.Load():
			return errStopped
		}
		if served > 0 {
			if err := c.outbox.room(ctx); err != nil {
				return err
			}
			c.full = false
		}
		if need > 0 {
			if err := c.fill(ctx, need); err != nil {
				if err = c.gone(err); err != nil {
					return err
				}
			}
		}
	}
}

// burst serves the whole frames in the buffer and returns their number, and
// how many bytes the next one needs: none if whole ones are left because the
// peer's window is full.
func (c *conn) burst(ctx context.Context) (served, need int, err error) {
	for ; !c.full; served++ {
		frame, rest, need, err := protocol.Split(c.buf[c.start:c.end], api.MaxRequestFrame)
		if err != nil || frame == nil {
			return served, need, err
		}
		if err := c.request(ctx, frame); err != nil {
			return served, 0, err
		}
		scribble(frame, c.Scribble)
		c.start = c.end - len(rest)
		c.since = time.Time{}
		if c.session.Pending() > burstBytes {
			c.flush(ctx, false)
		}
	}
	return served, 0, nil
}

// scribble overwrites a request that was served: its plaintext must not stay.
func scribble(frame []byte, with byte) {
	if clear(frame); with != 0 {
		for i := range frame {
			frame[i] = with
		}
	}
}

// request serves one frame. An error means that the peer does not speak the
// protocol.
func (c *conn) request(ctx context.Context, frame []byte) error {
	req, err := protocol.ParseRequest(frame)
	if err != nil && req.ID == 0 {
		return api.Errorf(api.KindSerialization, "frame: %v", err)
	}
	route, known := (*c.routes.Load())[req.Op]
	switch {
	case err != nil:
		c.session.Refuse(protocol.Native{}, req.ID, route.Op(), api.Errorf(api.KindSerialization, "frame: %v", err))
	case !known:
		c.session.Refuse(protocol.Native{}, req.ID, nil, api.Errorf(api.KindUnknownOperation, "no operation has the number %d", req.Op))
	case c.credit == 0 && !c.earn(req.ID, route.Op()):
	default:
		c.credit--
		call := c.session.Call(req.ID)
		if class := route.Serve(call, protocol.Native{}, req.Body); class != work.None {
			c.later(ctx, route, call, class, req.Body)
		}
	}
	return nil
}

// earn takes some of the account's requests for this connection, or refuses the one at
// hand. The operator has as many as it likes; who is nobody any more is told so by the door.
func (c *conn) earn(id api.RequestID, op *api.Op) bool {
	now := c.Gate.Clock.Now()
	who := c.peer.Who.Principal(now)
	if who == nil || who.Type == identity.Operator {
		c.credit = 1
		return true
	}
	n, wait := c.quota.Take(who.Account, now)
	if n == 0 {
		c.session.Refuse(protocol.Native{}, id, op, &api.Error{Kind: api.KindThrottling, RetryAfter: wait, Message: fmt.Sprintf(
			"You have exceeded the rate at which you may call the appliance, %d requests a second of an account. Reduce the frequency of your calls.",
			c.Limits.RequestsPerSecond)})
	}
	c.credit = n
	return n > 0
}

// job is a request that waits for workers.
type job struct {
	route    access.Route
	body     []byte // its own copy
	deadline time.Time
}

// later hands a request that would wait to the workers: its account's share of them.
func (c *conn) later(ctx context.Context, route access.Route, call *access.Call, class work.Class, body []byte) {
	j, t := job{route, append([]byte(nil), body...), time.Now().Add(api.WorkerDeadline)}, call.Ticket()
	c.full = !c.outbox.expect()
	if !c.queue(ctx, j, call, class) {
		c.drop(j)
		c.session.RefuseAgain(protocol.Native{}, t, route.Op(), busy(class))
	}
}

// queue gives a job to the workers of a class, and reports whether they have room.
func (c *conn) queue(ctx context.Context, j job, call *access.Call, class work.Class) bool {
	t := call.Ticket()
	return c.Pools.Go(class, work.Account(call.Account()), len(j.body), func() { c.again(ctx, j, t) })
}

// drop ends a job.
func (c *conn) drop(j job) {
	scribble(j.body, c.Scribble)
	c.outbox.arrived()
}

// busy is the answer where the workers of a class have no room.
func busy(class work.Class) *api.Error {
	return &api.Error{Kind: api.KindThrottling, Message: "too much " + class.String() + " work of this account is waiting; try again", RetryAfter: 50 * time.Millisecond}
}

// again is the next run of a request, on a worker. Its copy is gone before its reply can leave.
func (c *conn) again(ctx context.Context, j job, t access.Ticket) {
	within, cancel := context.WithDeadline(ctx, j.deadline)
	defer cancel()
	s := c.Gate.Session(within, c.peer.Who, c.peer.Source)
	defer s.Close()
	moved := false
	defer func() {
		if !moved {
			c.drop(j)
		}
	}()
	call := s.Again(within, t)
	if class := j.route.Serve(call, protocol.Native{}, j.body); class != work.None { // of a slower class
		t = call.Ticket()
		if moved = c.queue(ctx, j, call, class); moved {
			return
		}
		s.RefuseAgain(protocol.Native{}, t, j.route.Op(), busy(class))
	}
	scribble(j.body, c.Scribble)
	c.outbox.put(s.Flush(false))
}

// flush ends the burst. A peer that sends one request at a time is answered on
// this goroutine: with nothing else to do, it may also commit the log itself,
// and no hand-over is paid for.
func (c *conn) flush(ctx context.Context, one bool) {
	alone := one && c.single && c.outbox.idle()
	c.single = one
	held := c.session.Flush(alone)
	switch {
	case held.Len() == 0:
		held.Release()
	case alone:
		c.outbox.sendOne(ctx, held)
	default:
		c.outbox.put(held)
	}
}

// fill reads until the buffer holds more than it did; the next frame needs
// need bytes from start.
func (c *conn) fill(ctx context.Context, need int) error {
	if c.start == c.end {
		c.start, c.end = 0, 0
	}
	if c.end == len(c.buf) && c.end > 0 || c.start > 0 && c.start+need > len(c.buf) {
		c.move(need)
	}
	if err := c.expire(); err != nil {
		return err
	}
	if c.outbox == nil {
		n, err := c.peer.Read(c.head[:])
		if n == 0 {
			return err
		}
		c.wake(ctx)
		c.end = copy(c.buf, c.head[:n])
		clear(c.head[:])
		return nil
	}
	n, err := c.peer.Read(c.buf[c.end:])
	if c.end += n; n > 0 {
		return nil
	}
	return err
}

// wake takes what a connection needs to serve. Before its first request, and after a
// rest, it has none of it.
func (c *conn) wake(ctx context.Context) {
	if c.outbox != nil {
		return
	}
	c.session = c.Gate.Session(ctx, c.peer.Who, c.peer.Source)
	c.outbox = newOutbox(c)
	go c.outbox.write(ctx)
	c.buf = readBuffers.Get().(*[readBuffer]byte)[:]
}

// rest gives it back. Nothing is under way, nor read and not served.
func (c *conn) rest() {
	c.outbox.close()
	c.session.Close()
	if clear(c.buf); len(c.buf) == readBuffer {
		readBuffers.Put((*[readBuffer]byte)(c.buf))
	}
	c.session, c.outbox, c.buf = nil, nil, nil
	c.lastHeard = c.deadline.Add(-c.quiet())
}

// quiet is how long a connection waits for the next request before it rests.
func (c *conn) quiet() time.Duration { return min(restTime, c.Limits.IdleTimeout/2) }

// move brings the frame at start to the front of a buffer that has room for more of it:
// a longer one only when it has filled this one, because to announce bytes costs nothing.
func (c *conn) move(need int) {
	to := c.buf
	if c.end-c.start == len(to) {
		to = make([]byte, need)
	}
	n := copy(to, c.buf[c.start:c.end])
	if &to[0] != &c.buf[0] {
		clear(c.buf[c.start:c.end])
	} else {
		clear(c.buf[n:c.end])
	}
	c.buf, c.start, c.end = to, 0, n
}

// expire sets when the next read gives up: soon in the middle of a frame, late
// between frames. Between frames it is moved only now and then, and means a rest first.
func (c *conn) expire() error {
	now := time.Now()
	if c.outbox == nil {
		return c.setDeadline(c.lastHeard.Add(c.Limits.IdleTimeout))
	}
	if c.start == c.end {
		c.since = time.Time{}
		if quiet := c.quiet(); c.deadline.Sub(now) < quiet*7/8 || c.deadline.Sub(now) > quiet {
			return c.setDeadline(now.Add(quiet))
		}
		return nil
	}
	if c.since.IsZero() {
		c.since = now
		return c.setDeadline(now.Add(c.Limits.FrameTimeout))
	}
	return nil
}

func (c *conn) setDeadline(t time.Time) error {
	c.deadline = t
	err := c.raw.SetReadDeadline(t)
	if c.stopped.Load() { // stop came before: its deadline holds
		err = c.raw.SetReadDeadline(time.Now())
	}
	return err
}

// misbehaved returns what a peer is told that sent no frame.
func misbehaved(err error) error {
	if errors.Is(err, protocol.ErrFrameTooLarge) {
		return api.Errorf(api.KindRequestTooLarge, "%v", err)
	}
	return err
}

// gone turns the end of a read into the connection's end, or nil to go on. A
// peer that leaves between two frames has done nothing wrong.
func (c *conn) gone(err error) error {
	_, network := errors.AsType[*os.SyscallError](err) // a reset, a cable
	late, partial := errors.Is(err, os.ErrDeadlineExceeded), c.start != c.end
	switch {
	case c.stopped.Load():
		return errStopped
	case errors.Is(err, net.ErrClosed): // by the outbox
		return errPeerGone
	case late && partial:
		return api.Errorf(api.KindRequestTimeout, "a frame took longer than %v to arrive", c.Limits.FrameTimeout)
	case late && c.outbox != nil:
		if c.outbox.idle() {
			c.rest()
		}
		return nil
	case late:
		return api.Errorf(api.KindRequestTimeout, "no request came for %v", c.Limits.IdleTimeout)
	case partial:
		return api.Errorf(api.KindSerialization, "the connection ended in the middle of a frame")
	case errors.Is(err, io.EOF):
		return err
	case network:
		return fmt.Errorf("%w: %w", errPeerGone, err)
	}
	return api.Errorf(api.KindSerialization, "%v", err)
}

// stop makes the connection answer what it has read and end.
func (c *conn) stop() {
	c.stopped.Store(true)
	c.raw.SetReadDeadline(time.Now())
}

// cut ends the connection at once, and the waits of all that is done for it.
func (c *conn) cut() {
	c.cancel()
	c.raw.Close()
}
