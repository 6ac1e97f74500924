package domain_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/hsm"
)

// planningToken is a token that can plan, and makes no other keys.
type planningToken struct {
	*liveToken
	mu    sync.Mutex
	plans map[string][]byte // blob of the key that was made, nil before
}

var errUnplanned = errors.New("a key that was not planned")

func (t *planningToken) Generate(context.Context, hsm.Spec) (hsm.Key, []byte, error) {
	return nil, nil, errUnplanned
}

func (t *planningToken) Plan(context.Context, hsm.Spec) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	plan := fmt.Append(nil, "plan ", rand.Text())
	t.plans[string(plan)] = nil
	return plan, nil
}

func (t *planningToken) Make(ctx context.Context, spec hsm.Spec, plan []byte) (hsm.Key, []byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if made, ok := t.plans[string(plan)]; !ok || made != nil {
		return nil, nil, hsm.ErrBlob
	}
	k, blob, err := t.liveToken.Generate(ctx, spec)
	t.plans[string(plan)] = blob
	return k, blob, err
}

func (t *planningToken) Destroy(ctx context.Context, blob []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if made, ok := t.plans[string(blob)]; ok {
		delete(t.plans, string(blob)) // nobody asks for it again, and nobody makes it
		if blob = made; blob == nil {
			return hsm.ErrBlob
		}
	}
	return t.liveToken.Destroy(ctx, blob)
}

// crashPlanner is a token that can plan under a crasher.
type crashPlanner struct {
	crashToken
	hsm.Planner
}

func (t crashPlanner) Make(ctx context.Context, spec hsm.Spec, plan []byte) (k hsm.Key, blob []byte, err error) {
	err = t.c.call("Make", func() (err error) {
		k, blob, err = t.Planner.Make(ctx, spec, plan)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return crashRoot{k, k.(hsm.PRF), t.c}, blob, nil
}

// TestARootThatWasPlannedIsNotLost: wherever a machine stops in a rotation, and whatever fails in it, the token has one root in the end.
func TestARootThatWasPlannedIsNotLost(t *testing.T) {
	t.Parallel()
	for way := range 4 {
		calls := map[string]int{}
		for at := 1; ; at++ {
			stop := &crasher{at: at, after: way&1 != 0, once: way&2 != 0}
			if !stopPlanned(t, stop) {
				break
			}
			calls[stop.last]++
		}
		if calls["Make"] != 1 || calls["Update"] < 7 || calls["Destroy"] != 1 {
			t.Errorf("stopped at %v", calls)
		}
	}
}

// stopPlanned rotates until c stops it, recovers, and reports whether c has stopped it.
func stopPlanned(t *testing.T, c *crasher) bool {
	t.Helper()
	r := newRack(t)
	live := r.token.(*liveToken)
	r.token = &planningToken{liveToken: live, plans: map[string][]byte{}}
	err := r.crashing(t, c).rotateAndFinish(t.Context())
	if errors.Is(err, errUnplanned) || (err != nil && c.last == "") {
		t.Fatal(err)
	}
	again := r.reopen(t)
	again.finish(t)
	again.readAll(t)
	used, retired := blobs(t, r.store)
	if got := live.blobs(); !slices.Equal(got, used) || len(retired) != 0 {
		t.Errorf("stopped at call %d, %s: the token has %d roots, the store %d and %d retired", c.at, c.last, len(got), len(used), len(retired))
	}
	return c.last != ""
}
