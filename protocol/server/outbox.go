package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keyrack/keyrack/access"
)

// outbox holds a connection's replies until their records are durable, and
// writes them in that order, many in one write. Bursts and workers put in; one
// goroutine writes out.
type outbox struct {
	c *conn

	mu      sync.Mutex
	changed sync.Cond     // mu; something was put, written or closed
	queue   []access.Held // guarded by mu
	bytes   int           // guarded by mu; memory of queue and of what is being written
	jobs    int           // guarded by mu; workers that will put
	busy    bool          // guarded by mu; the writer holds replies
	closed  bool          // guarded by mu; nothing more is read
	broken  bool          // guarded by mu; the peer or the log is gone
	done    chan struct{}
}

var errPeerGone = errors.New("the peer, or the audit log, is gone")

// gatherBytes is how much is written at once at most: what fits one TLS record
// (RFC 8446 §5.1, 16 KiB). A longer single burst is written as it is.
const gatherBytes = 16 << 10

func newOutbox(c *conn) *outbox {
	o := &outbox{c: c, done: make(chan struct{})}
	o.changed.L = &o.mu
	return o
}

// expect announces a worker's put and reports whether the peer's window has
// room for another; arrived takes it back after it.
func (o *outbox) expect() (room bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.jobs++
	return !o.full()
}

func (o *outbox) arrived() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.jobs--
	o.changed.Broadcast()
}

// full reports whether the peer's window is, with mu held. Replies count with
// the memory that they hold, so that small ones which nobody takes are bounded too.
func (o *outbox) full() bool {
	return o.bytes > o.c.Limits.WindowBytes || len(o.queue)+o.jobs >= o.c.Limits.Window
}

// idle reports whether nothing of the connection is under way.
func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) == 0 && !o.busy && o.jobs == 0
}

// put hands over replies for the writer.
func (o *outbox) put(h access.Held) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, h)
	o.bytes += h.Size()
	o.changed.Broadcast()
}

// sendOne sends replies on the caller's goroutine. The caller is the reader and
// has found the outbox idle, so nobody else writes.
func (o *outbox) sendOne(ctx context.Context, h access.Held) {
	b, err := h.Bytes(ctx)
	if err == nil {
		err = o.send(b)
	}
	h.Release()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end(err)
}

// room waits until the peer's window has room again.
func (o *outbox) room(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.broken && o.full() {
		o.changed.Wait()
	}
	if o.broken {
		return errPeerGone
	}
	return ctx.Err()
}

// close waits until everything that was served is written, or cannot be.
func (o *outbox) close() {
	o.mu.Lock()
	for o.jobs > 0 {
		o.changed.Wait()
	}
	o.closed = true
	o.changed.Broadcast()
	o.mu.Unlock()
	<-o.done
}

// write is the writer's loop.
func (o *outbox) write(ctx context.Context) {
	defer close(o.done)
	gather := make([]byte, 0, gatherBytes)
	var batch []access.Held
	for {
		if batch = o.take(batch[:0]); len(batch) == 0 {
			return
		}
		err := o.sendAll(ctx, batch, gather)
		o.finish(batch, err)
	}
}

// take waits for replies and appends to batch those to write next: all that
// are durable, or else the one that will be first. None is the end.
func (o *outbox) take(batch []access.Held) []access.Held {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) == 0 {
		if o.closed {
			return nil
		}
		o.changed.Wait()
	}
	o.busy = true
	first := 0
	for i := range o.queue {
		if o.queue[i].Position() < o.queue[first].Position() {
			first = i
		}
	}
	n, left := 0, o.queue[:0]
	for i, h := range o.queue {
		if (i == first || h.Ready()) && (n == 0 || n+h.Len() <= gatherBytes) {
			batch = append(batch, h)
			n += h.Len()
		} else {
			left = append(left, h)
		}
	}
	clear(o.queue[len(left):])
	o.queue = left
	return batch
}

// sendAll waits for a batch's records and writes its replies as one.
func (o *outbox) sendAll(ctx context.Context, batch []access.Held, gather []byte) error {
	if len(batch) == 1 {
		b, err := batch[0].Bytes(ctx)
		if err != nil {
			return err
		}
		return o.send(b)
	}
	defer func() { clear(gather) }()
	for i := range batch {
		b, err := batch[i].Bytes(ctx)
		if err != nil {
			return err
		}
		gather = append(gather, b...)
	}
	return o.send(gather)
}

func (o *outbox) send(b []byte) error {
	o.c.raw.SetWriteDeadline(time.Now().Add(o.c.Limits.WriteTimeout))
	_, err := o.c.peer.Write(b)
	return err
}

// finish wipes what was sent and makes room for more.
func (o *outbox) finish(batch []access.Held, err error) {
	n := 0
	for i := range batch {
		n += batch[i].Size()
		batch[i].Release()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = false
	o.bytes -= n
	o.end(err)
}

// end takes note of how a send ended, with mu held. After an error nothing can
// be written any more, so the connection is cut, which ends the reader too.
func (o *outbox) end(err error) {
	if err != nil && !o.broken {
		o.broken = true
		o.c.cut()
		o.c.Logger.LogAttrs(context.Background(), slog.LevelDebug, "replies could not be sent",
			slog.String("source", o.c.peer.Source), slog.Any("error", err))
	}
	o.changed.Broadcast()
}
