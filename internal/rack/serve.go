package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
	"github.com/keyrack/keyrack/service/appliance"
)

// answerOperator opens the door for the operator, who is answered also while the appliance is locked.
func (a *Appliance) answerOperator(context.Context) (err error) {
	made := false
	if a.cert, made, err = serverCertificate(a.cfg.Dir); err != nil {
		return err
	}
	if made {
		a.cfg.Logger.LogAttrs(a.ctx, slog.LevelWarn, "the server's key was gone, and a new one is made: restore server.pem, or tell every client the new key",
			slog.String("serverKey", a.ServerKey()))
	}
	a.gate = access.NewGate(access.Config{Log: a.log, Clock: a.cfg.Clock, Realm: a.cfg.Realm, Logger: a.cfg.Logger})
	a.background(&a.drain, a.gate.Keep)
	a.pools = work.New(a.cfg.Pools)
	a.pools.OnPanic(func(c work.Class, _ any, stack []byte) { // the value may hold anything
		a.cfg.Logger.LogAttrs(a.ctx, slog.LevelError, "a worker panicked", slog.String("class", c.String()), slog.String("stack", string(stack)))
	})
	a.onClose(a.pools.Close)
	a.self = appliance.New(appliance.Config{
		Log: a.log, AuditKey: a.auditKey, ID: a.id.String(), Version: a.cfg.Version, ServerKey: a.ServerKey(),
		Token: a.token.Describe().Model, Started: a.started, State: a.state,
		Connections: func() int { return a.server.Connections() }, Warnings: a.warnings,
		Address: a.Addr, Records: a.records, Unlock: a.Unlock, Lock: a.Lock, Rotate: a.Rotate,
		Checks: []appliance.Check{a.checkRecords, a.checkKeys, a.checkClients}, Slots: a.slots,
		Time: a.time, AcceptTime: a.acceptTime, Due: a.dueUntil, Shred: a.Shred,
	})
	a.server, err = server.New(server.Config{
		Gate: a.gate, Routes: a.self.LockedRoutes(a.gate), Pools: a.pools,
		Directory: a.people, Hello: a.hello, Logger: a.cfg.Logger, Limits: a.cfg.Limits, Scribble: a.cfg.Scribble,
	})
	if err != nil {
		return err
	}
	a.drain = append(a.drain, a.server.Close)
	return a.listenLocal()
}

// listenLocal listens on the Unix socket. What a process that was killed has left there is in nobody's use: the folder
// is ours.
func (a *Appliance) listenLocal() (err error) {
	if err := os.Remove(a.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if a.local, err = net.Listen("unix", a.Socket()); err != nil {
		return err
	}
	if err := os.Chmod(a.Socket(), 0o600); err != nil { // whatever the umask: nobody else is answered anyway
		return errors.Join(err, a.local.Close())
	}
	a.accept(a.local, server.Local(&identity.Principal{
		ARN:  fmt.Sprintf("arn:%s:keyrack:%s::operator", a.cfg.Realm.Partition, a.cfg.Realm.Region),
		Type: identity.Operator,
	}))
	return nil
}

// listen opens the network.
func (a *Appliance) listen(_ context.Context, o *opened) (err error) {
	if o.listener, err = net.Listen("tcp", a.cfg.Listen); err != nil {
		return err
	}
	a.accept(o.listener, a.server.TLS(a.cert))
	return nil
}

// accept serves a listener until Close.
func (a *Appliance) accept(l net.Listener, identify server.Identify) {
	a.background(&a.drain, func(ctx context.Context) {
		if err := a.server.Serve(ctx, l, identify); err != nil {
			a.cfg.Logger.LogAttrs(ctx, slog.LevelError, "no more connections are accepted", slog.Any("error", err))
		}
	})
}

func (a *Appliance) state() applianceapi.State {
	if a.open.Load() != nil {
		return applianceapi.Unlocked
	}
	return applianceapi.Locked
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
	if behind := a.cfg.Clock.Behind(); behind > time.Minute {
		all = append(all, fmt.Sprintf("the system's clock is %s behind the time that was reached before: set it", behind.Round(time.Second)))
	}
	all = append(all, a.gate.Warnings()...)
	if o := a.open.Load(); o != nil {
		if o.logGone {
			all = append(all, logIsGone)
		}
		if wrong := o.time.warning(); wrong != "" {
			all = append(all, wrong)
		}
		if late := o.shredder.warning(); late != "" {
			all = append(all, late)
		}
		if stuck := o.rotation.warning(); stuck != "" {
			all = append(all, stuck)
		}
		all = slices.Concat(all, o.keys.Warnings(), o.clients.Warnings())
	}
	return all
}
