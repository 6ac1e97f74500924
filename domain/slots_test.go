package domain_test

import (
	"testing"

	"github.com/keyrack/keyrack/domain"
)

// TestSlots lists the slot of a store with its token, unlocked and locked, and with one that is not its own.
func TestSlots(t *testing.T) {
	t.Parallel()
	k, store, token := create(t)
	for name, c := range map[string]struct {
		k          *domain.Keyring
		here, open bool
	}{
		"unlocked":      {k, true, true},
		"locked":        {open(t, store, token), true, false},
		"another token": {open(t, store, newToken(t)), false, false},
		"another kind":  {open(t, store, otherKind{token}), false, false},
	} {
		all, authentic, err := c.k.Slots(t.Context())
		if err != nil || authentic != c.open || len(all) != 1 {
			t.Errorf("%s: Slots() = %v, %t, %v", name, all, authentic, err)
			continue
		}
		if s := all[0]; s.Here != c.here || s.Open != c.open || s.Version != 1 || s.Kind != "soft" || s.ID == ([16]byte{}) {
			t.Errorf("%s: the slot is %+v", name, s)
		}
	}
}
