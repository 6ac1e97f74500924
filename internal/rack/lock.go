package rack

import "github.com/keyrack/keyrack/api/applianceapi"

// Lock asks for the end of this process, because that is the only way to take from memory
// what was expanded from keys: [Appliance.Ended] is closed, and whoever runs the appliance
// closes it, which sends the answers that are due, and starts it again locked.
func (a *Appliance) Lock() {
	a.ending.Do(func() {
		a.cfg.OnState(a, applianceapi.Locked)
		close(a.ended)
	})
}

// Ended is closed when the operator has locked the appliance.
func (a *Appliance) Ended() <-chan struct{} { return a.ended }
