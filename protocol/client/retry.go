package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/api"
)

// Pauses before a call is repeated.
const (
	firstPause = 10 * time.Millisecond
	mostPause  = time.Second
)

// budget bounds how many calls a client repeats, whatever each may do alone: it
// begins with budgetPerConn for each connection, a repetition costs one, and of
// budgetRatio successes each group gives one back. So an appliance that refuses
// everything gets little more than what the program itself asks.
type budget struct {
	left atomic.Int64 // in parts of budgetRatio
	most int64
}

const (
	budgetPerConn = 2 * api.Window // all that can be under way may be lost twice
	budgetRatio   = 8
)

func (b *budget) fill(conns int) {
	b.most = int64(conns) * budgetPerConn * budgetRatio
	b.left.Store(b.most)
}

// earn counts a success.
func (b *budget) earn() {
	if b.left.Load() < b.most {
		b.left.Add(1)
	}
}

// spend takes a repetition, if there is one left.
func (b *budget) spend() bool {
	if b.left.Add(-budgetRatio) >= 0 {
		return true
	}
	b.left.Add(budgetRatio)
	return false
}

// again reports whether to repeat a call that failed with err on try number try+1,
// and waits before it.
func (c *Client) again(ctx context.Context, op *api.Op, try int, err error) bool {
	if try >= c.cfg.Retries || !repeatable(op, err) {
		return false
	}
	if _, notSent := errors.AsType[*dialError](err); !notSent && !c.budget.spend() { // connections have pauses of their own
		return false
	}
	return pause(ctx, try, err) == nil
}

// repeatable reports whether a call that failed with err can be made again: it
// was not carried out, or it may be carried out twice; and it may end otherwise.
func repeatable(op *api.Op, err error) bool {
	if _, distrusted := errors.AsType[*LogError](err); distrusted || errors.Is(err, ErrClosed) {
		return false
	}
	if notSent, ok := errors.AsType[*dialError](err); ok {
		return !notSent.permanent()
	}
	e, told := errors.AsType[*api.Error](err)
	if op.Flags&api.Idempotent == 0 {
		return told && e.Kind == api.KindThrottling && !errors.Is(err, ErrLost)
	}
	if errors.Is(err, ErrLost) { // with what the appliance said as it left, if it did
		return !told || e.Kind.Retryable() || e.Kind == api.KindRequestTimeout
	}
	return told && e.Kind.Retryable()
}

// pause waits before try number try+2: exponential from 10 ms to 1 s, with full
// jitter, but not less than the server asks for. Where ctx would end before the
// pause does, the error is at once: the caller has more of its time then.
func pause(ctx context.Context, try int, err error) error {
	d := jitter(min(firstPause<<min(try, 10), mostPause))
	if e, ok := errors.AsType[*api.Error](err); ok {
		d = max(d, e.RetryAfter)
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return context.DeadlineExceeded
	}
	return sleep(ctx, d)
}

// jitter returns a random time below most.
func jitter(most time.Duration) time.Duration { return rand.N(most) }

// sleep waits for d or the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
