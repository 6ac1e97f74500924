// Package appliance is the operations on the appliance itself: how it is, and
// what its audit log says. They are the operator's, but for the log's
// checkpoints and proofs, which are everybody's who is registered.
//
// Read first: [Service]; status.go; audit.go.
//
// It knows no keys and no wires.
package appliance

import (
	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
)

// Config is what a Service tells about. All members are required.
type Config struct {
	Log         *audit.Log
	AuditKey    string // verifier key of the log's checkpoints, C2SP signed-note form
	ID          string // UUID
	Version     string
	ServerKey   string // sha256:…
	Token       string // what holds the root, for people
	Started     api.Time
	State       func() applianceapi.State
	Connections func() int
	Warnings    func() []string
}

// Service answers the appliance's operations. Safe for concurrent use.
type Service struct{ Config }

// New returns a service.
func New(cfg Config) *Service { return &Service{cfg} }

// Routes returns the service's operations behind the gate.
func (s *Service) Routes(g *access.Gate) []access.Route {
	return []access.Route{
		access.Handle(g, applianceapi.GetStatus, s.GetStatus),
		access.Handle(g, applianceapi.ListAuditRecords, s.ListAuditRecords),
		access.Handle(g, applianceapi.GetAuditCheckpoint, s.GetAuditCheckpoint),
		access.Handle(g, applianceapi.GetAuditConsistency, s.GetAuditConsistency),
	}
}
