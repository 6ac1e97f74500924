package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/protocol/client"
)

// auditVerifyCommand needs no appliance and no secret: whoever has a copy of the
// files and the public key can run it, on another machine and years later.
var auditVerifyCommand = command{
	name: "audit verify", args: "[DIR] [--key VKEY]… [--expect NOTEFILE]…", short: "prove an audit log from its files alone",
	long: `
Proves from the files in DIR and a public key alone, without the appliance, that
they are one consistent log up to its newest signed checkpoint, and that it extends
every checkpoint given with --expect. That nothing was cut off behind the newest
checkpoint, only checkpoints kept elsewhere can prove: keep copies of the file
checkpoint in DIR, or of what GetAuditCheckpoint answers. A log in use can be
verified too: its newest checkpoint may be a second old. DIR is the folder audit in
the appliance's data folder; KEYRACK_AUDIT_DIR if not given.`,
	examples: []string{
		"keyrack audit verify /var/lib/keyrack/audit --key $(cat audit.vkey)",
		"keyrack audit verify /backup/audit --key $(cat audit.vkey) --expect last-week.checkpoint",
	},
	flags: auditVerifyFlags,
}

// texts collects a flag that may be given several times.
type texts []string

// String is part of flag.Value; there is no default to show.
func (t *texts) String() string { return "" }

// Set adds a value.
func (t *texts) Set(s string) error {
	*t = append(*t, s)
	return nil
}

// auditVerifyFlags declares the flags and acts. An error says how many records
// are whole before the place it names.
func auditVerifyFlags(fs *flag.FlagSet) action {
	var keys, expect texts
	fs.Var(&keys, "key", "verifier key `VKEY` of the log's checkpoints, name+hash+base64; KEYRACK_AUDIT_KEY if not given; may be given several times")
	fs.Var(&expect, "expect", "the log must extend the checkpoint in `NOTEFILE`; may be given several times")
	format := outputFlag(fs)
	return func(sh *shell, words, rest []string) error {
		dir, err := sh.auditDir(fs.Name(), append(words, rest...))
		if err != nil {
			return err
		}
		opts, err := sh.verifyOptions(fs.Name(), keys, expect)
		if err != nil {
			return err
		}
		r, err := sh.verify(dir, opts)
		if err != nil {
			return err
		}
		return format.print(sh.out, verified(r), verifiedText(r))
	}
}

// verify verifies a log and shows how far it is, until Ctrl-C.
func (sh *shell) verify(dir string, opts audit.VerifyOptions) (*audit.Report, error) {
	ctx, stop := interruptible()
	defer stop()
	m := sh.meter("records")
	defer m.clear()
	opts.Progress = func(done, covered audit.Position) error {
		m.show(int64(done), int64(covered))
		return unlessInterrupted(ctx)
	}
	r, err := audit.Verify(audit.Dir(dir), opts)
	m.clear()
	switch {
	case errors.Is(err, errInterrupted):
		return nil, interrupted("verify it again to the end: a part proves nothing", "interrupted: %d records of %d are whole so far", r.Size, r.Covered)
	case err != nil:
		return nil, fmt.Errorf("%s: after %d whole records: %w", dir, r.Size, err)
	}
	return &r, nil
}

// auditDir returns the one folder that is meant.
func (sh *shell) auditDir(command string, words []string) (string, error) {
	if len(words) > 1 {
		return "", usagef("keyrack help "+command, "%s: unexpected argument %q", command, words[1])
	}
	dir := sh.env(rack.EnvAuditDir)
	if len(words) == 1 {
		dir = words[0]
	}
	if dir == "" {
		return "", usagef("keyrack help "+command, "%s: no folder is given, and environment variable %s is not set", command, rack.EnvAuditDir)
	}
	if info, err := os.Stat(dir); err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", hinted("give the folder that holds the log's segments and its checkpoint", "%s is not a folder", dir)
	}
	if log := filepath.Join(dir, "audit"); !exists(filepath.Join(dir, "checkpoint")) && exists(log) {
		return "", misused("give the folder in it: "+shellQuote(oneLine(log)), "%s: %s is no audit log, but has a folder named audit", command, dir)
	}
	return dir, nil
}

// exists reports whether something has that path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// verifyOptions reads keys and expected checkpoints. There is no default key but
// the environment's: one taken from the folder would prove nothing.
func (sh *shell) verifyOptions(command string, keys, expect []string) (opts audit.VerifyOptions, err error) {
	if key := sh.env(client.EnvAuditKey); len(keys) == 0 && key != "" {
		keys = []string{key}
	}
	if len(keys) == 0 {
		return opts, usagef("keyrack help "+command, "%s: no --key is given, and environment variable %s is not set", command, client.EnvAuditKey)
	}
	for _, k := range keys {
		v, err := tlog.ParseVerifier(strings.TrimSpace(k))
		if err != nil {
			return opts, fmt.Errorf("--key: %w", err)
		}
		opts.Keys = append(opts.Keys, v)
	}
	for _, path := range expect {
		note, err := os.ReadFile(path)
		if err != nil {
			return opts, fmt.Errorf("--expect: %w", err)
		}
		if len(note) > tlog.MaxNote {
			return opts, hinted("give the file that holds a checkpoint as it was signed", "--expect: %s is no checkpoint: it has %d bytes", path, len(note))
		}
		opts.Expect = append(opts.Expect, note)
	}
	return opts, nil
}

// verification is what audit verify prints as JSON.
type verification struct {
	Origin     string
	Segments   int
	Batches    uint64
	Records    uint64
	Root       string // RFC 6962 root of the tree of all records, base64
	Covered    uint64 // records that the newest signed checkpoint covers
	Keyed      uint64 // records in batches that carry a MAC
	Unfinished bool   // the last batch was being written
}

// verified returns the report with the names that JSON has.
func verified(r *audit.Report) verification {
	return verification{
		Origin: r.Origin, Segments: r.Segments, Batches: r.Batches, Records: uint64(r.Size), Root: r.Root.String(),
		Covered: uint64(r.Covered), Keyed: r.Keyed, Unfinished: r.Unfinished,
	}
}

// verifiedText returns the report for people. How many records no signature
// covers yet is said, not hidden in an OK.
func verifiedText(r *audit.Report) string {
	s := fmt.Sprintf("OK: %d records are one log, %s; its newest signed checkpoint covers %d of them\n",
		r.Size, oneLine(r.Origin), r.Covered)
	if r.Unfinished {
		s += "the last batch is being written, or was when the power went: it was never answered for\n"
	}
	return s
}
