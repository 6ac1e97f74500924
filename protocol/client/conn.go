package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol"
)

// Reply is the answer to one request.
type Reply struct {
	reply protocol.Reply
	err   error // instead of a reply
}

// clone returns a reply that does not alias the connection's buffer.
func (r Reply) clone() Reply {
	r.reply.Body = append([]byte(nil), r.reply.Body...)
	return r
}

// Err returns why there is no response, or nil: an *api.Error if the appliance
// said so.
func (r Reply) Err() error {
	if r.err != nil {
		return r.err
	}
	return r.reply.Err()
}

// Decode reads the response into out, which aliases the reply's memory.
func (r Reply) Decode(op *api.Op, out any) error {
	if err := r.Err(); err != nil {
		return err
	}
	return op.Out.DecodeReply(r.reply.Body, out)
}

// conn is one connection: callers append requests to a buffer that one
// goroutine writes, so that what came together leaves together; another one
// reads replies.
type conn struct {
	nc     net.Conn
	places chan struct{} // holds one value a request under way
	kick   chan struct{} // something is in out, or the connection ended
	ended  chan struct{} // closed when err is set

	mu      sync.Mutex
	out     []byte                        // guarded by mu; requests not written yet
	pending map[api.RequestID]func(Reply) // guarded by mu; a nil value is a request that nobody waits for
	last    api.RequestID                 // guarded by mu
	err     error                         // guarded by mu; why the connection ended
}

// lengthSize is the size of the length before a frame, in bytes.
const lengthSize = 4

// mostPlaces bounds what an appliance's window makes a connection keep.
const mostPlaces = 64 << 10

// dialError says that no request was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return "connect to the appliance: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// permanent reports whether trying again would end the same way: one side does
// not know the other's key, or does not speak TLS as the other does.
func (e *dialError) permanent() bool {
	_, name := errors.AsType[*tls.CertificateVerificationError](e.err)
	op, network := errors.AsType[*net.OpError](e.err)
	alert := network && op.Op == "remote error" // crypto/tls has no type for it
	refusal, refused := errors.AsType[*api.Error](e.err)
	return name || alert || refused && !refusal.Kind.Retryable() || errors.Is(e.err, ErrServerKey)
}

// connect makes a connection and reads its greeting.
func connect(ctx context.Context, client *Client) (*conn, error) {
	nc, err := client.dial(ctx)
	if err != nil {
		return nil, &dialError{err}
	}
	in := reader{nc: nc, buf: make([]byte, 32<<10)}
	hello, err := greeted(ctx, &in)
	if err != nil {
		nc.Close()
		return nil, &dialError{err}
	}
	client.hello.Store(hello)
	c := &conn{
		nc: nc, pending: map[api.RequestID]func(Reply){}, kick: make(chan struct{}, 1),
		places: make(chan struct{}, min(hello.Window, mostPlaces)), ended: make(chan struct{}),
	}
	go c.write()
	go c.read(&in)
	return c, nil
}

// greeted reads the hello before ctx ends.
func greeted(ctx context.Context, in *reader) (*protocol.Hello, error) {
	stop := context.AfterFunc(ctx, func() { in.nc.SetDeadline(time.Now()) })
	frame, err := in.frame()
	if !stop() {
		return nil, fmt.Errorf("no greeting: %w", ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	return protocol.ParseHello(frame)
}

func (c *conn) works() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// wait takes a place in the appliance's window, for start, when there is one.
func (c *conn) wait(ctx context.Context) error {
	select {
	case c.places <- struct{}{}:
		return nil
	case <-c.ended: // start will say why
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter takes a place if there is one now.
func (c *conn) enter() bool {
	select {
	case c.places <- struct{}{}:
		return true
	default:
		return !c.works() // start will say why
	}
}

// start queues a request, which has its place.
func (c *conn) start(op *api.Op, in any, done func(Reply)) (api.RequestID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, &dialError{c.err}
	}
	before := len(c.out)
	c.out = protocol.AppendRequest(c.out, c.last+1, op, in)
	if n := len(c.out) - before - lengthSize; n > api.MaxRequestFrame { // it would cost the connection, and all that shares it
		clear(c.out[before:])
		c.out = c.out[:before]
		<-c.places
		return 0, api.Errorf(api.KindRequestTooLarge, "the request has %d bytes, at most %d are allowed", n, api.MaxRequestFrame)
	}
	c.last++
	c.pending[c.last] = done
	if before == 0 {
		c.wake()
	}
	return c.last, nil
}

// abandon forgets who waits for a request. Its place stays taken until the
// appliance has answered.
func (c *conn) abandon(id api.RequestID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, underWay := c.pending[id]; underWay {
		c.pending[id] = nil
	}
}

func (c *conn) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// write writes what is queued. It lets other goroutines run first, so that
// callers who were woken by the same replies share a write.
func (c *conn) write() {
	var spare []byte
	for range c.kick {
		runtime.Gosched()
		c.mu.Lock()
		out, err := c.out, c.err
		c.out = spare[:0]
		c.mu.Unlock()
		if err == nil && len(out) > 0 {
			_, err = c.nc.Write(out)
		}
		clear(out) // requests hold plaintexts
		if spare = out; err != nil {
			c.end(err)
			return
		}
	}
}

// read hands replies to their callers until the connection ends.
func (c *conn) read(in *reader) {
	for {
		frame, err := in.frame()
		var p protocol.Reply
		if err == nil {
			p, err = protocol.ParseReply(frame)
		}
		if err == nil && p.ID == 0 {
			if err = p.Err(); err == nil {
				err = errors.New("the server greeted twice")
			}
		}
		if err != nil {
			c.end(err)
			return
		}
		if done := c.take(p.ID); done != nil {
			done(Reply{reply: p})
		}
		clear(frame) // replies hold plaintexts
	}
}

// take returns who waits for a reply, or nil, and frees the request's place.
func (c *conn) take(id api.RequestID) func(Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done, asked := c.pending[id]
	if asked {
		delete(c.pending, id)
		<-c.places
	}
	return done
}

// end ends the connection; calls under way fail.
func (c *conn) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.ended)
	}
	pending := c.pending
	clear(c.out) // requests that were not written
	c.pending = map[api.RequestID]func(Reply){}
	c.mu.Unlock()
	if first {
		c.nc.Close()
		c.wake()
	}
	lost := fmt.Errorf("%w: %w", ErrLost, err)
	for _, done := range pending {
		if done != nil {
			done(Reply{err: lost})
		}
	}
}

// reader cuts frames from a connection.
type reader struct {
	nc         net.Conn
	buf        []byte
	start, end int
}

// frame returns the next frame; it is valid until the next call.
func (r *reader) frame() ([]byte, error) {
	for {
		frame, rest, need, err := protocol.Split(r.buf[r.start:r.end], api.MaxReplyFrame)
		if err != nil {
			return nil, err
		}
		if frame != nil {
			r.start = r.end - len(rest)
			return frame, nil
		}
		if err := r.fill(need); err != nil {
			return nil, err
		}
	}
}

func (r *reader) fill(need int) error {
	if r.start > 0 || need > len(r.buf) {
		to := r.buf
		if need > len(to) {
			to = make([]byte, need)
		}
		n := copy(to, r.buf[r.start:r.end])
		if &to[0] == &r.buf[0] {
			clear(to[n:r.end])
		} else {
			clear(r.buf[r.start:r.end])
		}
		r.buf, r.start, r.end = to, 0, n
	}
	n, err := r.nc.Read(r.buf[r.end:])
	if r.end += n; n > 0 {
		return nil
	}
	return err
}
