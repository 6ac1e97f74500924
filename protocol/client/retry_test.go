package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol/client"
)

// throttles refuses all requests.
func throttles(asked func(), after time.Duration) func(c *peer) {
	return func(c *peer) {
		for r, ok := c.request(); ok; r, ok = c.request() {
			asked()
			c.refuse(r.ID, &api.Error{Kind: api.KindThrottling, RetryAfter: after})
		}
	}
}

// TestPausesGrow at random below 10 ms × 2^tries and a second, and are never shorter
// than the appliance asks for.
func TestPausesGrow(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 3 * time.Second} {
		var times []time.Time
		p := &pipes{serve: throttles(func() { times = append(times, time.Now()) }, after)}
		bubble(t, p, client.Config{Retries: 12}, func(t *testing.T, c *client.Client) {
			total := time.Duration(0)
			for range 20 {
				times = nil
				if err := create(t.Context(), c); api.KindOf(err) != api.KindThrottling || len(times) != 13 {
					t.Fatalf("got %v after %d tries", err, len(times))
				}
				for i := range times[1:] {
					d, most := times[i+1].Sub(times[i]), max(after, min(10*time.Millisecond<<i, time.Second))
					if d < after || d > most {
						t.Errorf("pause %d is %v, want %v to %v", i+1, d, after, most)
					}
					total += d
				}
			}
			if after == 0 && (total < 40*time.Second || total > 85*time.Second) { // 125 s at the most, so about 63 s
				t.Errorf("20 calls paused for %v in all: that is not random", total)
			}
		})
	}
}

// TestNobodyWaitsInVain: where the pause is longer than the caller has time, the
// error comes at once; and a caller that leaves during a pause is let go.
func TestNobodyWaitsInVain(t *testing.T) {
	t.Parallel()
	p := &pipes{serve: throttles(func() {}, time.Hour)}
	bubble(t, p, client.Config{}, func(t *testing.T, c *client.Client) {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := create(ctx, c); api.KindOf(err) != api.KindThrottling || time.Since(begun) > 0 {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		if err := create(ctx, c); api.KindOf(err) != api.KindThrottling || time.Since(begun) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
	})
}

// TestADeadApplianceIsNotHammered, however many call it: connections are made one
// at a time with pauses of up to a second between.
func TestADeadApplianceIsNotHammered(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*pipes{
		"refuses connections":     {fail: errors.New("connection refused")},
		"greets and goes":         {serve: func(*peer) {}},
		"takes requests and dies": {serve: func(c *peer) { c.request() }, window: 64},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const minutes = 10
			bubble(t, p, client.Config{}, func(t *testing.T, c *client.Client) {
				ctx, stop := context.WithTimeout(t.Context(), minutes*time.Minute)
				defer stop()
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() {
						for ctx.Err() == nil {
							if err := create(ctx, c); err == nil {
								t.Error("a dead appliance has answered")
							}
						}
					})
				}
				wg.Wait()
				if n := p.dials.Load(); n < minutes*60/2 || n > minutes*60*2+20 {
					t.Errorf("%d connections in %d minutes", n, minutes)
				}
			})
		})
	}
}

// TestRepetitionsHaveABudget: an appliance that refuses all is not asked much more
// often than the program asks, and what succeeds pays for further repetitions.
func TestRepetitionsHaveABudget(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	var healthy atomic.Bool
	p := &pipes{window: 64, serve: func(c *peer) {
		for r, ok := c.request(); ok; r, ok = c.request() {
			requests.Add(1)
			if healthy.Load() {
				c.answer(r.ID, "rose")
			} else {
				c.refuse(r.ID, &api.Error{Kind: api.KindThrottling})
			}
		}
	}}
	bubble(t, p, client.Config{}, func(t *testing.T, c *client.Client) {
		calls := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() { ask(t, c) })
			}
			wg.Wait()
		}
		calls(1000)
		if n := requests.Swap(0); n != 1000+client.BudgetOfConn {
			t.Errorf("1000 refused calls made %d requests, want %d more", n, client.BudgetOfConn)
		}
		calls(1000)
		if n := requests.Swap(0); n != 1000 {
			t.Errorf("1000 calls beyond the budget made %d requests", n)
		}
		healthy.Store(true)
		calls(10 * client.BudgetRatio)
		healthy.Store(false)
		requests.Store(0)
		calls(1000)
		if n := requests.Load(); n != 1010 {
			t.Errorf("after %d successes 1000 refused calls made %d requests, want 10 more", 10*client.BudgetRatio, n)
		}
		synctest.Wait()
	})
}
