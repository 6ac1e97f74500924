package rack

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore/sealed"
	"github.com/keyrack/keyrack/service/iam"
	"github.com/keyrack/keyrack/service/kms"
)

// opened is what an appliance has while it is unlocked.
type opened struct {
	records  *sealed.Store
	keys     *kms.Service
	clients  *iam.Service
	routes   []access.Route
	listener net.Listener
	logGone  bool // the log held nothing of what the store holds
	rotation rotation
	time     *timekeeper
	shredder *shredder
}

// bareRows is how many sealed rows an appliance has before the first call that changes
// something, and so leaves a record: the digest of its slots, those of its token keys, the time, and since when keys' uses
// are counted.
const bareRows = 4

// logIsGone is what the operator is told where the log holds nothing of what the store does.
const logIsGone = "the audit log has begun anew: its records of what the store holds are gone; see whether the disk of the folder audit is mounted"

// errClosing is returned by an Unlock that comes too late.
var errClosing = errors.New("rack: the appliance is stopping")

// Unlock opens the domain key with the token and begins to serve, after the log
// has got what a cut left out of it. An unlocked appliance stays as it is. After
// an error the appliance is as it was, locked.
func (a *Appliance) Unlock(ctx context.Context) error {
	a.life.Lock()
	defer a.life.Unlock()
	switch {
	case a.closing:
		return errClosing
	case a.open.Load() != nil:
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.stopping, cancel)()
	drain, undo := len(a.drain), len(a.undo)
	err := a.unlock(ctx)
	if err != nil {
		ctx = context.WithoutCancel(ctx)
		err = errors.Join(err, a.drain.run(ctx, drain), a.undo.run(ctx, undo))
		a.keyring.Lock()
		return errors.Join(err, a.server.Publish(a.self.LockedRoutes(a.gate)))
	}
	a.tell(applianceapi.Unlocked)
	return nil
}

// unlock is Unlock without its surroundings.
func (a *Appliance) unlock(ctx context.Context) error {
	o := &opened{rotation: rotation{again: make(chan struct{}, 1)}}
	o.shredder = &shredder{a: a, o: o}
	return run(ctx, []step{
		{"unlock the domain key", a.keyring.Unlock},
		{"open the sealed store", o.with(a.openRecords)},
		{"set the clock", o.with(a.keepTime)},
		{"complete the audit log", o.with(a.recoverLog)},
		{"start the services", o.with(a.startServices)},
		{"listen", o.with(a.listen)},
		{"go on with a rotation", o.with(a.continueRotation)},
		{"do what is due", o.with(a.doDue)},
		{"shred destroyed keys", o.with(a.startShredder)},
	})
}

// with makes a step of a function that fills o.
func (o *opened) with(f func(context.Context, *opened) error) func(context.Context) error {
	return func(ctx context.Context) error { return f(ctx, o) }
}

// openRecords opens the sealed store, and checks that the slots are those it knows of.
func (a *Appliance) openRecords(ctx context.Context, o *opened) (err error) {
	if o.records, err = sealed.Open(ctx, borrowed{a.below}, a.keyring, a.id, a.id); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { return o.records.Close() })
	return a.keyring.Verify(ctx, o.records)
}

// recoverLog gives the log the records of changes that a cut kept from it.
func (a *Appliance) recoverLog(ctx context.Context, o *opened) error {
	if o.logGone = a.newLog && o.records.State().Rows > bareRows; o.logGone {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelError, logIsGone)
	}
	n, err := a.gate.Recover(ctx, o.records)
	if n > 0 {
		a.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "the audit log got records of changes that were made before a cut", slog.Int("records", n))
	}
	return err
}

func (a *Appliance) startServices(_ context.Context, o *opened) (err error) {
	keys := kms.Config{Store: o.records, Log: a.log, Realm: a.cfg.Realm, Clock: a.cfg.Clock, Time: o.time, Logger: a.cfg.Logger, MaxKeys: a.cfg.MaxKeys, CachedKeys: a.cfg.CachedKeys, PackedKeys: a.cfg.PackedKeys, CachedAliases: a.cfg.CachedAliases}
	if keys.MarkerKey, err = a.markerKey(); err != nil {
		return err
	}
	if keys.ImportKey, err = a.importKey(); err != nil {
		return err
	}
	a.onClose(func(context.Context) error { keys.ImportKey.Free(); return nil })
	watching, stop := context.WithCancel(a.ctx)
	if o.keys, err = kms.New(watching, keys); err != nil {
		stop()
		return err
	}
	a.onClose(func(context.Context) error { stop(); o.keys.Wait(); return nil })
	a.onClose(a.self.StopChecks)
	if err := a.startClients(o); err != nil {
		return err
	}
	o.routes = slices.Concat(o.keys.Routes(a.gate), a.self.Routes(a.gate), o.clients.Routes(a.gate))
	return a.server.Publish(o.routes)
}

// startClients fills the directory with who may call.
func (a *Appliance) startClients(o *opened) (err error) {
	following, stop := context.WithCancel(a.ctx)
	o.clients, err = iam.New(following, iam.Config{
		Store: o.records, Realm: a.cfg.Realm, Directory: a.people, Fixed: a.cfg.Principals, Logger: a.cfg.Logger, MaxPrincipals: a.cfg.MaxPrincipals,
	})
	if err != nil {
		stop()
		return err
	}
	a.onClose(func(context.Context) error { stop(); o.clients.Wait(); return nil })
	return nil
}

// importKey derives the key of import tokens as markerKey does that of markers. The caller frees it.
func (a *Appliance) importKey() (*securemem.Buffer, error) {
	versions := a.keyring.Versions()
	if len(versions) == 0 {
		return nil, domain.ErrLocked
	}
	key, err := securemem.New(32)
	if err != nil {
		return nil, err
	}
	if err := a.keyring.Derive(key.Bytes(), versions[len(versions)-1], seal.LabelImport, a.id[:]); err != nil {
		key.Free()
		return nil, err
	}
	return key, nil
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

// continueRotation ends a rotation of the domain key that a stop has interrupted, beside the work.
func (a *Appliance) continueRotation(_ context.Context, o *opened) error {
	a.open.Store(o)
	a.onClose(func(context.Context) error { a.open.Store(nil); return nil })
	a.endRotation(o)
	return nil
}

// doDue does what is due to keys, beside the work.
func (a *Appliance) doDue(_ context.Context, o *opened) error {
	a.background(&a.undo, func(ctx context.Context) { o.keys.RunDue(ctx, a.gate, a.cfg.DueEvery) })
	return nil
}
