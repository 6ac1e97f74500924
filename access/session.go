package access

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/work"
)

// Session is one connection's place at the door. Between two calls of Flush it
// gathers a burst: the replies and the audit records of its calls. For one
// goroutine.
type Session struct {
	gate   *Gate
	ctx    context.Context
	who    identity.Handle
	source string

	trail  audit.Trail
	out    *replies
	call   Call
	rec    audit.Record
	shown  []byte      // encoding space of the members an audit record shows
	now    time.Time   // of the burst
	rows   []outboxRow // of the burst's changes
	ids    [64]api.EventID
	idsUse int
}

// Sizes of a session's memory. A call that needs more than the first gets more
// for itself; the second grows with the burst's replies.
const (
	scratchSize = 16 << 10
	repliesSize = 32 << 10
)

func newSession(g *Gate) *Session {
	s := &Session{gate: g, shown: make([]byte, 0, 1024)}
	s.call.scratch = make([]byte, scratchSize)
	s.idsUse = len(s.ids)
	return s
}

// Close gives the session's memory back. Replies and records not flushed are
// lost, but for records of changes, which the next round of [Gate.Keep] appends.
func (s *Session) Close() {
	if len(s.rows) > 0 {
		s.gate.outbox.add(s.rows, unlogged)
	}
	s.out.release()
	s.trail.Reset()
	s.out, s.ctx, s.who, s.source = nil, nil, identity.Handle{}, ""
	s.now, s.rec, s.rows = time.Time{}, audit.Record{}, nil
	s.call.forget()
	s.gate.sessions.Put(s)
}

// Call begins a call on the connection's own goroutine, where it may not wait
// for slow work. The result is reused: it is valid until the next Call.
func (s *Session) Call(id api.RequestID) *Call {
	c := &s.call
	c.start(s, id, s.eventID())
	c.ctx = s.ctx
	return c
}

// Ticket is what a call that yielded takes to its second run.
type Ticket struct {
	id    api.RequestID
	event api.EventID
	class work.Class
}

// Again begins the next run of a call that yielded, on the session of a worker of the
// class it yielded for. It decides anew, so a revocation while it was queued counts, and it may wait
// for such work, and for faster one, until ctx ends. For slower work it yields again.
func (s *Session) Again(ctx context.Context, t Ticket) *Call {
	c := &s.call
	c.start(s, t.id, t.event)
	c.ctx, c.mayBlock, c.class = ctx, true, t.class
	return c
}

// Refuse answers a request that reaches no operation with err and records it
// under op, or under no operation if op is nil: an unknown operation, a full
// worker pool.
func (s *Session) Refuse(w api.Wire, id api.RequestID, op *api.Op, err *api.Error) {
	s.Call(id).refuse(w, op, err)
}

// RefuseAgain is Refuse for a call that yielded and found no worker.
func (s *Session) RefuseAgain(w api.Wire, t Ticket, op *api.Op, err *api.Error) {
	s.Again(s.ctx, t).refuse(w, op, err)
}

func (c *Call) refuse(w api.Wire, op *api.Op, err *api.Error) {
	c.begin(op, nil, nil)
	c.record(err)
	c.reply(w, err)
}

// Farewell appends a frame that ends the connection to the burst's replies, so
// that it leaves after them and after their records.
func (s *Session) Farewell(frame []byte) {
	s.out = s.out.room(len(frame))
	s.out.b = append(s.out.b, frame...)
}

// Pending returns how many bytes of replies wait for Flush.
func (s *Session) Pending() int {
	if s.out == nil {
		return 0
	}
	return len(s.out.b)
}

// Flush ends the burst: its records go to the log under one lock, its replies
// into the result. alone says that this connection has nothing else to do, so
// that the log may commit on this goroutine.
func (s *Session) Flush(alone bool) Held {
	h := Held{out: s.out, log: s.gate.Log}
	s.out, s.now = nil, time.Time{}
	if s.trail.Len() > 0 {
		h.at, h.err = s.gate.Log.Append(&s.trail, alone)
		s.trail.Reset()
	}
	if h.err != nil {
		h.at = unlogged
	}
	if len(s.rows) > 0 {
		s.gate.outbox.add(s.rows, h.at)
		clear(s.rows)
		s.rows = s.rows[:0]
	}
	return h
}

// eventID returns a fresh id; the system's generator is asked for 64 at a time.
func (s *Session) eventID() api.EventID {
	if s.idsUse == len(s.ids) {
		var b [len(s.ids) * len(api.EventID{})]byte
		rand.Read(b[:])
		for i := range s.ids {
			s.ids[i] = api.EventID(b[i*16:])
		}
		s.idsUse = 0
	}
	s.idsUse++
	return s.ids[s.idsUse-1]
}

// Held is replies whose audit records are on their way to the disk: Flush gave
// them to audit.Log.Append, its committer writes and syncs them and publishes how
// far it is. The bytes cannot be had before that is past the records. One goroutine at a time; the
// last one calls Release.
type Held struct {
	out *replies
	log *audit.Log
	at  audit.Position
	err error
}

// Len returns how many bytes of replies are held.
func (h *Held) Len() int {
	if h.out == nil {
		return 0
	}
	return len(h.out.b)
}

// Size returns how many bytes of memory hold them.
func (h *Held) Size() int {
	if h.out == nil {
		return 0
	}
	return cap(h.out.b)
}

// Ready reports whether Bytes would return at once.
func (h *Held) Ready() bool { return h.err != nil || h.log.Durable() >= h.at }

// Position is how much of the log must be durable before the replies may leave.
func (h *Held) Position() audit.Position { return h.at }

// Bytes waits until the records are durable and returns the replies, which are
// valid until Release. An error means that the log could not keep the records:
// the replies must not be sent, and the connection must end.
func (h *Held) Bytes(ctx context.Context) ([]byte, error) {
	if h.err == nil && h.at > 0 {
		h.err = h.log.Wait(ctx, h.at)
	}
	if h.err != nil {
		return nil, h.err
	}
	if h.out == nil {
		return nil, nil
	}
	return h.out.b, nil
}

// Release wipes the replies and gives their memory back.
func (h *Held) Release() {
	h.out.release()
	h.out = nil
}

// replies is memory for the replies of one burst.
type replies struct{ b []byte }

var repliesPool = sync.Pool{New: func() any { return &replies{make([]byte, 0, repliesSize)} }}

// room returns r, or new replies if r is nil, with room for n more bytes, so
// that appending them leaves no unwiped copy behind.
func (r *replies) room(n int) *replies {
	if r == nil {
		r = repliesPool.Get().(*replies)
	}
	if cap(r.b)-len(r.b) >= n {
		return r
	}
	more := make([]byte, len(r.b), 2*cap(r.b)+n)
	copy(more, r.b)
	clear(r.b)
	r.b = more
	return r
}

// free returns the memory behind the replies, to append one to.
func (r *replies) free() []byte { return r.b[len(r.b):] }

// fill takes a reply that was appended to free: in place, or elsewhere because
// it needed more than there is.
func (r *replies) fill(reply []byte) *replies {
	free := r.free()
	if &reply[0] == &free[:1][0] {
		r.b = r.b[:len(r.b)+len(reply)]
		return r
	}
	clear(free[:cap(free)]) // may hold a part of it
	r = r.room(len(reply))
	r.b = append(r.b, reply...)
	clear(reply)
	return r
}

func (r *replies) release() {
	if r == nil {
		return
	}
	clear(r.b)
	if r.b = r.b[:0]; cap(r.b) <= 8*repliesSize {
		repliesPool.Put(r)
	}
}

// errUnknownClient is answered to a connection whose principal no longer exists.
var errUnknownClient = &api.Error{
	Kind:    api.KindUnrecognizedClient,
	Message: "no principal is registered for this client's key, or its certificate is over",
}

// errWorkerOnly is a programmer's error: a write from a goroutine that may not wait.
var errWorkerOnly = errors.New("an update needs a worker: ask for one with Need first")
