package access

import (
	"context"

	"github.com/keyrack/keyrack/api"
)

// EventOf returns the event of the call that yielded.
func EventOf(t Ticket) api.EventID { return t.event }

// Keep runs one round of a gate's housekeeping, the last one if last is set.
func Keep(ctx context.Context, g *Gate, last bool) { g.keep(ctx, last) }

// Refusals returns how many kinds of refusals a gate is counting.
func Refusals(g *Gate) int {
	g.refusals.mu.Lock()
	defer g.refusals.mu.Unlock()
	return len(g.refusals.seen)
}

// Outbox returns how many rows a gate has still to drop.
func Outbox(g *Gate) int {
	g.outbox.mu.Lock()
	defer g.outbox.mu.Unlock()
	return len(g.outbox.rows)
}

// Replies returns the memory of the session's replies that were not flushed.
func Replies(s *Session) []byte { return s.out.b }
