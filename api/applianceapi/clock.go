package applianceapi

import "github.com/keyrack/keyrack/api"

// GetClockRequest asks how the appliance's time is. It has no members.
type GetClockRequest struct{}

// GetClockResponse says how the appliance's time is. What is due is done by
// AcceptedTime, and only while the clock is Believed.
type GetClockResponse struct {
	SystemClock    api.Time `n:"1"`               // what the machine's clock says
	AcceptedTime   api.Time `n:"2"`               // what the appliance believes
	Floor          api.Time `n:"3"`               // the latest accepted time that is stored: no start begins before it
	Leash          api.Time `n:"4"`               // the latest that the machine's clock may say now and be believed
	Believed       bool     `n:"5" rule:"always"` // it is
	PoweredSeconds int64    `n:"6" rule:"always"` // for how long the appliance has been unlocked, in all its life
}

// AcceptClockRequest makes what the machine's clock says the time that the appliance
// believes, or with Preview only says what that would do.
type AcceptClockRequest struct {
	Preview bool `n:"1" audit:"show"`
}

// AcceptClockResponse says what was believed before and is now, and what becomes due by
// that, one sentence each, at most 100.
type AcceptClockResponse struct {
	Before       api.Time `n:"1" audit:"show"`
	AcceptedTime api.Time `n:"2" audit:"show"`
	Due          []string `n:"3"`
}
