package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/internal/rack"
)

// devCommand is the newcomer's command, and what tests and benchmarks run in: the
// same wiring as any appliance, with a token that is a file.
var devCommand = command{
	name: "dev", args: "[--dir DIR] [--demo] [-- COMMAND [ARG]…]", short: "an appliance on this machine, to try and to develop with",
	long: `
Runs an appliance on loopback, with a token that is a file and a client that is the
root of account 111122223333, and prints what another shell needs to reach it. Ctrl-C
ends it. Its keys stay in $XDG_STATE_HOME/keyrack/dev (~/.local/state/keyrack/dev),
for the next keyrack dev; keyrack dev reset removes them. It is for development: its
keys are as safe as a file.

With -- COMMAND it runs COMMAND with that environment, forwards signals to it, and
ends as it ends: with its exit status, 128 and the number of the signal that
killed it, or 127 if it could not be started. With -- COMMAND or --demo, but without
--dir, all of it is thrown away at the end.`,
	examples: []string{
		"keyrack dev",
		"keyrack dev --demo",
		"keyrack dev -- make test",
	},
	flags: devFlags,
}

// devCloseTimeout is how long an appliance of dev may take to finish what it
// has read before it is cut short.
const devCloseTimeout = 5 * time.Second

// devFlags declares the flags and acts.
func devFlags(fs *flag.FlagSet) action {
	dir := fs.String("dir", "", "keep everything in `DIR`, which is made if need be")
	demo := fs.Bool("demo", false, "first show it at work")
	return func(sh *shell, words, rest []string) error {
		switch {
		case len(words) > 0:
			return usagef("keyrack help dev", "dev: unexpected argument %q: a command stands behind --", words[0])
		case rest != nil && len(rest) == 0:
			return usagef("keyrack help dev", "dev: no command stands behind --")
		case *demo && rest != nil:
			return usagef("keyrack help dev", "dev: --demo runs its own commands: leave -- away")
		}
		return runDev(sh, *dir, *demo, rest)
	}
}

// stateDir returns the folder for what stays on this machine (XDG Base Directory
// Specification, "Environment variables"). A relative XDG_STATE_HOME is invalid
// there, and ignored.
func stateDir(sh *shell) (string, error) {
	if state := sh.getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return state, nil
	}
	home := sh.getenv("HOME")
	if home == "" {
		return "", hinted("set HOME, or give --dir DIR", "environment variable HOME is not set")
	}
	return filepath.Join(home, ".local", "state"), nil
}

// devDir returns the folder that dev keeps everything in.
func devDir(sh *shell, dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	state, err := stateDir(sh)
	if err != nil {
		return "", err
	}
	return filepath.Join(state, "keyrack", "dev"), nil
}

// runDev runs the appliance, and a command or what a newcomer reads. Signals are
// caught from the first moment, and closed pipes too, so that whatever ends it, the
// folder with the keys is removed; what came early is still in the channel later.
func runDev(sh *shell, dir string, demo bool, args []string) (err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	keep := dir != "" || !demo && args == nil
	if keep {
		dir, err = devDir(sh, dir)
	} else if dir, err = os.MkdirTemp("", "keyrack-dev-*"); err == nil {
		defer sh.afterwards(&err, func() error { return os.RemoveAll(dir) })
	}
	if err != nil {
		return err
	}
	d, err := startDev(sh, dir, keep)
	if err != nil {
		return err
	}
	defer sh.afterwards(&err, d.close)
	switch {
	case args != nil:
		return child(sh, args, signals)
	case demo:
		err = d.demo(sh, signals)
	default:
		err = d.explain(sh.out)
	}
	if err == nil {
		<-signals
	}
	return err
}

// afterwards cleans up. What goes wrong is reported here: it must not hide behind
// a command's exit status, nor replace it.
func (sh *shell) afterwards(err *error, clean func() error) {
	if e := clean(); e != nil {
		if status := report(sh, fmt.Errorf("clean up: %w", e)); *err == nil {
			*err = exitStatus(status)
		}
	}
}

// devAppliance is a running appliance of dev.
type devAppliance struct {
	a    *rack.Appliance // lives's until over is closed
	cfg  rack.Config
	keep bool     // it outlives this process
	env  []string // NAME=value
	stop chan struct{}
	over chan struct{}
}

// startDev starts an appliance in dir and puts its environment, and a PATH that
// finds this binary as keyrack, into this process's, for its children.
func startDev(sh *shell, dir string, keep bool) (*devAppliance, error) {
	d := &devAppliance{
		cfg:  rack.Config{Dir: dir, Version: version, Logger: devLogger(sh.err)},
		keep: keep, stop: make(chan struct{}), over: make(chan struct{}),
	}
	a, env, err := rack.Dev(context.Background(), d.cfg)
	if err != nil {
		return nil, fmt.Errorf("start the appliance: %w", err)
	}
	d.a, d.cfg.Listen = a, a.Addr()
	go d.live()
	bin, err := linkSelf(dir)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	d.env = append(env, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	for _, v := range d.env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	return d, nil
}

// linkSelf makes a folder where this binary is called keyrack.
func linkSelf(dir string) (bin string, err error) {
	bin = filepath.Join(dir, "bin")
	self, err := os.Executable()
	if err == nil {
		err = errors.Join(os.RemoveAll(bin), os.Mkdir(bin, 0o700)) // an earlier one may lead to another binary
	}
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "keyrack"))
	}
	return bin, err
}

// live does what a supervisor does for serve: an appliance that is locked ends, and
// is started again, locked. As this is one process, what was expanded from keys may
// stay in its memory.
func (d *devAppliance) live() {
	defer close(d.over)
	for {
		select {
		case <-d.stop:
			return
		case <-d.a.Ended():
		}
		d.cfg.Locked = true
		err := d.closeAppliance()
		if err == nil {
			d.a, _, err = rack.Dev(context.Background(), d.cfg)
		}
		if err != nil {
			d.a = nil
			d.cfg.Logger.Error("the appliance does not come back", "error", err)
			return
		}
	}
}

// devLogger writes warnings for whoever sits before it: without the time.
func devLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// close stops the appliance.
func (d *devAppliance) close() error {
	close(d.stop)
	<-d.over
	if d.a == nil {
		return nil
	}
	return d.closeAppliance()
}

func (d *devAppliance) closeAppliance() error {
	ctx, cancel := context.WithTimeout(context.Background(), devCloseTimeout)
	defer cancel()
	return d.a.Close(ctx)
}

// explain prints lines for another shell: comments, and the environment. All of it
// can be pasted as it is.
func (d *devAppliance) explain(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# An appliance for development is running. Paste this into another shell:\n\n")
	for _, v := range d.env {
		name, value, _ := strings.Cut(v, "=")
		if name == "PATH" { // the other shell has its own
			value = filepath.Join(d.cfg.Dir, "bin")
			fmt.Fprintf(&b, "export PATH=%s:\"$PATH\"\n", shellQuote(value))
			continue
		}
		fmt.Fprintf(&b, "export %s=%s\n", name, shellQuote(value))
	}
	b.WriteString("\n# Then, for example: keyrack key create; keyrack audit tail --follow; keyrack help\n")
	if d.keep {
		b.WriteString("# Ctrl-C here ends it. Its keys stay for the next keyrack dev; keyrack dev reset removes them.\n")
	} else {
		b.WriteString("# Ctrl-C here ends the appliance and its keys.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// child runs a command until it ends, and returns its exit status as an error. The
// command is in our own process group: Ctrl-Z stops both, and a shell can take the
// terminal as it would without us.
func child(sh *shell, args []string, signals <-chan os.Signal) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = sh.in, sh.out, sh.err
	if err := cmd.Start(); err != nil {
		return &problem{err, "behind -- stands a command as a shell would find it", 127}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if forwardable(s) {
				cmd.Process.Signal(s) // it may have ended meanwhile
			}
		case err := <-ended:
			return childStatus(err)
		}
	}
}

// forwardable says whether a signal must be passed on. Ctrl-C and Ctrl-\ reach
// all processes in a terminal's foreground, so the command has them already.
// SIGPIPE was about our own output.
func forwardable(s os.Signal) bool {
	switch s {
	case syscall.SIGPIPE:
		return false
	case syscall.SIGINT, syscall.SIGQUIT:
		return !inForeground()
	}
	return true
}

// inForeground reports whether this process is in the foreground of a terminal:
// pgrp equals tpgid in /proc/self/stat (proc_pid_stat(5)).
func inForeground() bool {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(fields) > 5 && fields[2] == fields[5] // state ppid pgrp session tty_nr tpgid
}

// childStatus turns the end of a command into keyrack's own.
func childStatus(err error) error {
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	if status := e.Sys().(syscall.WaitStatus); status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(e.ExitCode())
}
