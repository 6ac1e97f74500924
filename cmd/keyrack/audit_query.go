package main

import (
	"flag"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/audit"
)

// query is what the flags of a search say, as it was typed.
type query struct {
	who, ops, outcomes texts
	resource, source   string
	request            uint64
	from, to           string
}

// flags declares the filters.
func (q *query) flags(fs *flag.FlagSet) {
	fs.Var(&q.who, "who", "called by `NAME`: a client's name, an ARN, root, operator, or the sha256:… of a client's key; may be given several times")
	fs.Var(&q.ops, "op", "of an operation whose name is `GLOB`, such as Encrypt, kms:*Key* or connection; may be given several times")
	fs.Var(&q.outcomes, "outcome", "that ended `SO`: ok, denied, error, or the GLOB of an exception, such as Throttling*; may be given several times")
	fs.StringVar(&q.resource, "resource", "", "about `KEY`: a key id, an ARN or an alias such as alias/mail")
	fs.StringVar(&q.source, "source", "", "from `ADDRESS`, an IP address; or what the source begins with: unix")
	fs.Uint64Var(&q.request, "request", 0, "with the request id `N` of its connection")
	fs.StringVar(&q.from, "from", "", "recorded at `TIME` or later")
	fs.StringVar(&q.to, "to", "", "recorded before `TIME`, or on that day")
}

// filter reads what was typed.
func (q *query) filter() (*audit.Filter, error) {
	f := &audit.Filter{Who: q.who, Resource: q.resource, Source: q.source, RequestID: q.request}
	var err error
	for _, who := range q.who {
		if !strings.HasPrefix(who, "sha256:") {
			continue
		}
		if _, err := identity.ParseKeyHash(who); err != nil {
			return nil, searchUsage("--who: %w", err)
		}
	}
	now := time.Now().UTC()
	if f.After, err = timeFilter("--from", q.from, now, false); err != nil {
		return nil, err
	}
	if f.Before, err = timeFilter("--to", q.to, now, true); err != nil {
		return nil, err
	}
	if f.After != 0 && f.Before != 0 && f.After >= f.Before {
		return nil, searchUsage("--from is %s, which is not before --to, %s", timeText(f.After), timeText(f.Before))
	}
	if f.Ops, err = q.operations(); err != nil {
		return nil, err
	}
	f.Errors, err = q.kinds()
	return f, err
}

// timeFilter returns a time as records have it, 0 for none. A day is its
// beginning, or as an end the day behind it.
func timeFilter(name, text string, now time.Time, end bool) (int64, error) {
	if text == "" {
		return 0, nil
	}
	t, day, err := parseTime(text, now)
	if err != nil {
		return 0, misused("a TIME is like 2026-11-22T14:05:00Z, 2026-11-22, today, yesterday, now, or a time ago: 2h, 30m, 7d", "audit search: %s: %w", name, err)
	}
	if day && end {
		t = t.AddDate(0, 0, 1)
	}
	return max(1, t.UnixMicro()), nil
}

// parseTime reads a time as people type one; day says that it is a whole day. UTC
// is what the log prints.
func parseTime(text string, now time.Time) (t time.Time, day bool, err error) {
	today := now.Truncate(24 * time.Hour)
	switch text {
	case "now":
		return now, false, nil
	case "today":
		return today, true, nil
	case "yesterday":
		return today.AddDate(0, 0, -1), true, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, true, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, false, nil
		}
	}
	ago, err := parseAgo(strings.TrimPrefix(text, "-"))
	if err != nil {
		return now, false, fmt.Errorf("%q is no time", text)
	}
	return now.Add(-ago), false, nil
}

// parseAgo reads a duration of package time, or a number of days.
func parseAgo(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	ago, err := time.ParseDuration(text)
	if err == nil && (ago < 0 || strings.HasPrefix(text, "+")) {
		err = strconv.ErrRange
	}
	return ago, err
}

// operations returns the numbers of the operations that are meant, nil for all.
func (q *query) operations() (numbers []uint16, err error) {
	for _, pattern := range q.ops {
		before := len(numbers)
		if pattern == "connection" {
			numbers = append(numbers, 0)
		}
		for _, op := range table.Recorded() {
			if like(pattern, op.Action) || like(pattern, op.Name) {
				numbers = append(numbers, op.Number)
			}
		}
		if len(numbers) == before {
			return nil, misused("keyrack help call lists the operations, beside which there are DeleteKey, DeleteExpiredKeyMaterial and RotateKey; connection finds what was refused before it was a request", "audit search: --op: no operation is named %q", pattern)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// kinds returns the numbers of the outcomes that are meant, nil for all.
func (q *query) kinds() (numbers []uint16, err error) {
	for _, pattern := range q.outcomes {
		before := len(numbers)
		if pattern == "ok" {
			numbers = append(numbers, 0)
		}
		for _, k := range api.Kinds() {
			denied := k == api.KindAccessDenied || k == api.KindUnrecognizedClient
			if pattern == "error" || pattern == "denied" && denied || like(pattern, k.String()) || like(pattern, strings.TrimSuffix(k.String(), "Exception")) {
				numbers = append(numbers, uint16(k))
			}
		}
		if len(numbers) == before {
			return nil, misused("give ok, denied, error, or an exception as audit tail prints it, such as ValidationException", "audit search: --outcome: none is named %q", pattern)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// like compares a name with a pattern of package path, whatever the case.
func like(pattern, name string) bool {
	ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(name))
	return ok && err == nil
}

// wireFilter returns the request of a filter.
func wireFilter(f *audit.Filter) *applianceapi.SearchAuditRecordsRequest {
	return &applianceapi.SearchAuditRecordsRequest{
		After: api.Time(f.After), Before: api.Time(f.Before), Operations: wireNumbers(f.Ops), Errors: wireNumbers(f.Errors),
		Who: f.Who, Resource: f.Resource, Source: f.Source, RequestId: int64(f.RequestID),
	}
}

// wireNumbers returns numbers as the wire has them.
func wireNumbers(in []uint16) (out []int64) {
	for _, n := range in {
		out = append(out, int64(n))
	}
	return out
}
