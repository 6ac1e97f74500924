package hsm_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
)

func TestSetOpensByName(t *testing.T) {
	t.Parallel()
	broken := errors.New("no such device")
	openers := map[string]hsm.Opener{
		"main":  func(context.Context) (hsm.Provider, error) { return soft.Memory() },
		"other": func(context.Context) (hsm.Provider, error) { return nil, broken },
	}
	set := hsm.NewSet(openers)
	delete(openers, "main")
	if got := set.Names(); !slices.Equal(got, []string{"main", "other"}) {
		t.Errorf("Names() = %q", got)
	}
	p, err := set.Open(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := set.Open(t.Context(), "other"); !errors.Is(err, broken) {
		t.Errorf("a broken token returned %v", err)
	}
	if _, err := set.Open(t.Context(), "main "); !errors.Is(err, hsm.ErrUnknown) {
		t.Errorf("an unknown name returned %v", err)
	}
	if _, err := (hsm.Set{}).Open(t.Context(), ""); !errors.Is(err, hsm.ErrUnknown) {
		t.Errorf("the empty set returned %v", err)
	}
}

func TestAbilities(t *testing.T) {
	t.Parallel()
	both := hsm.CanPRF | hsm.CanSign
	if !both.Has(hsm.CanPRF) || hsm.CanPRF.Has(both) || hsm.CanPRF.Has(hsm.CanSign) {
		t.Error("Has is not set inclusion")
	}
	if got := both.String(); got != "prf,sign" {
		t.Errorf("String() = %q", got)
	}
	if got := hsm.Spec(0).String(); got != "spec 0" {
		t.Errorf("String() = %q", got)
	}
}
