package access

import (
	"context"
	"log/slog"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
)

// record stages the call's one audit record. What a change did stands in the
// store with it, so that record is the one even if the method failed afterwards.
func (c *Call) record(e *api.Error) {
	s := c.session
	switch {
	case c.stored != nil:
		s.trail.AddEncoded(c.stored)
	case e != nil && s.gate.refusals.fold(c, e):
		return
	default:
		c.describe(&s.rec, e)
		s.trail.Add(&s.rec)
	}
	if e != nil && e.Err != nil {
		s.gate.Logger.LogAttrs(c.ctx, slog.LevelError, "request failed", slog.String("op", c.action()),
			slog.String("request", c.event.String()), slog.String("key", c.resource), slog.Any("error", e.Err))
	}
}

// describe fills rec: typed, allow-listed fields. It aliases the session's memory.
func (c *Call) describe(rec *audit.Record, e *api.Error) {
	s := c.session
	*rec = audit.Record{
		Event: c.event, Time: s.now.UnixMicro(), RequestID: uint64(c.id),
		Source: s.source, Credential: s.who.Hash(), Resource: c.resource, Via: c.via,
	}
	if c.who != nil {
		rec.Principal, rec.Account = c.who.ARN, c.who.AccountText()
	}
	if e != nil {
		rec.Error, rec.Reason = uint16(e.Kind), e.Reason
	}
	if c.op == nil {
		return
	}
	rec.Op = c.op.Number
	if c.in == nil {
		return
	}
	s.shown = c.op.In.AppendAudit(s.shown[:0], c.in)
	split := len(s.shown)
	if e == nil {
		s.shown = c.op.Out.AppendAudit(s.shown, c.out)
	}
	rec.Request, rec.Response = members(s.shown[:split]), members(s.shown[split:])
}

// members returns the encoding of a map, or nil for the empty map.
func members(m []byte) []byte {
	if len(m) <= 1 {
		return nil
	}
	return m
}

func (c *Call) action() string {
	if c.op == nil {
		return ""
	}
	return c.op.Action
}

// Via returns a call by the same caller on behalf of a service
// ("secretsmanager") that needs another one: it has its own decision and its own
// record, which says via. Give it to [Nest].
func (c *Call) Via(service string) *Call {
	s := c.session
	return &Call{
		session: s, parent: c, ctx: c.ctx, id: c.id, event: s.eventID(), who: c.who,
		via: service, mayBlock: c.mayBlock, class: c.class,
	}
}

// Nest runs f as operation op for the call c, which Via made: the service that
// calls gets the response, the log gets the record. The error is f's own, an
// internal one for a panic, or a yield that the caller must return at once. Who
// nests twice asks Need before, else a yield of the second repeats the first.
func Nest[In, Out any](c *Call, op api.OpOf[In, Out], f func(*Call, *In, *Out) error, in *In, out *Out) error {
	c.begin(op.Op, in, out)
	err := nested(c, f, in, out)
	if _, again := err.(*yield); again {
		return err
	}
	e := c.outcome(err)
	c.record(e)
	if e != nil {
		return e
	}
	return nil
}

func nested[In, Out any](c *Call, f func(*Call, *In, *Out) error, in *In, out *Out) (err error) {
	defer c.contain(&err)
	return f(c, in, out)
}

// RecordConnection stages the record of something that befell a connection and
// no request: a refused handshake, a broken frame. It is folded like refusals.
func (s *Session) RecordConnection(err *api.Error) {
	c := s.Call(0)
	c.begin(nil, nil, nil)
	c.record(err)
}

// flushFolded writes records that were folded; see refusals. What the log does
// not take now is counted on.
func (g *Gate) flushFolded(ctx context.Context, all bool) {
	over := g.refusals.take(g.Clock.Now().Unix(), all)
	if len(over) == 0 {
		return
	}
	var t audit.Trail
	for _, r := range over {
		t.Add(&r.rec)
	}
	if _, err := g.Log.Append(&t, false); err != nil {
		g.refusals.restore(over)
		g.Logger.LogAttrs(ctx, slog.LevelError, "folded refusals could not be recorded", slog.Any("error", err))
	}
}
