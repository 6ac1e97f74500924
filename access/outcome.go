package access

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// told is what callers are told of errors that the parts below a method return:
// the first whose cause is wrapped counts. Everything else is [api.Internal].
// An answer that wants the operator keeps the error for the log.
var told = []struct {
	cause  error
	answer api.Error
	log    bool
}{
	{keystore.ErrLocked, api.Error{Kind: api.KindUnavailable, Reason: "locked",
		Message: "the appliance is locked: its operator must unlock it with keyrack unlock"}, false},
	{keystore.ErrDamaged, api.Error{Kind: api.KindInternal, Reason: "store-damaged",
		Message: "the appliance refused to use what it read, because it is not what it wrote; its operator must run keyrack check"}, true},
	{keystore.ErrFull, api.Error{Kind: api.KindUnavailable, Reason: "store",
		Message: "the appliance's store has no space left, so nothing was changed; its operator must make room"}, true},
	{context.DeadlineExceeded, overdue, false},
	{context.Canceled, overdue, false},
}

var overdue = api.Error{Kind: api.KindUnavailable, Reason: "timeout",
	Message: "the request waited too long for the store or the token; try again"}

// outcome returns what the caller is told: nil only for a success that the
// door consented to, else an error of a kind.
func (c *Call) outcome(err error) *api.Error {
	e := api.AsError(err)
	if e == nil {
		e = c.unadmitted()
	}
	if e != nil && e.Kind == api.KindInternal && e.Reason == "" {
		e = c.explain(e)
	}
	if e != nil && !e.Kind.Valid() {
		e = api.Internal(fmt.Errorf("%s answered with an error of no kind: %w", c.op, err))
	}
	return e
}

// explain finds the words for an internal error, and counts those that are for
// [Gate.Warnings].
func (c *Call) explain(e *api.Error) *api.Error {
	for _, t := range told {
		if !errors.Is(e.Err, t.cause) {
			continue
		}
		if t.cause == keystore.ErrDamaged {
			c.session.gate.damaged.Add(1)
		}
		answer := t.answer
		if t.log {
			answer.Err = e.Err
		}
		return &answer
	}
	return e
}

// unadmitted returns an error unless the door was asked and always consented.
func (c *Call) unadmitted() *api.Error {
	if c.asked && !c.denied {
		return nil
	}
	return api.Internal(fmt.Errorf("%s goes on without being admitted", c.op))
}

// Warnings returns what an operator should know of the calls so far. The log
// has each of them, with the row.
func (g *Gate) Warnings() []string {
	switch n := g.damaged.Load(); n {
	case 0:
		return nil
	case 1:
		return []string{"1 read was refused because the store was edited or is damaged: run keyrack check"}
	default:
		return []string{fmt.Sprintf("%d reads were refused because the store was edited or is damaged: run keyrack check", n)}
	}
}
