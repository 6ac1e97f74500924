package kms_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// desk calls the operations of an appliance through the door without a network,
// for any caller.
type desk struct {
	*racktest.Rack
	routes map[*api.Op]access.Route
}

func newDesk(r *racktest.Rack) *desk {
	d := &desk{r, map[*api.Op]access.Route{}}
	for _, route := range r.Routes() {
		d.routes[route.Op()] = route
	}
	return d
}

// rootOf returns the root of an account.
func rootOf(a api.AccountID) *identity.Principal {
	return &identity.Principal{ARN: api.Realm{Partition: "aws"}.RootARN(a), Type: identity.Root, Account: a}
}

// ask makes one call as a connection and a worker would.
func ask[In, Out any](tb testing.TB, d *desk, who *identity.Principal, op api.OpOf[In, Out], in *In) (*Out, error) {
	tb.Helper()
	out, err := tryAsk(tb.Context(), d, who, op, in)
	if err != nil && !errors.As(err, new(*api.Error)) {
		tb.Fatal(err)
	}
	return out, err
}

// tryAsk is ask of an appliance that may end before it answers: then the error is none of the operation's.
func tryAsk[In, Out any](ctx context.Context, d *desk, who *identity.Principal, op api.OpOf[In, Out], in *In) (*Out, error) {
	s := d.Gate().Session(ctx, identity.Always(who), "test")
	defer s.Close()
	body := op.In.AppendCBOR(nil, in)
	for c := s.Call(1); d.routes[op.Op].Serve(c, protocol.Native{}, body) != work.None; {
		c = s.Again(ctx, c.Ticket())
	}
	held := s.Flush(true)
	defer held.Release()
	b, err := held.Bytes(ctx)
	if err != nil {
		return nil, err
	}
	frame, _, _, err := protocol.Split(b, api.MaxReplyFrame)
	if err != nil {
		return nil, err
	}
	reply, err := protocol.ParseReply(frame)
	if err != nil {
		return nil, err
	}
	if err := reply.Err(); err != nil {
		return nil, err
	}
	out := new(Out)
	return out, op.Out.DecodeCBOR(bytes.Clone(reply.Body), out) // bytes of out alias it
}
