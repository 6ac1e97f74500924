package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/rack/supervise"
)

// serveCommand is the appliance itself: a parent without keys, and a worker that
// is this binary once more (worker.go).
var serveCommand = command{
	name: "serve", args: "--dir DIR [--listen HOST:PORT] [--token SPEC] [--locked]", short: "run the appliance of a folder, and keep it running",
	long: `
Runs the appliance that keyrack init made in DIR, in a worker process that is
started again when it ends: at once, then after pauses that grow to 30 s while it
keeps failing; on the same port, and locked or unlocked as it was. keyrack lock
ends the worker, which takes the keys from memory, and the next one waits locked for
keyrack unlock; only a fresh serve unlocks by itself. A first worker that cannot
start ends serve.

SIGTERM and Ctrl-C stop it in order: what was read is answered, the audit log is
written and signed, the status is 0. A second one, or 30 s, ends it at once.
SIGHUP is ignored. $NOTIFY_SOCKET is told READY=1 and STOPPING=1: in a systemd
unit, Type=notify, and LimitMEMLOCK=64M for what is kept in locked memory. The
next files of the audit log, 192 MiB, are made ahead. The log of what happens
here goes to standard error.`,
	flags: serveFlags,
}

// serveOptions are the command line of serve, and of its workers.
type serveOptions struct {
	dir, spec, listen *string
	locked            *bool
}

func newServeOptions(fs *flag.FlagSet) *serveOptions {
	return &serveOptions{
		dir: dirFlag(fs), spec: tokenFlag(fs),
		listen: fs.String("listen", api.DefaultListen, "listen on `HOST:PORT`; port 0 is any free one, kept while serve runs"),
		locked: fs.Bool("locked", false, "start locked, and wait for keyrack unlock"),
	}
}

// serveFlags declares the flags and acts.
func serveFlags(fs *flag.FlagSet) action {
	o := newServeOptions(fs)
	return noWords(fs, func(sh *shell) error {
		if _, err := o.config(sh, fs); err != nil { // before a worker says the same
			return err
		}
		return o.serve(sh)
	})
}

// config returns the appliance's configuration.
func (o *serveOptions) config(sh *shell, fs *flag.FlagSet) (rack.Config, error) {
	cfg, err := rackConfig(sh, fs, *o.dir, *o.spec, false)
	if err != nil {
		return cfg, err
	}
	if err := checkListen(*o.listen); err != nil {
		return cfg, misused("give --listen HOST:PORT, such as "+api.DefaultListen, "--listen: %w", err)
	}
	cfg.Listen, cfg.Locked = *o.listen, *o.locked
	return cfg, nil
}

// checkListen refuses what no address can be made of; a host is looked up later.
func checkListen(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil && port == "" {
		err = errors.New("missing port in address")
	}
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	return err
}

// serve supervises workers until a signal.
func (o *serveOptions) serve(sh *shell) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // workers inherit it; a log that nobody reads any more is no reason to end
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	logger := serveLogger(sh.err)
	err := supervise.Run(supervise.Config{
		Command: func(s supervise.State) *exec.Cmd { return o.worker(sh, s) },
		First:   supervise.State{Locked: *o.locked, Addr: *o.listen},
		Stop:    signals, Logger: logger,
		Notify: supervise.Systemd(sh.getenv("NOTIFY_SOCKET"), logger),
	})
	failed, first := errors.AsType[*supervise.Failed](err)
	switch {
	case first && failed.Worker.Exited(): // it has said why
		return exitStatus(failed.Worker.ExitCode())
	case first:
		return hinted("the log above may say more; a kernel that is out of memory says so in dmesg", "%w", err)
	case errors.Is(err, supervise.ErrUnclean):
		return hinted("nothing is lost that was answered; the next start says what it finds", "%w", err)
	}
	return err
}

// worker returns a worker. The binary is the one that runs, also where another one
// has taken its place on disk: parent and worker understand each other.
func (o *serveOptions) worker(sh *shell, s supervise.State) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "worker", "--dir", *o.dir, "--token", *o.spec, "--listen", s.Addr)
	cmd.Args[0] = os.Args[0]
	if s.Locked {
		cmd.Args = append(cmd.Args, "--locked")
	}
	cmd.Stdout, cmd.Stderr = sh.err, sh.err
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	return cmd
}

// serveLogger writes the log of an appliance.
func serveLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
