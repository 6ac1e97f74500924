package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/keyrack/keyrack/internal/rack/supervise"
	"github.com/keyrack/keyrack/internal/settings"
)

// serveCommand is the appliance itself: a parent without keys, and a worker that
// is this binary once more (worker.go).
var serveCommand = command{
	name: "serve", args: "--dir DIR [--listen HOST:PORT] [--token SPEC] [--locked] [--SETTING VALUE]…", short: "run the appliance of a folder, and keep it running",
	long: `
Runs the appliance that keyrack init made in DIR, in a worker process that is
started again when it ends: at once, then after pauses that grow to 30 s while it
keeps failing; on the same port, and locked or unlocked as it was. keyrack lock
ends the worker, which takes the keys from memory, and the next one waits locked for
keyrack unlock; only a fresh serve unlocks by itself. A first worker that cannot
start ends serve.

SIGTERM and Ctrl-C stop it in order: what was read is answered, the audit log is
written and signed, the status is 0. A second one, or 30 s, ends it at once.
SIGHUP is ignored: settings that were changed act at the next start. $NOTIFY_SOCKET
is told READY=1 and STOPPING=1: in a systemd unit, Type=notify, and LimitMEMLOCK=64M
for what is kept in locked memory. Three files of the audit log, 192 MiB unless
--audit-segment says otherwise, are there from the start: the one in use and two made
ahead. The log of what happens here goes to standard error.`,
	examples: []string{
		"keyrack serve --dir /var/lib/keyrack",
		"keyrack serve --config /etc/keyrack.toml",
		"keyrack serve --dir /var/lib/keyrack --listen 192.0.2.7:7250 --max-connections 500",
	},
	settings: serverSettings,
	flags:    serveFlags,
}

// serverSettings are those of the appliance itself.
var serverSettings = []string{"appliance.", "limits.", "cache.", "workers.", "audit."}

// ofAppliance reports whether a setting is one of those.
func ofAppliance(s *settings.Setting) bool {
	return slices.ContainsFunc(serverSettings, func(prefix string) bool { return strings.HasPrefix(s.Name, prefix) })
}

// serveFlags declares nothing: all flags are settings.
func serveFlags(fs *flag.FlagSet) action {
	return noWords(fs, func(sh *shell) error {
		sh.strays()
		if _, err := sh.rackConfig(fs.Name()); err != nil { // before a worker says the same
			return err
		}
		return sh.serve()
	})
}

// serve supervises workers until a signal.
func (sh *shell) serve() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // workers inherit it; a log that nobody reads any more is no reason to end
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	logger := serveLogger(sh.err)
	err := supervise.Run(supervise.Config{
		Command: sh.worker,
		First:   supervise.State{Locked: sh.settings.Bool("appliance.locked"), Addr: sh.settings.Text("appliance.listen")},
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
// has taken its place on disk: parent and worker understand each other. Every worker
// gets the settings that serve was started with, as flags, and neither environment
// nor file: a change of those acts at the next start of serve, never halfway.
func (sh *shell) worker(s supervise.State) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"worker"}, sh.workerFlags(s)...)...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = sh.err, sh.err
	known := settingVariables()
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "NOTIFY_SOCKET" || known[name] // a variable that a token's PIN is in stays
	})
	return cmd
}

// workerFlags returns the settings that are no defaults. Where a worker listens, and
// whether it is locked, is what the one before it was.
func (sh *shell) workerFlags(s supervise.State) (flags []string) {
	for i := range allSettings {
		v := sh.settings[allSettings[i].Name]
		switch {
		case v.Name == "appliance.listen":
			v.Text = s.Addr
		case v.Name == "appliance.locked":
			v.Text = strconv.FormatBool(s.Locked)
		case v.Source == settings.FromDefault || !ofAppliance(v.Setting):
			continue
		}
		flags = append(flags, "--"+v.FlagName()+"="+v.Text)
	}
	return flags
}

// serveLogger writes the log of an appliance.
func serveLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
