// Package appliance is the operations on the appliance itself: how it is, what
// its audit log says, its life between locked and unlocked. They are the operator's,
// but for the log's checkpoints and proofs, which are everybody's who is registered.
//
// Read first: [Service]; [Config], what it acts on; life.go; status.go.
//
// It knows no keys and no wires.
package appliance

import (
	"context"
	"sync"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
)

// Config is what a Service tells about and acts on. All members are required;
// the functions are safe for concurrent use.
type Config struct {
	Log         *audit.Log
	AuditKey    string // verifier key of the log's checkpoints, C2SP signed-note form
	ID          string // UUID
	Version     string
	ServerKey   string // sha256:…
	Token       string // what holds the root, for people
	Started     api.Time
	State       func() applianceapi.State
	Address     func() string // host:port of the TLS listener; "" while there is none
	Records     func() Records
	Connections func() int
	Warnings    func() []string

	// Unlock returns when the appliance serves; at once if it does already.
	Unlock func(context.Context) error
	// Lock only asks for the end of the process and returns at once. Whoever runs
	// the appliance then stops it, and stopping sends the answers that are due: the
	// one to this request, too.
	Lock func()
	// Rotate returns when no copy of an old slot opens any more.
	Rotate func(context.Context) error
	// Checks are the parts of CheckRecords. They run one after the other.
	Checks []Check
	// Slots returns the ways to the domain key, also of a locked appliance.
	Slots func(context.Context) (applianceapi.ListSlotsResponse, error)

	// Time says how the time is; ok is false while the appliance is locked.
	Time func() (now Time, ok bool)
	// AcceptTime makes the system's clock the time that is believed, in an update of the call.
	AcceptTime func(*access.Call) (before, now time.Time, err error)
	// Due says what is to be done by itself up to a time: one sentence each, at most 100.
	Due func(ctx context.Context, until time.Time) ([]string, error)
	// Shred returns when no older copy of the data folder leads to a key that is destroyed, and how many
	// keys that concerned.
	Shred func(context.Context) (int, error)
}

// Records is how the sealed records are. The zero value says that they cannot
// be reached.
type Records struct {
	KeyVersion    uint32 // of the domain key, the newest
	Rotating      bool   // some buckets are still wrapped under an earlier one
	Generation    uint64
	Buckets, Rows int
	Principals    int // clients that may call
}

// Service answers the appliance's operations. Safe for concurrent use.
type Service struct {
	Config
	check checkup
	life  chan struct{} // held by who unlocks or rotates

	mu     sync.Mutex
	moving bool // guarded by mu; an Unlock is under way
	ending bool // guarded by mu; the process has been asked to end
}

// New returns a service. Its [Service.StopChecks] comes before the end of what
// the checks look at.
func New(cfg Config) *Service { return &Service{Config: cfg, life: make(chan struct{}, 1)} }

// Routes returns the service's operations behind the gate.
func (s *Service) Routes(g *access.Gate) []access.Route {
	return append(s.always(g),
		access.Handle(g, applianceapi.RotateDomainKey, s.RotateDomainKey),
		access.Handle(g, applianceapi.CheckRecords, s.CheckRecords),
		access.Handle(g, applianceapi.GetClock, s.GetClock),
		access.Handle(g, applianceapi.AcceptClock, s.AcceptClock),
		access.Handle(g, applianceapi.ShredDeletedKeys, s.ShredDeletedKeys),
	)
}

// LockedRoutes returns the operations that are served while the appliance is
// locked; the operator's others are there to say so.
func (s *Service) LockedRoutes(g *access.Gate) []access.Route {
	return append(s.always(g),
		access.Handle(g, applianceapi.RotateDomainKey, refuse),
		access.Handle(g, applianceapi.CheckRecords, refuse),
		access.Handle(g, applianceapi.GetClock, refuse),
		access.Handle(g, applianceapi.AcceptClock, refuse),
		access.Handle(g, applianceapi.ShredDeletedKeys, refuse),
		access.Handle(g, applianceapi.AddPrincipal, refuse),
		access.Handle(g, applianceapi.ListPrincipals, refuse),
		access.Handle(g, applianceapi.RemovePrincipal, refuse),
	)
}

// always returns the operations that need no key.
func (s *Service) always(g *access.Gate) []access.Route {
	return []access.Route{
		access.Handle(g, applianceapi.GetStatus, s.GetStatus),
		access.Handle(g, applianceapi.ListAuditRecords, s.ListAuditRecords),
		access.Handle(g, applianceapi.SearchAuditRecords, s.SearchAuditRecords),
		access.Handle(g, applianceapi.GetAuditCheckpoint, s.GetAuditCheckpoint),
		access.Handle(g, applianceapi.GetAuditConsistency, s.GetAuditConsistency),
		access.Handle(g, applianceapi.Unlock, s.Unlock),
		access.Handle(g, applianceapi.Lock, s.Lock),
		access.Handle(g, applianceapi.ListSlots, s.ListSlots),
	}
}

// refuse answers an operation that needs the domain key while it is not there.
func refuse[In, Out any](c *access.Call, _ *In, _ *Out) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	return errLocked
}
