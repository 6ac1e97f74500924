package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// auditTailCommand reads the log through the appliance. audit verify is what
// proves it; this one trusts the socket.
var auditTailCommand = command{
	name: "audit tail", args: "[-n N] [--follow] [--dir DIR | --socket PATH]", short: "the newest records of the audit log",
	long: `
Prints the newest audit records, one a line: position, time, operation, outcome,
who, from where, on what. Reading the log is itself recorded; --follow leaves those
records out of what it prints, or it would never come to rest.`,
	examples: []string{
		"keyrack audit tail -n 20 --dir /var/lib/keyrack",
		"keyrack audit tail --follow --output json",
	},
	flags: auditTailFlags,
}

// Pages of reading, and the pause between looks for more.
const (
	recordsPerPage = 1000
	followPause    = time.Second
)

// auditTailFlags declares the flags and acts.
func auditTailFlags(fs *flag.FlagSet) action {
	t := &tail{}
	fs.Int64Var(&t.n, "n", 10, "print the last `N` records, 1 to 1000000")
	fs.BoolVar(&t.follow, "follow", false, "go on with what is recorded from now on, until interrupted")
	socket := socketFlag(fs)
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if t.n < 1 || t.n > 1_000_000 {
			return usagef("keyrack help audit tail", "audit tail: -n is %d, want 1 to 1000000", t.n)
		}
		c, err := sh.local(*socket)
		if err != nil {
			return err
		}
		defer c.Close()
		t.client, t.out, t.format = c, sh.out, *format
		return t.run()
	})
}

// tail prints records as it reads them.
type tail struct {
	n      int64
	follow bool
	client *client.Client
	out    io.Writer
	format format
}

// run prints the last n records that were there when it began: reading adds
// records too.
func (t *tail) run() error {
	s, err := call(t.client, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return err
	}
	next, end := max(0, s.AuditRecords-t.n), s.AuditRecords
	for next < end {
		page, err := t.page(next, min(end-next, recordsPerPage), false)
		if err != nil {
			return err
		}
		next = page.Next
	}
	if !t.follow {
		return nil
	}
	return t.goOn(next)
}

// goOn prints what comes, until the process is ended.
func (t *tail) goOn(next int64) error {
	for tick := time.Tick(followPause); ; {
		page, err := t.page(next, recordsPerPage, true)
		if err != nil {
			return err
		}
		if next = page.Next; len(page.Records) < recordsPerPage {
			<-tick
		}
	}
}

// page reads records from a position on and prints them.
func (t *tail) page(from, limit int64, others bool) (*applianceapi.ListAuditRecordsResponse, error) {
	page, err := call(t.client, applianceapi.ListAuditRecords, &applianceapi.ListAuditRecordsRequest{From: from, Limit: limit})
	if err != nil {
		return nil, err
	}
	for i, encoded := range page.Records {
		r, err := readRecord(page.From+int64(i), encoded)
		if err != nil {
			return nil, unreadable(err)
		}
		if others && r.Operation == applianceapi.ListAuditRecords.Action && r.Error == "" {
			continue
		}
		if err := t.format.record(t.out, r); err != nil {
			return nil, err
		}
	}
	return page, nil
}

// record prints a record on one line of its own, in either format.
func (f *format) record(w io.Writer, r *auditRecord) error {
	line := r.String()
	if *f == asJSON {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		line = string(harmless(b))
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// unreadable is about a record that this version cannot read.
func unreadable(err error) error {
	return hinted("compare keyrack version with the Version of keyrack status", "%w", err)
}
