package appliance

import (
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/work"
)

// Time is how an unlocked appliance's time is.
type Time struct {
	Wall     time.Time     // what the system's clock says
	Accepted time.Time     // what is believed
	Floor    time.Time     // of that, what is stored
	Leash    time.Time     // the latest that Wall may be
	Beyond   bool          // it is later, and not believed
	Powered  time.Duration // unlocked in all the appliance's life
}

// GetClock says how the appliance's time is.
func (s *Service) GetClock(c *access.Call, _ *applianceapi.GetClockRequest, out *applianceapi.GetClockResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	now, ok := s.Time()
	if !ok {
		return errLocked
	}
	*out = applianceapi.GetClockResponse{
		SystemClock: api.TimeOf(now.Wall), AcceptedTime: api.TimeOf(now.Accepted), Floor: api.TimeOf(now.Floor),
		Leash: api.TimeOf(now.Leash), Believed: !now.Beyond, PoweredSeconds: int64(now.Powered / time.Second),
	}
	return nil
}

// AcceptClock makes what the system's clock says the time that the appliance believes,
// and says what becomes due by that. With Preview it only says so.
//
// Errors: AccessDenied, KMSInvalidState (the clock is behind the time that was reached, or the
// appliance is locked).
func (s *Service) AcceptClock(c *access.Call, in *applianceapi.AcceptClockRequest, out *applianceapi.AcceptClockResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	now, ok := s.Time()
	if !ok {
		return errLocked
	}
	until := now.Accepted
	if now.Wall.After(until) {
		until = now.Wall
	}
	due, err := s.Due(c.Context(), until)
	if err != nil {
		return told("read what is due", err)
	}
	before := now.Accepted
	if !in.Preview {
		if before, until, err = s.AcceptTime(c); err != nil {
			return err
		}
	}
	out.Before, out.AcceptedTime, out.Due = api.TimeOf(before), api.TimeOf(until), due
	return nil
}
