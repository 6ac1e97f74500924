package appliance_test

import (
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// TestListSlots lists the one slot of an appliance, unlocked and locked, and the one that a rotation puts in its place.
func TestListSlots(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	first := oneSlot(t, r, true)
	if !first.Open || !first.InToken || first.Version != 1 || first.TokenKind != "soft" || first.TokenSerial == "" || first.Type != applianceapi.SlotToken {
		t.Errorf("a new appliance has the slot %+v", first)
	}
	if _, err := do(t, r.Operator, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{}); err != nil {
		t.Fatal(err)
	}
	second := oneSlot(t, r, true)
	if second.SlotId == first.SlotId || second.Version != 2 || !second.Open {
		t.Errorf("a rotation has put %+v in the place of %+v", second, first)
	}
	r.Restart(func(cfg *rack.Config) { cfg.Locked = true })
	second.Open = false
	if locked := oneSlot(t, r, false); locked != second {
		t.Errorf("locked, the slot is %+v, was %+v", locked, second)
	}
}

// TestListSlotsIsTheOperators refuses everybody else.
func TestListSlotsIsTheOperators(t *testing.T) {
	t.Parallel()
	_, err := do(t, racktest.Start(t).Client, applianceapi.ListSlots, &applianceapi.ListSlotsRequest{})
	wantError(t, "ListSlots", err, api.KindAccessDenied, "")
}

// oneSlot returns the only slot.
func oneSlot(t *testing.T, r *racktest.Rack, authentic bool) applianceapi.Slot {
	t.Helper()
	out, err := do(t, r.Operator, applianceapi.ListSlots, &applianceapi.ListSlotsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Slots) != 1 || out.Authentic != authentic {
		t.Fatalf("ListSlots returned %+v", out)
	}
	return out.Slots[0]
}
