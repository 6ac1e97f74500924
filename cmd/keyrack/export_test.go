package main

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol/client"
)

// Main is the command itself, for the scripts. Where a person at the Tab key would rather have no candidates, a script
// waits for them on a busy machine, too.
func Main() {
	completionPatience = time.Minute
	main()
}

// Run runs one command line.
func Run(env map[string]string, args ...string) (status int, stdout, stderr string) {
	var out, err strings.Builder
	sh := &shell{in: strings.NewReader(""), out: &out, err: &err, getenv: func(name string) string { return env[name] }}
	status = run(sh, args)
	return status, out.String(), err.String()
}

// HintFor returns the hint of a kind of error, "" if it has none.
func HintFor(k api.Kind) string { return kindHints[k] }

// HintAfter returns the hint that is printed after an error.
func HintAfter(err error) string { return hintFor(err) }

// BenchSalts measures decryptions under message keys of their own without
// waiting for the appliance to forget them, and returns what was sent.
func BenchSalts(env map[string]string, salts int) (operations int64, err error) {
	socket := ""
	sh := &shell{err: io.Discard, getenv: func(name string) string { return env[name] }}
	b := &benchmark{sh: sh, ctx: context.Background(), op: "decrypt", size: 32, conns: 2, depth: 4, duration: 20 * time.Millisecond, salts: salts, socket: &socket}
	r, err := b.run()
	if err != nil {
		return 0, err
	}
	return r.Operations, nil
}

// Quantiles returns quantiles of what a histogram counted.
func Quantiles(counted []time.Duration, qs ...float64) (all []time.Duration) {
	var one, h histogram
	for _, d := range counted {
		one.add(d)
	}
	h.merge(&one)
	for _, q := range qs {
		all = append(all, h.quantile(q))
	}
	return all
}

// FormatRecord returns an encoded audit record as a line.
func FormatRecord(encoded []byte) (string, error) {
	r, err := readRecord(7, encoded)
	if err != nil {
		return "", err
	}
	return r.String(), nil
}

// OtherHint is the hint of errors that no table knows.
const OtherHint = otherHint

// ReasonHints returns reasons and their hints in the order of the reasons.
func ReasonHints() (all [][2]string) {
	for _, reason := range slices.Sorted(maps.Keys(reasonHints)) {
		all = append(all, [2]string{reason, reasonHints[reason]})
	}
	return all
}

// Hints returns the hints for errors that no appliance answered.
func Hints() (all []string) {
	for _, h := range hints {
		if !slices.Contains(all, h.hint) {
			all = append(all, h.hint)
		}
	}
	return all
}

// Report returns what is printed of an error, and the exit status.
func Report(err error) (status int, stderr string) {
	var b strings.Builder
	status = report(&shell{err: &b}, err)
	return status, b.String()
}

// MeterText returns the line of a meter.
var MeterText = meterText

// ParseTime reads a time of a search.
var ParseTime = parseTime

// NotePath returns where a client keeps what it saw of the log with a key, "" for
// nowhere, and what is printed of it.
func NotePath(env map[string]string, auditKey string) (path, stderr string) {
	var b strings.Builder
	sh := &shell{err: &b, getenv: func(name string) string { return env[name] }}
	cfg := client.Config{AuditKey: auditKey}
	sh.keepNote(&cfg)
	file, _ := cfg.Checkpoints.(client.NoteFile)
	return string(file), b.String()
}

// JSON returns what commands print of a value with --output json.
func JSON(v any) (string, error) {
	b, err := indented(v)
	return string(b), err
}

// JSONRecord returns what they print of an audit record.
func JSONRecord(encoded []byte) (string, error) {
	r, err := readRecord(7, encoded)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	f := asJSON
	err = f.record(&b, r)
	return b.String(), err
}

// Typable returns those of the words of an appliance that a shell is given.
func Typable(words ...string) (left []string, err error) {
	c, err := client.New(client.Config{Socket: "/none"})
	if err != nil {
		return nil, err
	}
	for _, found := range briefly(c, func(context.Context, *client.Client) ([]candidate, error) { return plainWords(words), nil }) {
		left = append(left, found.word)
	}
	return left, nil
}

// PermitDeletion asks whether a key may be given up whose last use is not known.
func PermitDeletion(unknown string, force bool) error {
	return (&deletion{within: 30, force: force}).permit(&need{Unknown: unknown}, time.Now())
}

// WriteOutput writes a file as a command writes its answer.
func WriteOutput(path string, b []byte) error { return new(shell).writeOutput(path, b) }
