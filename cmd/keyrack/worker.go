package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/rack/supervise"
)

// workerCommand is the process of serve that holds keys and sockets. Only serve
// runs it, so it is in no list.
var workerCommand = command{
	name: "worker", short: "a part of serve", hidden: true,
	long:     "Is started by keyrack serve.",
	settings: serverSettings, settled: true,
	flags: workerActs,
}

// workerPatience is how long a worker may take to stop: less than its parent waits.
const workerPatience = 25 * time.Second

// workerActs joins its parent and acts.
func workerActs(fs *flag.FlagSet) action {
	return noWords(fs, func(sh *shell) error {
		parent, err := supervise.Join()
		if err != nil {
			return hinted("run keyrack serve", "%w", err)
		}
		cfg, err := sh.rackConfig("serve")
		if err != nil {
			return err
		}
		return runWorker(cfg, parent)
	})
}

// runWorker runs the appliance until it is told to stop, its parent is gone or the
// operator has locked it. That it is locked or not is the parent's knowledge before
// it is the operator's: whoever kills the worker then gets one of the same kind.
func runWorker(cfg rack.Config, parent *supervise.Parent) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGXFSZ) // a Ctrl-C is the parent's; a file that must not grow is an error like others
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go func() { <-parent.Gone(); stop() }()
	var begun atomic.Bool
	cfg.OnState = func(a *rack.Appliance, s applianceapi.State) {
		if !begun.Swap(true) || s == applianceapi.Unlocked { // one that is locked later only ends
			ready(cfg.Logger, a, s)
		}
		tell(cfg.Logger, parent, a, s)
	}
	cfg.OnWaiting = func() {
		if err := parent.Tell(supervise.State{Locked: true}); err != nil {
			cfg.Logger.Error("the supervisor was not told", "error", err)
		}
	}
	a, err := rack.Start(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled): // stopped before it was ready
		return nil
	case err != nil:
		return err
	}
	select {
	case <-a.Ended():
		if err := closeSoon(a); err != nil {
			cfg.Logger.Error("the worker did not stop in order", "error", err)
		}
		return exitStatus(supervise.ExitLocked)
	case <-ctx.Done():
		return closeSoon(a)
	}
}

// ready tells whoever reads the log where the appliance answers.
func ready(logger *slog.Logger, a *rack.Appliance, s applianceapi.State) {
	logger.Info("ready", "state", s, "address", a.Addr(), "socket", a.Socket(), "serverKey", a.ServerKey())
}

// tell tells the parent how the appliance is now.
func tell(logger *slog.Logger, parent *supervise.Parent, a *rack.Appliance, s applianceapi.State) {
	if err := parent.Tell(supervise.State{Locked: s == applianceapi.Locked, Addr: a.Addr()}); err != nil {
		logger.Error("the supervisor was not told", "error", err)
	}
}

// closeSoon closes the appliance in a bounded time, even where the disk hangs and
// no parent is left to end this process.
func closeSoon(a *rack.Appliance) error {
	timer := time.AfterFunc(2*workerPatience, func() { os.Exit(1) })
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), workerPatience)
	defer cancel()
	return a.Close(ctx)
}
