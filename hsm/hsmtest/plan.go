package hsmtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/hsm"
)

// planned: a plan ends the key that was made of it, in this process or a later one, and no other; nobody can load it.
func (s suite) planned(t *testing.T) {
	reopen := s.fresh(t)
	p := open(t, reopen)
	other, _ := generate(t, p, hsm.PRFSHA256)
	for _, spec := range p.Describe().Specs {
		plan := planOf(t, p, spec)
		if k, err := p.Load(t.Context(), plan); !errors.Is(err, hsm.ErrBlob) {
			t.Errorf("%v: Load of a plan returned %v, %v", spec, k, err)
		}
		if err := p.Destroy(t.Context(), plan); err != nil && !errors.Is(err, hsm.ErrBlob) {
			t.Errorf("%v: Destroy of a plan alone returned %v", spec, err)
		}
		k, blob, err := p.(hsm.Planner).Make(t.Context(), spec, plan)
		if err != nil {
			t.Fatalf("Make of %v: %v", spec, err)
		}
		if err := call(t, k); err != nil || k.Spec() != spec {
			t.Errorf("%v: a key that was planned: %v, %v", spec, k.Spec(), err)
		}
		if k, _, err := p.(hsm.Planner).Make(t.Context(), spec, plan); err == nil {
			t.Errorf("%v: made twice: %v", spec, k)
		}
		load(t, p, blob)
		closed(t, p)
		p = open(t, reopen)
		mustDestroy(t, p, plan)
		gone(t, p, blob)
	}
	closed(t, p)
	if err := call(t, other); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("a key of a closed token: %v", err)
	}
}

// badPlans: what is no plan of this token for this spec makes no key.
func (s suite) badPlans(t *testing.T) {
	p := open(t, s.fresh(t))
	good := planOf(t, p, hsm.PRFSHA256)
	_, blob := generate(t, p, hsm.PRFSHA256)
	damaged := slices.Clone(good)
	damaged[1] ^= 1
	for name, plan := range map[string][]byte{
		"none": nil, "garbage": bytes.Repeat([]byte{7}, 40), "cut": good[:len(good)-1], "damaged": damaged,
		"another token's": planOf(t, open(t, s.fresh(t)), hsm.PRFSHA256), "a key's": blob,
	} {
		if k, made, err := p.(hsm.Planner).Make(t.Context(), hsm.PRFSHA256, plan); err == nil || k != nil || made != nil {
			t.Errorf("%s: Make returned %v, %x, %v", name, k, made, err)
		}
	}
	load(t, p, blob)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, none := p.(hsm.Planner).Plan(done, hsm.PRFSHA256)
	_, _, nor := p.(hsm.Planner).Make(done, hsm.PRFSHA256, good)
	if !errors.Is(none, context.Canceled) || !errors.Is(nor, context.Canceled) {
		t.Errorf("cancelled: %v, %v", none, nor)
	}
	if _, err := p.(hsm.Planner).Plan(t.Context(), 99); !errors.Is(err, hsm.ErrSpec) {
		t.Errorf("a plan of an unknown spec: %v", err)
	}
	closed(t, p)
	_, none = p.(hsm.Planner).Plan(t.Context(), hsm.PRFSHA256)
	_, _, nor = p.(hsm.Planner).Make(t.Context(), hsm.PRFSHA256, good)
	if !errors.Is(none, hsm.ErrClosed) || !errors.Is(nor, hsm.ErrClosed) {
		t.Errorf("closed: %v, %v", none, nor)
	}
}

func planOf(t *testing.T, p hsm.Provider, spec hsm.Spec) []byte {
	t.Helper()
	plan, err := p.(hsm.Planner).Plan(t.Context(), spec)
	if err != nil {
		t.Fatalf("Plan of %v: %v", spec, err)
	}
	return plan
}
