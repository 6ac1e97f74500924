package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/protocol/client"
)

// logWait bounds how long an answer is held back until the appliance's audit log has
// been compared with what this client saw of it before.
const logWait = 5 * time.Second

// writable is W_OK of access(2).
const writable = 2

// keepNote makes the client remember the appliance's newest checkpoint from one
// command to the next, where it knows the log's key. Where there is no place for it,
// that is said, and the command goes on.
func (sh *shell) keepNote(cfg *client.Config) {
	key, err := tlog.ParseVerifier(cfg.AuditKey)
	if err != nil { // there is none, or client.New says what is wrong with it
		return
	}
	file, err := sh.noteFile(key)
	if err == nil {
		_, err = file.Load()
	}
	if err != nil {
		sh.warn("the audit log is not compared with what was seen of it before: %v", err)
		return
	}
	cfg.Checkpoints = file
}

// noteFile returns where the checkpoint of the log with that key is kept: beside the
// client's certificate, or, where nothing can be made there, in
// $XDG_STATE_HOME/keyrack/log. Its name ends with the key's id (C2SP signed-note), so
// each appliance has one of its own.
func (sh *shell) noteFile(key tlog.Verifier) (client.NoteFile, error) {
	cert := sh.env(client.EnvCert)
	dir, name := filepath.Dir(cert), fmt.Sprintf("%s.log-%08x", strings.TrimSuffix(filepath.Base(cert), ".pem"), key.KeyHash())
	if syscall.Access(dir, writable) == nil {
		return client.NoteFile(filepath.Join(dir, name)), nil
	}
	state, err := stateDir(sh)
	if err == nil {
		dir = filepath.Join(state, "keyrack", "log")
		err = os.MkdirAll(dir, 0o700)
	}
	return client.NoteFile(filepath.Join(dir, name)), err
}

// warn says something beside what the command does.
func (sh *shell) warn(format string, args ...any) {
	fmt.Fprintf(sh.err, "keyrack: warning: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// checkLog returns an error if the appliance's log is not the one that this client saw
// before: nothing that the appliance answered is used then.
func checkLog(c *client.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), logWait)
	defer cancel()
	err := c.CheckLog(ctx)
	if _, ok := errors.AsType[*client.LogError](err); ok {
		return logHint(err)
	}
	return nil // what hindered the comparison is said at the end
}

// logHint says what a log that contradicts what was kept means, and where that is.
func logHint(err error) error {
	e, ok := errors.AsType[*client.LogError](err)
	if !ok || e.File == "" || !errors.Is(err, client.ErrForked) {
		return err
	}
	return hinted("the log was cut or rewritten, or an old copy of the appliance is back: trust none of its answers, keep its data folder as evidence, "+
		"and see with keyrack audit verify DIR --expect "+shellQuote(oneLine(e.File))+" what was changed; only if you restored a backup yourself, remove that file", "%w", err)
}

// warnOfLogs says, when a command ends, why the log of an appliance could not be
// compared with what was kept, or kept.
func (sh *shell) warnOfLogs() {
	for _, c := range sh.remotes {
		_, err := c.Checkpoint()
		if _, found := errors.AsType[*client.LogError](err); err != nil && !found {
			sh.warn("%v", err)
		}
	}
}
