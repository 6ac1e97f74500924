package appliance_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/service/appliance"
)

var operator = &identity.Principal{ARN: "arn:aws:keyrack:rack-1::operator", Type: identity.Operator}

// desk is a service of its own behind the gate of an appliance. What it acts on
// is what a test says.
type desk struct {
	gate   *access.Gate
	self   *appliance.Service
	routes map[*api.Op]access.Route
	open   atomic.Bool  // unlocked
	locks  atomic.Int64 // how often the end was asked for
}

func newDesk(tb testing.TB, configure func(*desk, *appliance.Config)) *desk {
	tb.Helper()
	d := &desk{gate: racktest.Start(tb).Gate(), routes: map[*api.Op]access.Route{}}
	d.open.Store(true)
	cfg := appliance.Config{
		Log: d.gate.Log, State: d.state, Lock: func() { d.locks.Add(1) },
		Unlock: func(context.Context) error { d.open.Store(true); return nil },
		Rotate: func(context.Context) error { return nil },
		Records: func() appliance.Records {
			return appliance.Records{KeyVersion: 3, Rotating: true, Generation: 4, Buckets: 5, Rows: 6}
		},
		Address:     func() string { return "192.0.2.1:7250" },
		Connections: func() int { return 1 }, Warnings: func() []string { return nil },
	}
	configure(d, &cfg)
	d.self = appliance.New(cfg)
	for _, r := range d.self.Routes(d.gate) {
		d.routes[r.Op()] = r
	}
	return d
}

func (d *desk) state() applianceapi.State {
	if d.open.Load() {
		return applianceapi.Unlocked
	}
	return applianceapi.Locked
}

// ask makes one call as the operator's connection and a worker would.
func ask[In, Out any](tb testing.TB, d *desk, op api.OpOf[In, Out], in *In) (*Out, error) {
	tb.Helper()
	s := d.gate.Session(tb.Context(), identity.Always(operator), "test")
	defer s.Close()
	body := op.In.AppendCBOR(nil, in)
	for c := s.Call(1); d.routes[op.Op].Serve(c, protocol.Native{}, body) != work.None; {
		c = s.Again(tb.Context(), c.Ticket())
	}
	held := s.Flush(true)
	defer held.Release()
	b, err := held.Bytes(tb.Context())
	if err != nil {
		return nil, err
	}
	frame, _, _, err := protocol.Split(b, api.MaxReplyFrame)
	if err != nil {
		return nil, err
	}
	reply, err := protocol.ParseReply(frame)
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		return nil, err
	}
	out := new(Out)
	return out, op.Out.DecodeCBOR(reply.Body, out)
}

// wantError compares a refusal's kind and reason.
func wantError(tb testing.TB, what string, err error, kind api.Kind, reason string) {
	tb.Helper()
	if e := api.AsError(err); api.KindOf(err) != kind || e != nil && e.Reason != reason {
		tb.Errorf("%s: got %v (%+v), want %v, reason %q", what, err, e, kind, reason)
	}
}
