// Package rack wires the appliance: from a configuration to a running server.
// It is the only place that names concrete tokens and engines.
//
// Read first: [Config]; [Start] and [Appliance.Unlock], which are the wiring,
// bottom up; [Create], which makes what they find in the data folder.
//
// It holds no logic of its own: what a part does is in its package.
package rack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/protocol/server"
	"github.com/keyrack/keyrack/service/appliance"
	"github.com/keyrack/keyrack/service/kms"
)

// Config says what to start. Dir, Token and Logger are required; the zero
// value of the rest is the default.
type Config struct {
	Dir        string         // data folder, see folder.go
	Listen     string         // host:port; "" = 127.0.0.1 and any free port
	Realm      api.Realm      // zero = aws, rack-1
	Token      hsm.Opener     // opens the token that holds the root
	AskedToken PINOpener      // in place of Token: Start waits for an operator who gives the PIN by GivePIN
	Store      keystore.Store // below the seal; nil = the file in Dir. Start closes it, Create does not
	AuditFiles audit.Files    // nil = Dir/audit
	Durability audit.Durability
	AuditBytes int64 // size of one file of the audit log, three of which are made at once; 0 = audit's default
	Principals []*identity.Principal
	Version    string
	Logger     *slog.Logger
	Clock      *clock.Clock // nil = the system's
	Limits     server.Limits
	Pools      map[work.Class]work.Size // nil = the defaults

	MaxKeys       int // of one account; see kms.Config; 0 = api.MaxKeys
	CachedKeys    int // see kms.Config; 0 = api.CachedKeys
	PackedKeys    int // 0 = api.PackedKeys
	CachedAliases int // 0 = api.CachedAliases
	MaxPrincipals int // see iam.Config; 0 = api.MaxPrincipals

	DueEvery time.Duration // the longest pause between two looks at what is due; 0 = a minute

	// Locked starts without the domain key: only the operator is answered, over
	// the Unix socket, until [Appliance.Unlock].
	Locked bool
	// OnState is told that the appliance has begun, locked, or to serve, or that the operator has
	// locked it, before the operator is; nil = nobody. It must not call the appliance's Unlock or Close.
	OnState func(*Appliance, applianceapi.State)
	// OnWaiting is told that the appliance waits for its token's PIN; nil = nobody.
	OnWaiting func()
	// AllowUnlockedMemory goes on where the kernel refuses to lock memory;
	// status says so. For development.
	AllowUnlockedMemory bool
	// Scribble is written over served requests, see server.Config. For tests.
	Scribble byte

	id api.KeyID // that Create gives and Dev expects; zero = a new one
}

// Appliance is a running appliance.
type Appliance struct {
	cfg      Config
	id       api.KeyID // printed as a UUID
	started  api.Time
	ctx      context.Context
	cancel   context.CancelFunc
	below    keystore.Store
	token    hsm.Provider
	keyring  *domain.Keyring
	log      *audit.Log
	auditKey string
	newLog   bool // the log held no record when it was opened
	gate     *access.Gate
	self     *appliance.Service
	pools    *work.Pools
	cert     tls.Certificate
	people   *identity.Directory
	server   *server.Server
	local    net.Listener
	wg       sync.WaitGroup
	stopping context.Context // ends when Close begins: an Unlock under way gives up
	stop     context.CancelFunc
	ended    chan struct{} // closed when the operator has locked the appliance
	ending   sync.Once

	telling sync.Mutex
	locking bool // guarded by telling; the operator has locked the appliance, and this was told

	// life is held while the appliance starts or unlocks and when it begins to close, so that what
	// was started is stopped. It guards what follows. Close runs drain, then undo, each from its
	// end: first nobody asks any more, then what answered goes.
	life    sync.Mutex
	closing bool
	spent   time.Duration // by the monotonic clock: the time before counts neither as locked nor as unlocked any more
	drain   stops
	undo    stops

	// open is what an unlocked appliance has besides, nil while it is locked.
	open atomic.Pointer[opened]
}

// Start brings up the appliance that [Create] has made in the data folder: it
// records and answers, unlocked unless the configuration says otherwise. On an
// error everything that was started is stopped again.
func Start(ctx context.Context, cfg Config) (*Appliance, error) {
	a := &Appliance{cfg: cfg.withDefaults(), people: new(identity.Directory), ended: make(chan struct{})}
	a.spent = a.cfg.Clock.Running()
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.stopping, a.stop = context.WithCancel(a.ctx)
	err := a.begin(ctx)
	if err == nil && !cfg.Locked {
		err = run(ctx, []step{{"unlock", a.Unlock}})
	}
	if err != nil {
		return nil, errors.Join(err, a.Close(ctx))
	}
	return a, nil
}

// begin brings up what needs no domain key. The operator may be answered, and ask for more,
// before it returns.
func (a *Appliance) begin(ctx context.Context) error {
	a.life.Lock()
	defer a.life.Unlock()
	err := run(ctx, []step{
		{"protect memory", a.protectMemory},
		{"take the data folder", a.takeFolder},
		{"open the store", a.openStore},
		{"open the token", a.openToken},
		{"find the domain key", a.findDomain},
		{"open the audit log", a.openLog},
		{"answer the operator", a.answerOperator},
	})
	if err == nil && a.cfg.Locked {
		a.cfg.OnState(a, applianceapi.Locked)
	}
	return err
}

// step is a part of starting.
type step struct {
	name string
	run  func(context.Context) error
}

// run runs steps until one fails, and says which.
func run(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Realm == (api.Realm{}) {
		c.Realm = api.Realm{Partition: "aws", Region: "rack-1"}
	}
	if c.AuditFiles == nil {
		c.AuditFiles = audit.Dir(filepath.Join(c.Dir, auditName))
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	if c.Version == "" {
		c.Version = "devel"
	}
	if c.Pools == nil {
		c.Pools = map[work.Class]work.Size{
			work.Store:    {Workers: api.StoreWorkers, Queue: api.StoreQueue},
			work.Token:    {Workers: api.TokenWorkers, Queue: api.TokenQueue},
			work.Compute:  {Workers: 1, Queue: api.ComputeQueue},
			work.Generate: {Workers: 1, Queue: api.GenerateQueue},
		}
	}
	if c.OnState == nil {
		c.OnState = func(*Appliance, applianceapi.State) {}
	}
	if c.OnWaiting == nil {
		c.OnWaiting = func() {}
	}
	return c
}

// stops are how to stop what runs.
type stops []func(context.Context) error

// run runs those from a place on, the last first.
func (s *stops) run(ctx context.Context, from int) error {
	var errs []error
	for i := len(*s) - 1; i >= from; i-- {
		errs = append(errs, (*s)[i](ctx))
	}
	*s = (*s)[:from]
	return errors.Join(errs...)
}

// onClose remembers how to stop what was just started.
func (a *Appliance) onClose(f func(context.Context) error) { a.undo = append(a.undo, f) }

// Close stops the appliance: connections answer what they have read, the log
// is committed and signed, keys leave memory. When ctx ends, connections are cut.
func (a *Appliance) Close(ctx context.Context) error {
	a.stop()
	a.life.Lock()
	drain, undo := a.drain, a.undo
	a.drain, a.undo, a.closing = nil, nil, true
	a.life.Unlock()
	err := errors.Join(drain.run(ctx, 0), undo.run(ctx, 0))
	a.cancel()
	a.wg.Wait()
	return err
}

// background runs f until it is stopped in its place in s; f ends when its context does.
func (a *Appliance) background(s *stops, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(a.ctx)
	done := make(chan struct{})
	a.wg.Go(func() { defer close(done); f(ctx) })
	*s = append(*s, func(context.Context) error { cancel(); <-done; return nil })
}

func (a *Appliance) protectMemory(context.Context) error {
	a.started = api.TimeOf(a.cfg.Clock.Now())
	return protectMemory(a.cfg)
}

func protectMemory(cfg Config) error {
	securemem.AllowUnlocked(cfg.AllowUnlockedMemory)
	return securemem.Harden()
}

func (a *Appliance) openStore(context.Context) (err error) {
	if a.below, err = a.cfg.openStore(); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { return a.below.Close() })
	return forgetNotes(a.cfg.Dir) // that an attempt had, which was cut off when it had made the appliance
}

func (a *Appliance) openToken(ctx context.Context) (err error) {
	if a.cfg.AskedToken != nil {
		a.token, err = a.waitForPIN(ctx)
	} else {
		a.token, err = a.cfg.Token(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoToken, err)
	}
	a.onClose(func(context.Context) error { return a.token.Close() })
	if d := a.token.Describe(); d.Warning != "" {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, d.Warning, slog.String("token", d.Kind))
	}
	return mixRandom(ctx, a.token)
}

func (a *Appliance) findDomain(ctx context.Context) (err error) {
	if a.keyring, err = domain.Open(ctx, a.below, a.token); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { a.keyring.Lock(); return nil })
	if a.id = a.keyring.ApplianceID(); a.cfg.id != (api.KeyID{}) && a.cfg.id != a.id {
		return notDev(a.cfg.Dir)
	}
	return nil
}

// Addr returns the host:port of the TLS listener, "" while locked.
func (a *Appliance) Addr() string {
	if o := a.open.Load(); o != nil {
		return o.listener.Addr().String()
	}
	return ""
}

// Socket returns the path of the operator's Unix socket.
func (a *Appliance) Socket() string { return filepath.Join(a.cfg.Dir, socketName) }

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

// Gate is the door, for fronts in the same process.
func (a *Appliance) Gate() *access.Gate { return a.gate }

// Routes returns every operation behind the gate that is served now.
func (a *Appliance) Routes() []access.Route {
	if o := a.open.Load(); o != nil {
		return o.routes
	}
	return a.self.LockedRoutes(a.gate)
}

// KMS returns the key service, nil while locked.
func (a *Appliance) KMS() *kms.Service {
	if o := a.open.Load(); o != nil {
		return o.keys
	}
	return nil
}

// Records returns the sealed store, nil while locked.
func (a *Appliance) Records() *sealed.Store {
	if o := a.open.Load(); o != nil {
		return o.records
	}
	return nil
}
