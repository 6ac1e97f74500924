package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// conn is one connection. Its goroutine reads frames and serves them until no
// whole one is left, with no lock and no wait for the disk; then the burst goes
// to the audit log and its replies to the outbox.
type conn struct {
	*Server
	raw     net.Conn // as accepted
	peer    Peer     // once identified
	session *access.Session
	outbox  *outbox
	counted bool
	stopped atomic.Bool

	buf        []byte // what was read and not served yet is buf[start:end]
	start, end int
	since      time.Time // when the frame at start began to arrive; zero if none did
	deadline   time.Time // of the next read
	single     bool      // the last burst was one request, so the peer seems to send one at a time
}

// Sizes of the read buffer, and how many bytes of replies end a burst early.
const (
	readBuffer = 64 << 10
	burstBytes = 64 << 10
)

func newConn(s *Server, nc net.Conn) *conn { return &conn{Server: s, raw: nc} }

// run identifies the peer, greets it and serves it to its end.
func (c *conn) run(ctx context.Context, identify Identify) {
	defer c.cut()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.greet(ctx, identify); err != nil {
		c.turnAway(ctx, api.AsError(err))
		return
	}
	c.session = c.Gate.Session(ctx, c.peer.Who, c.peer.Source)
	defer c.session.Close()
	c.outbox = newOutbox(c)
	go c.outbox.write(ctx)
	c.buf = make([]byte, readBuffer)
	err := c.serve(ctx)
	if errors.Is(err, errPeerGone) {
		cancel() // nobody waits for what the workers still do
	}
	c.outbox.close()
	c.Logger.LogAttrs(ctx, slog.LevelDebug, "connection ended", slog.String("source", c.peer.Source), slog.Any("error", err))
}

// greet completes the handshake, finds the principal and says hello.
func (c *conn) greet(ctx context.Context, identify Identify) (err error) {
	limited, cancel := context.WithTimeout(ctx, c.Limits.HandshakeTimeout)
	defer cancel()
	c.raw.SetDeadline(time.Now().Add(c.Limits.HandshakeTimeout))
	if c.peer, err = identify(limited, c.raw); err != nil {
		return api.Errorf(api.KindUnrecognizedClient, "handshake: %v", err)
	}
	if c.peer.Who.Principal(c.Gate.Clock.Now()) == nil {
		return api.Errorf(api.KindUnrecognizedClient, "no principal is registered for the key %s, or its certificate is over", c.peer.Who.Hash())
	}
	if !c.admit(c) {
		return &api.Error{Kind: api.KindThrottling, RetryAfter: time.Second,
			Message: "this principal has too many open connections: share them, many requests fit on one"}
	}
	_, err = c.peer.Write(protocol.AppendHello(nil, c.Hello()))
	c.raw.SetDeadline(time.Time{})
	return err
}

// turnAway records why a connection is not served and tells the peer, if its
// handshake was completed.
func (c *conn) turnAway(ctx context.Context, e *api.Error) {
	source := c.peer.Source
	if source == "" {
		source = sourceOf(c.raw)
	}
	s := c.Gate.Session(ctx, c.peer.Who, source)
	defer s.Close()
	s.RecordConnection(e)
	held := s.Flush(true)
	defer held.Release()
	if _, err := held.Bytes(ctx); err == nil && c.peer.Conn != nil {
		c.peer.Write(protocol.AppendError(nil, 0, e))
	}
}

// serve reads and answers until the peer leaves, misbehaves or is stopped.
func (c *conn) serve(ctx context.Context) error {
	for {
		served, need, err := c.burst(ctx)
		if err != nil {
			return c.broken(err)
		}
		c.flush(ctx, served == 1 && c.start == c.end)
		if c.stopped.Load() {
			return nil
		}
		if err := c.outbox.room(ctx); err != nil {
			return err
		}
		if err := c.fill(need); err != nil {
			return c.gone(err)
		}
	}
}

// burst serves the whole frames in the buffer and returns their number, and
// how many bytes the next one needs.
func (c *conn) burst(ctx context.Context) (served, need int, err error) {
	for ; ; served++ {
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
	route, known := c.routes[req.Op]
	switch {
	case err != nil:
		c.session.Refuse(protocol.Native{}, req.ID, route.Op(), api.Errorf(api.KindSerialization, "frame: %v", err))
	case !known:
		c.session.Refuse(protocol.Native{}, req.ID, nil, api.Errorf(api.KindUnknownOperation, "no operation has the number %d", req.Op))
	default:
		call := c.session.Call(req.ID)
		if class := route.Serve(call, protocol.Native{}, req.Body); class != work.None {
			c.later(ctx, route, call.Ticket(), class, req.Body)
		}
	}
	return nil
}

// later hands a request that would wait to the workers.
func (c *conn) later(ctx context.Context, route access.Route, t access.Ticket, class work.Class, body []byte) {
	own := append([]byte(nil), body...)
	c.outbox.expect()
	queued := c.Pools.Go(class, func() {
		ctx, cancel := context.WithTimeout(ctx, api.WorkerDeadline)
		defer cancel()
		s := c.Gate.Session(ctx, c.peer.Who, c.peer.Source)
		defer s.Close()
		route.Serve(s.Again(ctx, t), protocol.Native{}, own)
		scribble(own, c.Scribble)
		c.outbox.put(s.Flush(false))
		c.outbox.arrived()
	})
	if !queued {
		c.outbox.arrived()
		c.session.RefuseAgain(protocol.Native{}, t, route.Op(), &api.Error{
			Kind: api.KindThrottling, Message: "too much " + class.String() + " work is waiting; try again", RetryAfter: 50 * time.Millisecond})
	}
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
func (c *conn) fill(need int) error {
	if c.start == c.end {
		c.start, c.end = 0, 0
	}
	if c.start+need > len(c.buf) {
		c.move(need)
	}
	if err := c.expire(); err != nil {
		return err
	}
	n, err := c.peer.Read(c.buf[c.end:])
	if c.end += n; n > 0 {
		return nil
	}
	return err
}

// move brings the frame at start to the front of a buffer that can hold it.
func (c *conn) move(need int) {
	to := c.buf
	if need > len(to) {
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
// between frames. Between frames it is moved only now and then.
func (c *conn) expire() error {
	now := time.Now()
	if c.start == c.end {
		c.since = time.Time{}
		if c.deadline.Sub(now) < c.Limits.IdleTimeout*7/8 || c.deadline.Sub(now) > c.Limits.IdleTimeout {
			return c.setDeadline(now.Add(c.Limits.IdleTimeout))
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

// broken ends a connection whose peer sent no frame: one record, one error.
func (c *conn) broken(err error) error {
	e := api.AsError(err)
	if errors.Is(err, protocol.ErrFrameTooLarge) {
		e = api.Errorf(api.KindRequestTooLarge, "%v", err)
	}
	c.flush(context.Background(), false)
	c.session.RecordConnection(e)
	c.session.Farewell(protocol.AppendError(nil, 0, e))
	c.flush(context.Background(), false)
	return err
}

// gone turns the end of a read into the connection's end. Only a peer that
// stopped in the middle of a frame is told and recorded.
func (c *conn) gone(err error) error {
	if c.stopped.Load() || c.start == c.end || errors.Is(err, net.ErrClosed) {
		return err
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.broken(api.Errorf(api.KindRequestTimeout, "a frame took longer than %v to arrive", c.Limits.FrameTimeout))
	case errors.Is(err, io.EOF):
		return c.broken(api.Errorf(api.KindSerialization, "the connection ended in the middle of a frame"))
	}
	return err
}

// stop makes the connection answer what it has read and end.
func (c *conn) stop() {
	c.stopped.Store(true)
	c.raw.SetReadDeadline(time.Now())
}

// cut ends the connection at once.
func (c *conn) cut() { c.raw.Close() }
