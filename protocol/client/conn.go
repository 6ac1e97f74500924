package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
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
	nc      net.Conn
	places  chan struct{} // holds one value a request under way
	kick    chan struct{} // something is in out, or the connection ended
	ended   chan struct{} // closed when err is set
	retired atomic.Bool   // nothing is heard: no further request shall use it

	mu      sync.Mutex
	out     []byte                   // guarded by mu; requests not written yet
	pending map[api.RequestID]waiter // guarded by mu
	last    api.RequestID            // guarded by mu
	handed  api.RequestID            // guarded by mu; up to here they were given to the network
	waiting int                      // guarded by mu; how many of pending somebody waits for
	replies uint64                   // guarded by mu; so far
	err     error                    // guarded by mu; why the connection ended
}

// waiter is who waits for a reply.
type waiter struct {
	done    func(Reply) // nil if nobody does any more
	replies uint64      // of the connection when the request was made
}

// silence is how long a caller waits without any reply to the connection before it
// is held for dead. TCP alone would need a quarter of an hour to notice a machine
// that is gone.
const silence = 10 * time.Second

// mostSpare bounds the memory of requests that is kept for the next ones, in bytes.
const mostSpare = 1 << 20

// errSilent ends a connection on which nothing is heard.
var errSilent = errors.New("the appliance did not answer")

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
	if err := client.heard(hello.Checkpoint); err != nil {
		nc.Close()
		return nil, err
	}
	client.hello.Store(hello)
	c := &conn{
		nc: nc, pending: map[api.RequestID]waiter{}, kick: make(chan struct{}, 1),
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
	c.waiting++
	c.pending[c.last] = waiter{done, c.replies}
	if before == 0 {
		c.wake()
	}
	return c.last, nil
}

// abandon forgets who waits for a request since begun. Its place stays taken until
// the appliance has answered. Where that did not answer anything for long, others
// get another connection; this one goes when nobody waits on it any more.
func (c *conn) abandon(id api.RequestID, begun time.Time) {
	c.mu.Lock()
	if w, underWay := c.pending[id]; underWay && w.done != nil {
		c.pending[id] = waiter{}
		c.waiting--
		if w.replies == c.replies && time.Since(begun) >= silence {
			c.retired.Store(true)
		}
	}
	over := c.over()
	c.mu.Unlock()
	if over {
		c.end(errSilent)
	}
}

// over reports whether the connection is retired and nobody waits on it, with mu held.
func (c *conn) over() bool { return c.retired.Load() && c.waiting == 0 }

// useful reports whether the appliance has answered anything.
func (c *conn) useful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replies > 0
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
	var deadline time.Time
	for range c.kick {
		runtime.Gosched()
		c.mu.Lock()
		out, err := c.out, c.err
		c.out, c.handed = spare[:0], c.last
		c.mu.Unlock()
		if now := time.Now(); err == nil && deadline.Sub(now) < api.WriteTimeout*7/8 { // moved now and then: it costs
			deadline = now.Add(api.WriteTimeout)
			err = c.nc.SetWriteDeadline(deadline)
		}
		if err == nil && len(out) > 0 {
			_, err = c.nc.Write(out)
		}
		clear(out) // requests hold plaintexts
		if spare = out; cap(spare) > mostSpare {
			spare = nil
		}
		if err != nil {
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
			clear(in.buf)
			return
		}
		done, over := c.take(p.ID)
		if done != nil {
			done(Reply{reply: p})
		}
		clear(frame) // replies hold plaintexts
		if over {
			c.end(errSilent)
		}
	}
}

// take returns who waits for a reply, or nil, and frees the request's place. over
// says that it was the last of a retired connection.
func (c *conn) take(id api.RequestID) (done func(Reply), over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, asked := c.pending[id]
	if asked {
		delete(c.pending, id)
		<-c.places
		c.replies++
		if w.done != nil {
			c.waiting--
		}
	}
	return w.done, c.over()
}

// end ends the connection; calls under way fail: those that were given to the
// network are lost, the others can be made anew.
func (c *conn) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.ended)
	}
	pending, handed := c.pending, c.handed
	clear(c.out) // requests that were not written
	c.pending, c.waiting = map[api.RequestID]waiter{}, 0
	c.mu.Unlock()
	if first {
		c.nc.Close()
		c.wake()
	}
	lost, unsent := fmt.Errorf("%w: %w", ErrLost, err), &dialError{err}
	for id, w := range pending {
		switch {
		case w.done == nil:
		case id > handed:
			w.done(Reply{err: unsent})
		default:
			w.done(Reply{err: lost})
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
