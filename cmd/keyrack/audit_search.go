package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/protocol/client"
)

// auditSearchCommand asks the appliance, or reads a copy of its files and proves what
// it reads.
var auditSearchCommand = command{
	name: "audit search", args: "[DIR] [FILTER]… [--limit N] [--newest-first]", short: "find records of the audit log",
	long: `
Prints the audit records for which all filters hold, one a line, as audit tail does.
Without DIR it asks the appliance, which looks through its log itself. With DIR it
reads the folder of a log or of a copy, and with --key or KEYRACK_AUDIT_KEY it proves
what it reads: an exit status of 0 then says that the log behind the first record
read is whole, up to its newest signed checkpoint. --unproven is faster where --from
and --to leave most of a log out.

A TIME is RFC 3339, a date, today or yesterday (UTC; with --to the whole day), now,
or a time ago: 2h, 30m, 7d. How much was looked through is said on standard error.
That nothing was found is no error: the exit status is 0, and nothing is printed.

--resource finds what a call was about or named: a key by its id also where an alias
was given, and its creation; an alias only where it was given. --op, --outcome and
--who may be given several times: one of them has to hold. A name that no client has
now is looked up in the log, which has those that were removed. Refusals that came
faster than they were recorded are one record, which has a count.`,
	examples: []string{
		"keyrack audit search --who mail-server --outcome denied --from today",
		"keyrack audit search --resource alias/mail --newest-first --limit 20",
		"keyrack audit search /backup/audit --key rack.vkey --op Decrypt --from 7d",
	},
	flags: auditSearchFlags,
}

// mostKept bounds the records that --newest-first keeps until it can print them.
const (
	mostKept      = 100_000
	mostKeptBytes = 64 << 20
)

// searcher is a search that runs.
type searcher struct {
	sh     *shell
	filter *audit.Filter
	limit  int64 // 0 = all
	newest bool
	format *format
	meter  *meter

	kept    keptRecords // with newest, until they are printed
	printed int64
	highest audit.Position // behind the last record in the log that was printed
	proving bool           // the log is read to its end, whatever was found
	audit.Searched
}

// errLimit ends a search that has found enough.
var errLimit = errors.New("as many records were found as were asked for")

// auditSearchFlags declares the flags and acts.
func auditSearchFlags(fs *flag.FlagSet) action {
	var q query
	var keys texts
	s := &searcher{}
	q.flags(fs)
	fs.Func("limit", "print at most `N` records", s.atMost)
	fs.BoolVar(&s.newest, "newest-first", false, "print the newest record first; of a folder, no more than the newest 100000")
	fs.Var(&keys, "key", "with DIR: verifier key `VKEY` of the log's checkpoints, name+hash+base64; KEYRACK_AUDIT_KEY if not given; may be given several times")
	unproven := fs.Bool("unproven", false, "with DIR: prove nothing, and read no more of the log than must be")
	socket := socketFlag(fs)
	s.format = outputFlag(fs)
	return func(sh *shell, words, rest []string) error {
		words = append(words, rest...)
		s.sh, s.meter = sh, sh.meter("records")
		var err error
		switch {
		case len(words) > 1:
			return searchUsage("unexpected argument %q", words[1])
		case len(words) == 0 && (len(keys) > 0 || *unproven):
			return searchUsage("--key and --unproven are for a folder: DIR is missing")
		case len(words) == 1 && *socket != "":
			return searchUsage("the appliance or the folder %s: both are given", words[0])
		case *unproven && len(keys) > 0:
			return searchUsage("--key proves what is read, --unproven does not: one of them is enough")
		}
		if s.filter, err = q.filter(); err != nil {
			return err
		}
		if len(words) == 1 {
			return s.folder(words, keys, *unproven)
		}
		return s.ask(*socket)
	}
}

// atMost sets the limit.
func (s *searcher) atMost(text string) (err error) {
	if s.limit, err = strconv.ParseInt(text, 10, 64); err != nil || s.limit < 1 {
		return errors.New("want a whole number, at least 1")
	}
	return nil
}

// searchUsage is about the command line.
func searchUsage(format string, args ...any) error {
	return usagef("keyrack help audit search", "audit search: "+format, args...)
}

// take prints a record that was found, or keeps it until the newest are known.
func (s *searcher) take(p audit.Position, encoded []byte) error {
	if s.newest {
		s.kept.add(p, encoded, s.most())
		return nil
	}
	if s.limit == 0 || s.printed < s.limit {
		return s.print(p, encoded)
	}
	if s.proving {
		return nil
	}
	return errLimit
}

// most returns how many records are kept.
func (s *searcher) most() int {
	if s.limit == 0 {
		return mostKept
	}
	return int(min(s.limit-s.printed, mostKept))
}

// print prints a record.
func (s *searcher) print(p audit.Position, encoded []byte) error {
	r, err := readRecord(int64(p), encoded)
	if err != nil {
		return unreadable(err)
	}
	s.meter.clear()
	s.printed, s.highest = s.printed+1, max(s.highest, p+1)
	return s.format.record(s.sh.out, r)
}

// printKept prints what was kept, the newest first.
func (s *searcher) printKept() error {
	for {
		p, encoded, ok := s.kept.last()
		if !ok {
			return nil
		}
		if err := s.print(p, encoded); err != nil {
			return err
		}
	}
}

// summary says how much was looked through. proof is what is known of its truth.
func (s *searcher) summary(proof string) {
	s.meter.clear()
	read := "no record was looked at"
	if s.Records > 0 {
		read = fmt.Sprintf("looked at %d records, of %s to %s", s.Records, timeText(s.Earliest), timeText(s.Latest))
	}
	found := fmt.Sprintf("%d printed", s.printed)
	if s.limit > 0 && s.printed == s.limit {
		found += ", as many as --limit allows"
	}
	if s.kept.cut {
		found += ", older ones left out"
	}
	fmt.Fprintf(s.sh.err, "%s: %s; %s\n", read, found, proof)
}

// folder searches the files of a log.
func (s *searcher) folder(words, keys []string, unproven bool) error {
	dir, err := s.sh.auditDir("audit search", words)
	if err != nil {
		return err
	}
	var opts audit.VerifyOptions
	if !unproven && (len(keys) > 0 || s.sh.env(client.EnvAuditKey) != "") {
		if opts, err = s.sh.verifyOptions("audit search", keys, nil); err != nil {
			return err
		}
		s.proving = true
	}
	if err := s.namesIn(dir); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	opts.Progress = func(done, covered audit.Position) error {
		s.meter.show(int64(done), int64(covered))
		return unlessInterrupted(ctx)
	}
	read, report, err := audit.Search(audit.Dir(dir), opts, s.filter, func(p audit.Position, _ *audit.Record, encoded []byte) error {
		return s.take(p, encoded)
	})
	s.Searched = read
	if s.newest && (err == nil || errors.Is(err, errInterrupted)) {
		err = errors.Join(err, s.printKept())
	}
	return s.folderEnd(dir, &report, err)
}

// folderEnd says what the search of a folder has shown.
func (s *searcher) folderEnd(dir string, r *audit.Report, err error) error {
	switch {
	case errors.Is(err, errInterrupted):
		s.summary("none of it is proven")
		return interrupted("search again to the end; --from and --to make it shorter", "interrupted: the search is not over")
	case err != nil && !errors.Is(err, errLimit):
		s.summary("none of it is proven")
		return fmt.Errorf("%s: %w", dir, err)
	case !s.proving:
		s.summary("not proven: --key VKEY proves it")
	case s.highest > r.Covered:
		s.summary(fmt.Sprintf("proven up to its newest signed checkpoint, which does not cover record %d and what is behind it yet", r.Covered))
	default:
		s.summary(fmt.Sprintf("proven: its newest signed checkpoint covers %d records", r.Covered))
	}
	return nil
}

// ask lets the appliance search.
func (s *searcher) ask(socket string) error {
	c, err := s.sh.local(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.names(c); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	if s.newest {
		err = s.askBackwards(ctx, c)
	} else {
		err = s.askRange(ctx, c, 0, 0)
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	if err == nil || errors.Is(err, errInterrupted) {
		s.summary("as the appliance says; audit search DIR --key VKEY proves it")
	}
	if errors.Is(err, errInterrupted) {
		return interrupted("search again to the end; --from and --to make it shorter", "interrupted: the search is not over")
	}
	return err
}

// askRange asks for the records from one position to before another, 0 for the
// log's end when the search begins: it adds records itself.
func (s *searcher) askRange(ctx context.Context, c *client.Client, from, until int64) error {
	in := wireFilter(s.filter)
	in.From, in.Until, in.Limit = from, until, recordsPerPage
	for {
		if s.limit > 0 && !s.newest {
			in.Limit = min(recordsPerPage, max(1, s.limit-s.printed))
		}
		out, err := call(c, applianceapi.SearchAuditRecords, in)
		if err != nil {
			return err
		}
		for i := range min(len(out.Records), len(out.Positions)) {
			if err := s.take(audit.Position(out.Positions[i]), out.Records[i]); err != nil {
				return err
			}
		}
		s.Add(audit.Searched{Records: uint64(out.Read), Earliest: int64(out.Earliest), Latest: int64(out.Latest)})
		if !s.newest {
			s.meter.show(out.Next, out.Until)
		}
		switch {
		case out.Next >= out.Until:
			return nil
		case s.limit > 0 && s.printed == s.limit:
			return errLimit
		}
		if err := unlessInterrupted(ctx); err != nil {
			return err
		}
		in.From, in.Until = out.Next, out.Until
	}
}

// Windows of a search that begins with the newest records.
const (
	firstWindow = 1000
	mostWindow  = 100_000
)

// askBackwards searches window after window from the log's end to its beginning:
// twice as large while little is found, so that an old record is not far away, and
// small where much is, so that little is kept.
func (s *searcher) askBackwards(ctx context.Context, c *client.Client) error {
	status, err := call(c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	if err != nil {
		return err
	}
	window := int64(firstWindow)
	for end := status.AuditRecords; end > 0; {
		from := max(0, end-window)
		before := s.printed
		if err := s.askRange(ctx, c, from, end); err != nil {
			return err
		}
		if err := s.printKept(); err != nil {
			return err
		}
		if s.limit > 0 && s.printed == s.limit {
			return errLimit
		}
		s.meter.show(status.AuditRecords-from, status.AuditRecords)
		if window = max(firstWindow, window/2); s.printed-before < firstWindow {
			window = min(window*4, mostWindow)
		}
		end = from
	}
	return nil
}
