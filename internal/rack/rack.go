// Package rack wires the appliance: from a configuration to a running server.
// It is the only place that names concrete tokens and engines.
//
// Read first: [Config]; [Start], which is the wiring, bottom up; [Appliance].
//
// It holds no logic of its own: what a part does is in its package.
package rack

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
	"github.com/keyrack/keyrack/service/appliance"
	"github.com/keyrack/keyrack/service/kms"
)

// Config says what to start. Dir, Token and Logger are required; the zero
// value of the rest is the default.
type Config struct {
	Dir        string         // data folder: audit/, server.pem, keyrack.sock
	Listen     string         // host:port; "" = 127.0.0.1 and any free port
	Realm      api.Realm      // zero = aws, rack-1
	Token      hsm.Opener     // opens the token that holds the root
	Store      keystore.Store // below the seal; nil = memory. Start closes it
	AuditFiles audit.Files    // nil = Dir/audit
	Durability audit.Durability
	AuditBytes int64 // size of one file of the audit log, three of which are made at once; 0 = audit's default
	Principals []*identity.Principal
	Version    string
	Logger     *slog.Logger
	Clock      *clock.Clock // nil = the system's
	Limits     server.Limits
	Pools      map[work.Class]work.Size // nil = the defaults

	// AllowUnlockedMemory goes on where the kernel refuses to lock memory;
	// status says so. For development.
	AllowUnlockedMemory bool
	// Scribble is written over served requests, see server.Config. For tests.
	Scribble byte
}

// Appliance is a running appliance.
type Appliance struct {
	cfg      Config
	id       api.KeyID // printed as a UUID
	started  api.Time
	ctx      context.Context
	cancel   context.CancelFunc
	token    hsm.Provider
	keyring  *domain.Keyring
	store    keystore.Store // sealed
	log      *audit.Log
	auditKey string
	gate     *access.Gate
	routes   []access.Route
	keys     *kms.Service
	pools    *work.Pools
	cert     tls.Certificate
	people   *identity.Directory
	server   *server.Server
	listener net.Listener
	local    net.Listener
	wg       sync.WaitGroup
	ended    chan struct{} // closed when the operator has locked the appliance
	ending   sync.Once
	undo     []func(context.Context) error // how to stop what runs, last first
}

// Start brings an appliance up: unlocked, recording and listening. On an error
// everything that was started is stopped again.
func Start(ctx context.Context, cfg Config) (*Appliance, error) {
	a := &Appliance{cfg: cfg.withDefaults(), people: new(identity.Directory), ended: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"protect memory", a.protectMemory},
		{"open the token", a.openToken},
		{"unlock the domain key", a.unlock},
		{"open the audit log", a.openLog},
		{"start the services", a.startServices},
		{"listen", a.listen},
	} {
		if err := step.run(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", step.name, err), a.Close(ctx))
		}
	}
	return a, nil
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Realm == (api.Realm{}) {
		c.Realm = api.Realm{Partition: "aws", Region: "rack-1"}
	}
	if c.Store == nil {
		c.Store = keystore.NewMemory()
	}
	if c.AuditFiles == nil {
		c.AuditFiles = audit.Dir(filepath.Join(c.Dir, "audit"))
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Pools == nil {
		c.Pools = map[work.Class]work.Size{
			work.Store:   {Workers: api.StoreWorkers, Queue: api.StoreQueue},
			work.Token:   {Workers: api.TokenWorkers, Queue: api.TokenQueue},
			work.Compute: {Workers: 1, Queue: api.ComputeQueue},
		}
	}
	return c
}

// onClose remembers how to stop what was just started.
func (a *Appliance) onClose(f func(context.Context) error) { a.undo = append(a.undo, f) }

// Close stops the appliance: connections answer what they have read, the log
// is committed and signed, keys leave memory. When ctx ends, connections are cut.
func (a *Appliance) Close(ctx context.Context) error {
	var errs []error
	for i := len(a.undo) - 1; i >= 0; i-- {
		errs = append(errs, a.undo[i](ctx))
	}
	a.undo = nil
	a.cancel()
	a.wg.Wait()
	return errors.Join(errs...)
}

// background runs f until Close; f ends when its context does.
func (a *Appliance) background(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(a.ctx)
	done := make(chan struct{})
	a.wg.Go(func() { defer close(done); f(ctx) })
	a.onClose(func(context.Context) error { cancel(); <-done; return nil })
}

func (a *Appliance) protectMemory(context.Context) error {
	rand.Read(a.id[:])
	a.id[6], a.id[8] = a.id[6]&0x0f|0x40, a.id[8]&0x3f|0x80 // UUID version 4 (RFC 9562 §5.4)
	a.started = api.TimeOf(a.cfg.Clock.Now())
	securemem.AllowUnlocked(a.cfg.AllowUnlockedMemory)
	return securemem.Harden()
}

func (a *Appliance) openToken(ctx context.Context) (err error) {
	if a.token, err = a.cfg.Token(ctx); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { return a.token.Close() })
	if d := a.token.Describe(); d.Warning != "" {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, d.Warning, slog.String("token", d.Kind))
	}
	return nil
}

func (a *Appliance) unlock(ctx context.Context) (err error) {
	a.onClose(func(context.Context) error { return a.cfg.Store.Close() })
	if a.keyring, err = domain.Create(ctx, a.cfg.Store, a.token, a.id); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { a.keyring.Lock(); return nil })
	// The one node of an appliance has the appliance's id.
	if err = sealed.Create(ctx, a.cfg.Store, a.keyring, a.id, a.id); err != nil {
		return err
	}
	store, err := sealed.Open(ctx, a.cfg.Store, a.keyring, a.id, a.id)
	if err != nil {
		return err
	}
	a.onClose(func(context.Context) error { return store.Close() })
	a.store = store
	return nil
}

func (a *Appliance) startServices(ctx context.Context) (err error) {
	a.gate = access.NewGate(access.Config{Log: a.log, Clock: a.cfg.Clock, Realm: a.cfg.Realm, Logger: a.cfg.Logger})
	a.background(a.gate.Keep)
	keys := kms.Config{Store: a.store, Realm: a.cfg.Realm, Clock: a.cfg.Clock, Logger: a.cfg.Logger}
	if keys.MarkerKey, err = a.markerKey(); err != nil {
		return err
	}
	watching, stop := context.WithCancel(a.ctx)
	if a.keys, err = kms.New(watching, keys); err != nil {
		stop()
		return err
	}
	a.onClose(func(context.Context) error { stop(); a.keys.Wait(); return nil })
	a.pools = work.New(a.cfg.Pools)
	a.pools.OnPanic(func(c work.Class, _ any, stack []byte) { // the value may hold anything
		a.cfg.Logger.LogAttrs(a.ctx, slog.LevelError, "a worker panicked", slog.String("class", c.String()), slog.String("stack", string(stack)))
	})
	a.onClose(a.pools.Close)
	a.people.Publish(a.cfg.Principals)
	return nil
}

// markerKey derives the key of page markers from the newest domain key: a marker
// is good until the appliance starts with another one.
func (a *Appliance) markerKey() (key [32]byte, err error) {
	versions := a.keyring.Versions()
	if len(versions) == 0 {
		return key, domain.ErrLocked
	}
	err = a.keyring.Derive(key[:], versions[len(versions)-1], seal.LabelMarker, a.id[:])
	return key, err
}

func (a *Appliance) listen(ctx context.Context) (err error) {
	if a.cert, err = serverCertificate(a.cfg.Dir); err != nil {
		return err
	}
	self := appliance.New(appliance.Config{
		Log: a.log, AuditKey: a.auditKey, ID: a.id.String(), Version: a.cfg.Version, ServerKey: a.ServerKey(),
		Token: a.token.Describe().Model, Started: a.started, State: a.state,
		Connections: func() int { return a.server.Connections() }, Warnings: a.warnings,
		Address: a.Addr, Records: a.records, Unlock: a.keyring.Unlock, Lock: a.Lock,
		Rotate: func(context.Context) error { return errors.ErrUnsupported },
	})
	a.onClose(self.StopChecks)
	a.routes = append(a.keys.Routes(a.gate), self.Routes(a.gate)...)
	a.server, err = server.New(server.Config{
		Gate: a.gate, Routes: a.routes, Pools: a.pools,
		Directory: a.people, Hello: a.hello, Logger: a.cfg.Logger, Limits: a.cfg.Limits, Scribble: a.cfg.Scribble,
	})
	if err != nil {
		return err
	}
	a.onClose(a.server.Close)
	if a.listener, err = net.Listen("tcp", a.cfg.Listen); err != nil {
		return err
	}
	a.accept(a.listener, a.server.TLS(a.cert))
	if err := os.Remove(a.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if a.local, err = net.Listen("unix", a.Socket()); err != nil {
		return err
	}
	a.accept(a.local, server.Local(&identity.Principal{
		ARN:  fmt.Sprintf("arn:%s:keyrack:%s::operator", a.cfg.Realm.Partition, a.cfg.Realm.Region),
		Type: identity.Operator,
	}))
	return nil
}

// accept serves a listener until Close.
func (a *Appliance) accept(l net.Listener, identify server.Identify) {
	a.background(func(ctx context.Context) {
		if err := a.server.Serve(ctx, l, identify); err != nil {
			a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "no more connections are accepted", slog.Any("error", err))
		}
	})
}

func (a *Appliance) state() applianceapi.State {
	if a.keyring.State() == domain.Unlocked {
		return applianceapi.Unlocked
	}
	return applianceapi.Locked
}

// records says how the sealed records are.
func (a *Appliance) records() (r appliance.Records) {
	if v := a.keyring.Versions(); len(v) > 0 {
		r.KeyVersion, r.Rotating = v[len(v)-1], len(v) > 1
	}
	return r
}

func (a *Appliance) hello() *protocol.Hello {
	return &protocol.Hello{
		ApplianceId: a.id.String(), Version: a.cfg.Version,
		Window: int64(api.Window), Checkpoint: string(a.log.Checkpoint()),
	}
}

// warnings returns what the operator should change.
func (a *Appliance) warnings() []string {
	var all []string
	if d := a.token.Describe(); d.Warning != "" {
		all = append(all, d.Warning)
	}
	if m := securemem.Status(); m.Reason != "" {
		all = append(all, m.Reason)
	}
	if log := a.log.State(); log.Full || log.Dead != nil || log.CheckpointErr != nil || log.SpaceErr != nil {
		all = append(all, fmt.Sprintf("audit log: full=%t dead=%v checkpoint=%v space=%v", log.Full, log.Dead, log.CheckpointErr, log.SpaceErr))
	}
	return append(all, a.keys.Warnings()...)
}

// Addr returns the host:port of the TLS listener.
func (a *Appliance) Addr() string { return a.listener.Addr().String() }

// Socket returns the path of the operator's Unix socket.
func (a *Appliance) Socket() string { return filepath.Join(a.cfg.Dir, "keyrack.sock") }

// ServerKey returns the fingerprint of the server's key: sha256: and 64 hex digits.
func (a *Appliance) ServerKey() string {
	return identity.HashOf(a.cert.Leaf.RawSubjectPublicKeyInfo).String()
}

// AuditKey returns the verifier key of the audit log's checkpoints (C2SP signed-note).
func (a *Appliance) AuditKey() string { return a.auditKey }

// ID returns the appliance's id, a UUID.
func (a *Appliance) ID() string { return a.id.String() }

// People is the directory of principals. Publishing into it acts on the next
// request of every open connection.
func (a *Appliance) People() *identity.Directory { return a.people }

// Gate and Routes are the door and what is behind it, for fronts in the same
// process.
func (a *Appliance) Gate() *access.Gate { return a.gate }

// Routes returns every operation behind the gate.
func (a *Appliance) Routes() []access.Route { return a.routes }

// KMS returns the key service.
func (a *Appliance) KMS() *kms.Service { return a.keys }
