package rack

import "github.com/keyrack/keyrack/api/applianceapi"

// Lock asks for the end of this process, because that is the only way to take from memory
// what was expanded from keys: [Appliance.Ended] is closed, and whoever runs the appliance
// closes it, which sends the answers that are due, and starts it again locked.
func (a *Appliance) Lock() {
	a.ending.Do(func() {
		a.tell(applianceapi.Locked)
		close(a.ended)
	})
}

// tell says how the appliance is now. The end of an Unlock that a Lock has overtaken is no news:
// what comes behind this process, however it ends, is locked.
func (a *Appliance) tell(s applianceapi.State) {
	a.telling.Lock()
	defer a.telling.Unlock()
	if !a.locking {
		a.locking = s == applianceapi.Locked
		a.cfg.OnState(a, s)
	}
}

// Ended is closed when the operator has locked the appliance.
func (a *Appliance) Ended() <-chan struct{} { return a.ended }
