// Package applianceapi is the vocabulary of the appliance itself: the
// operations under keyrack: that no cloud has a word for.
//
// Read first: [Operations]; [GetStatusResponse]; [AddPrincipalRequest].
//
// They concern the whole appliance, never a tenant, so only the operator may
// call them: whoever reaches the local Unix socket as root or as the service's
// own user. The audit log's checkpoints and proofs are every principal's: they
// show no record, and who keeps them can tell whether the log was rewritten.
package applianceapi

import "github.com/keyrack/keyrack/api"

// The operations of the appliance.
var (
	GetStatus           = api.Define[GetStatusRequest, GetStatusResponse](api.Appliance, "GetStatus", 1, api.ReadOnly|api.Idempotent)
	ListAuditRecords    = api.Define[ListAuditRecordsRequest, ListAuditRecordsResponse](api.Appliance, "ListAuditRecords", 2, api.ReadOnly|api.Idempotent)
	GetAuditCheckpoint  = api.Define[GetAuditCheckpointRequest, GetAuditCheckpointResponse](api.Appliance, "GetAuditCheckpoint", 3, api.ReadOnly|api.Idempotent)
	GetAuditConsistency = api.Define[GetAuditConsistencyRequest, GetAuditConsistencyResponse](api.Appliance, "GetAuditConsistency", 4, api.ReadOnly|api.Idempotent)
	Unlock              = api.Define[UnlockRequest, UnlockResponse](api.Appliance, "Unlock", 5, 0) // not to be repeated: a token counts wrong PINs
	Lock                = api.Define[LockRequest, LockResponse](api.Appliance, "Lock", 6, api.Idempotent)
	RotateDomainKey     = api.Define[RotateDomainKeyRequest, RotateDomainKeyResponse](api.Appliance, "RotateDomainKey", 7, 0)
	CheckRecords        = api.Define[CheckRecordsRequest, CheckRecordsResponse](api.Appliance, "CheckRecords", 8, api.ReadOnly|api.Idempotent)
	AddPrincipal        = api.Define[AddPrincipalRequest, AddPrincipalResponse](api.Appliance, "AddPrincipal", 9, 0)
	ListPrincipals      = api.Define[ListPrincipalsRequest, ListPrincipalsResponse](api.Appliance, "ListPrincipals", 10, api.ReadOnly|api.Idempotent)
	RemovePrincipal     = api.Define[RemovePrincipalRequest, RemovePrincipalResponse](api.Appliance, "RemovePrincipal", 11, 0)
	SearchAuditRecords  = api.Define[SearchAuditRecordsRequest, SearchAuditRecordsResponse](api.Appliance, "SearchAuditRecords", 12, api.ReadOnly|api.Idempotent)
	ListSlots           = api.Define[ListSlotsRequest, ListSlotsResponse](api.Appliance, "ListSlots", 13, api.ReadOnly|api.Idempotent)
	GetClock            = api.Define[GetClockRequest, GetClockResponse](api.Appliance, "GetClock", 14, api.ReadOnly|api.Idempotent)
	AcceptClock         = api.Define[AcceptClockRequest, AcceptClockResponse](api.Appliance, "AcceptClock", 15, 0)
	ShredDeletedKeys    = api.Define[ShredDeletedKeysRequest, ShredDeletedKeysResponse](api.Appliance, "ShredDeletedKeys", 16, api.Idempotent)
)

// Operations returns the rows of this package.
func Operations() []*api.Op {
	return []*api.Op{
		GetStatus.Op, ListAuditRecords.Op, GetAuditCheckpoint.Op, GetAuditConsistency.Op,
		Unlock.Op, Lock.Op, RotateDomainKey.Op, CheckRecords.Op,
		AddPrincipal.Op, ListPrincipals.Op, RemovePrincipal.Op,
		SearchAuditRecords.Op, ListSlots.Op, GetClock.Op, AcceptClock.Op, ShredDeletedKeys.Op,
	}
}

// GetStatusRequest asks how the appliance is. It has no members.
type GetStatusRequest struct{}

// GetStatusResponse says how the appliance is. While it is locked, nobody knows
// how its records are: the members from Address on are absent.
type GetStatusResponse struct {
	ApplianceId     string   `n:"1"` // UUID, made at init
	Version         string   `n:"2"`
	State           State    `n:"3"`
	StartTime       api.Time `n:"4"`
	ServerKey       string   `n:"5"` // sha256:<64 hex digits> of the server's public key
	Token           string   `n:"6"` // what holds the root, for people
	AuditRecords    int64    `n:"7" rule:"always"`
	AuditDurability string   `n:"8"` // "synced" or "written"
	Connections     int64    `n:"9" rule:"always"`
	CPUMicros       int64    `n:"10" rule:"always"` // of the process since its start, user and system
	Allocations     int64    `n:"11" rule:"always"` // heap objects since the start
	AllocatedBytes  int64    `n:"12" rule:"always"` // of them
	Warnings        []string `n:"13"`               // what an operator should change, one sentence each

	Address          string `n:"14"` // host:port of the native protocol's TLS listener
	DomainKeyVersion int64  `n:"15"` // the newest, from 1
	Rotating         bool   `n:"16"` // records of an earlier version are being wrapped anew
	Generation       int64  `n:"17"` // of the records: one more for every commit
	Buckets          int64  `n:"18"` // in use, of 65,536
	Rows             int64  `n:"19"` // sealed records
	Principals       int64  `n:"20"` // clients that may call
}

// State is whether the domain key is in memory.
type State uint8

// The states.
const (
	Locked   State = 1
	Unlocked State = 2
)

var states = api.Names{"LOCKED", "UNLOCKED"}

// Names returns the closed list.
func (State) Names() api.Names { return states }

// String returns the state's name.
func (s State) String() string { return states.Name(uint8(s)) }

// ListAuditRecordsRequest asks for records of the audit log in their order.
// From is a position: 0 is the log's first record. A negative From counts from
// the end: -10 asks for the last ten.
type ListAuditRecordsRequest struct {
	From  int64 `n:"1" audit:"show" rule:"range=-1000000:9007199254740991"`
	Limit int64 `n:"2" audit:"show" rule:"range=0:1000"` // 0 = 100
}

// ListAuditRecordsResponse holds durable records. An answer with no records
// means there are none behind From yet.
type ListAuditRecordsResponse struct {
	From    int64      `n:"1" rule:"always"` // position of the first one
	Records []api.Blob `n:"2"`               // audit/FORMAT.md, "Record"
	Next    int64      `n:"3" rule:"always"` // position behind the last one
}

// SearchAuditRecordsRequest asks for the records from position From to before Until for which all
// that follows holds; an absent member holds for every record. Until 0, or one that is beyond the
// log's end, is the end.
type SearchAuditRecordsRequest struct {
	From  int64 `n:"1" audit:"show" rule:"range=0:9007199254740991"`
	Until int64 `n:"2" audit:"show" rule:"range=0:9007199254740991"`
	Limit int64 `n:"3" audit:"show" rule:"range=0:1000"` // 0 = 100

	After      api.Time `n:"4" audit:"show"`                                // recorded then or later
	Before     api.Time `n:"5" audit:"show"`                                // recorded earlier than then
	Operations []int64  `n:"6" audit:"show" rule:"items=0:99,each=0:65535"` // wire numbers; 0 is a connection without a request
	Errors     []int64  `n:"7" audit:"show" rule:"items=0:99,each=0:65535"` // numbers of error kinds; 0 is success
	Who        []string `n:"8" audit:"show" rule:"items=0:16,each=1:2048"`  // a principal's ARN, the name that ends it, or sha256:<64 hex digits> of a client's key
	Resource   string   `n:"9" audit:"show" rule:"len=0:2048"`              // an ARN, or what ends it: a key id, alias/NAME
	Source     string   `n:"10" audit:"show" rule:"len=0:256"`              // an IP address, or what a record's source begins with
	RequestId  int64    `n:"11" audit:"show" rule:"range=0:9223372036854775807"`
}

// SearchAuditRecordsResponse holds what was found from From on to before Next, where to go on.
// One answer looks through part of the log only: it may have found nothing before Until.
type SearchAuditRecordsResponse struct {
	Records   []api.Blob `n:"1"`               // audit/FORMAT.md, "Record"
	Positions []int64    `n:"2"`               // of each of them
	Next      int64      `n:"3" rule:"always"` // the first that was not looked at
	Until     int64      `n:"4" rule:"always"` // where the search ends
	Read      int64      `n:"5" rule:"always"` // records looked at; those of files of another time are not
	Earliest  api.Time   `n:"6"`               // of them
	Latest    api.Time   `n:"7"`
}

// GetAuditCheckpointRequest asks for the newest signed checkpoint. It has no members.
type GetAuditCheckpointRequest struct{}

// GetAuditCheckpointResponse holds the newest checkpoint, a C2SP signed note,
// and the verifier key of its signature in the form of the same specification.
type GetAuditCheckpointResponse struct {
	Checkpoint string `n:"1"`
	Key        string `n:"2"`
}

// GetAuditConsistencyRequest asks for a proof that the log of the newest
// checkpoint extends the log of OldSize records.
type GetAuditConsistencyRequest struct {
	OldSize int64 `n:"1" rule:"required,range=0:9007199254740991" audit:"show"`
}

// GetAuditConsistencyResponse holds a checkpoint and the hashes of an RFC 6962
// §2.1.2 consistency proof from OldSize to its size, 32 bytes each.
type GetAuditConsistencyResponse struct {
	Checkpoint string     `n:"1"`
	Proof      []api.Blob `n:"2"`
}
