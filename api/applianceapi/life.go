package applianceapi

import "github.com/keyrack/keyrack/api"

// UnlockRequest asks for the domain key to be opened with the token. It has no members.
type UnlockRequest struct{}

// UnlockResponse says that the appliance serves.
type UnlockResponse struct {
	State State `n:"1" audit:"show"`
}

// LockRequest asks for every key to leave memory. It has no members.
type LockRequest struct{}

// LockResponse is sent before the process that held the keys ends; another one
// takes its place, locked. It has no members.
type LockResponse struct{}

// RotateDomainKeyRequest asks for a new root in the token and a new version of
// the domain key. It has no members.
type RotateDomainKeyRequest struct{}

// RotateDomainKeyResponse is sent when no copy of an old slot opens any more.
// Records are wrapped anew in the background from then on; Rotating in
// [GetStatusResponse] says until when.
type RotateDomainKeyResponse struct {
	Version int64 `n:"1" audit:"show"` // of the new domain key
}

// ShredDeletedKeysRequest asks that no older copy of the data folder lead to a key that
// was destroyed, now and not within the day. It has no members.
type ShredDeletedKeysRequest struct{}

// ShredDeletedKeysResponse is sent when that is so.
type ShredDeletedKeysResponse struct {
	Keys    int64 `n:"1" rule:"always" audit:"show"` // that were destroyed and not shredded before
	Version int64 `n:"2" audit:"show"`               // of the domain key
}

// CheckRecordsRequest starts a check of every record in the background, unless
// one is running, or with Report only asks how the last one is.
type CheckRecordsRequest struct {
	Report bool `n:"1" audit:"show"`
}

// CheckRecordsResponse says how the last check since the appliance was started
// is. Without one all its members are absent.
type CheckRecordsResponse struct {
	State      CheckState `n:"1" audit:"show"`
	Done       int64      `n:"2" rule:"always"` // steps, of
	Total      int64      `n:"3" rule:"always"` // those known so far
	Problems   []string   `n:"4"`               // one sentence each, at most 100; FAILED has one at least
	Generation int64      `n:"5"`               // of the records that were checked
	StartTime  api.Time   `n:"6"`               // when it began
}

// CheckState is how a check of the records is.
type CheckState uint8

// The states of a check.
const (
	CheckRunning CheckState = 1
	CheckPassed  CheckState = 2
	CheckFailed  CheckState = 3
)

var checkStates = api.Names{"RUNNING", "PASSED", "FAILED"}

// Names returns the closed list.
func (CheckState) Names() api.Names { return checkStates }

// String returns the state's name.
func (s CheckState) String() string { return checkStates.Name(uint8(s)) }
