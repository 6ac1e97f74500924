// Package iam is who may call: the principals on disk, and the directory of
// them that the door asks for every request.
//
// Read first: [Service]; operations.go; feed.go, how a change reaches open
// connections before it is answered; FORMAT.md, the rows.
//
// A principal is a client, known by its key, that is the root of an account.
// The package decides nothing: what a root may do is access/policy's.
package iam

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/keystore"
)

// Config is what a Service stands on. All members but Fixed and MaxPrincipals
// are required.
type Config struct {
	Store         keystore.Store // that seals its values
	Realm         api.Realm
	Directory     *identity.Directory // the service is who publishes into it
	Fixed         []*identity.Principal
	MaxPrincipals int // about how many there may be on disk; 0 = api.MaxPrincipals
	Logger        *slog.Logger
}

// Service holds the principals. Safe for concurrent use.
type Service struct {
	Config
	index    index
	damaged  atomic.Bool // rows could not be read
	reading  sync.Mutex  // held while a key's rows are read and the index follows them, or the directory the index
	current  bool        // guarded by reading; the index is as new as the store
	caughtUp sync.Once
	ready    chan struct{} // closed when the feed has caught up
	ended    chan error    // the feed's end
}

// New returns a service whose directory is filled, and goes on to follow the
// store's changes until ctx ends. From the end of that on, for whatever reason,
// the directory is empty. Rows that are damaged keep their clients out, and
// [Service.Warnings] says so.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{Config: cfg, ready: make(chan struct{}), ended: make(chan error, 1)}
	if s.MaxPrincipals == 0 {
		s.MaxPrincipals = api.MaxPrincipals
	}
	go s.follow(ctx)
	select {
	case <-s.ready:
		return s, nil
	case err := <-s.ended:
		return nil, fmt.Errorf("follow the principals: %w", err)
	}
}

// Routes returns the service's operations behind the gate.
func (s *Service) Routes(g *access.Gate) []access.Route {
	return []access.Route{
		access.Handle(g, applianceapi.AddPrincipal, s.AddPrincipal),
		access.Handle(g, applianceapi.ListPrincipals, s.ListPrincipals),
		access.Handle(g, applianceapi.RemovePrincipal, s.RemovePrincipal),
	}
}

// Wait returns when the service has stopped following the store.
func (s *Service) Wait() error { return <-s.ended }

// Warnings returns what an operator should know of the principals.
func (s *Service) Warnings() []string {
	if s.damaged.Load() {
		return []string{"clients are kept out, because rows of theirs could not be read: run keyrack check, and restore a backup"}
	}
	return nil
}
