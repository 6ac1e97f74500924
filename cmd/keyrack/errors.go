package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// problem is an error that knows what its user should do. Most errors do not:
// their hint is found by what they are, in hints.go.
type problem struct {
	err    error
	hint   string
	status int // exit status
}

// Error returns the error's own text.
func (p *problem) Error() string { return p.err.Error() }

// Unwrap returns the error without its hint.
func (p *problem) Unwrap() error { return p.err }

// hinted makes an error with a hint; the exit status is 1.
func hinted(hint, format string, args ...any) error {
	return &problem{fmt.Errorf(format, args...), hint, 1}
}

// usagef makes an error of the command line: where says which command tells
// more; the exit status is 2.
func usagef(where, format string, args ...any) error {
	return misused("run: "+where, format, args...)
}

// misused is usagef with a hint of its own.
func misused(hint, format string, args ...any) error {
	return &problem{fmt.Errorf(format, args...), hint, 2}
}

// exitStatus ends keyrack with a status and without a word: the command that
// dev ran has said what there was to say.
type exitStatus int

// Error is never printed.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report prints err, if there is one, and one line saying what to do. It
// returns the exit status.
func report(sh *shell, err error) int {
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[exitStatus](err); ok {
		return int(s)
	}
	status := 1
	if p, ok := errors.AsType[*problem](err); ok {
		status = p.status
	}
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") // joined errors
	fmt.Fprintf(sh.err, "keyrack: %s\nhint: %s\n", oneLine(text), hintFor(err))
	return status
}

// oneLine makes foreign text safe to print: no line breaks, and no control
// characters that a terminal would obey.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
