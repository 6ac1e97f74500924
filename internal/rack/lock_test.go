package rack_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// TestLockOvertakesUnlock locks an appliance that began locked and whose Unlock is not over: no more is told,
// whatever becomes of the Unlock. A supervisor would start the next one unlocked otherwise.
func TestLockOvertakesUnlock(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []applianceapi.State
	r := racktest.Start(t, racktest.OnDisk)
	r.Restart(func(cfg *rack.Config) {
		cfg.Locked = true
		cfg.OnState = func(_ *rack.Appliance, s applianceapi.State) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, s)
		}
	})
	a := r.Appliance
	a.Lock()
	if err := a.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(told, []applianceapi.State{applianceapi.Locked, applianceapi.Locked}) {
		t.Errorf("told %v", told)
	}
}
