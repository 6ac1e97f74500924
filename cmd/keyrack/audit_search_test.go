package main_test

import (
	"strings"
	"testing"
	"time"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/racktest"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 14, 5, 6, 0, time.UTC)
	for text, want := range map[string]string{
		"now":                       "2026-11-22T14:05:06Z",
		"today":                     "2026-11-22T00:00:00Z day",
		"yesterday":                 "2026-11-21T00:00:00Z day",
		"2026-02-03":                "2026-02-03T00:00:00Z day",
		"2026-02-03T04:05":          "2026-02-03T04:05:00Z",
		"2026-02-03 04:05:06":       "2026-02-03T04:05:06Z",
		"2026-02-03T04:05:06.5Z":    "2026-02-03T04:05:06.5Z",
		"2026-02-03T04:05:06+02:00": "2026-02-03T02:05:06Z",
		"2h":                        "2026-11-22T12:05:06Z",
		"-90m":                      "2026-11-22T12:35:06Z",
		"-7d":                       "2026-11-15T14:05:06Z",
	} {
		got, day, err := keyrack.ParseTime(text, now)
		s := got.UTC().Format(time.RFC3339Nano)
		if day {
			s += " day"
		}
		if err != nil || s != want {
			t.Errorf("%s: %s, %v", text, s, err)
		}
	}
	for _, text := range []string{"tomorrow", "2026-13-01", "--2h", "+2h", "7", "d", "-", "99999d", "2026-02-30"} {
		if got, _, err := keyrack.ParseTime(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// TestSearchBackwards prints every record once, the newest first, over many windows
// and answers.
func TestSearchBackwards(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	env := asMap(r)
	var forward string
	for strings.Count(forward, "\n") < 2500 {
		if status, _, stderr := keyrack.Run(env, "bench", "--op", "status", "--duration", "50ms"); status != 0 {
			t.Fatal(stderr)
		}
		_, forward, _ = keyrack.Run(env, "audit", "search", "--op", "GetStatus", "--to", "now")
	}
	_, backward, stderr := keyrack.Run(env, "audit", "search", "--op", "GetStatus", "--newest-first")
	_, offline, _ := keyrack.Run(env, "audit", "search", r.Dir+"/audit", "--op", "GetStatus")
	a, b, c := strings.Split(strings.TrimSpace(forward), "\n"), strings.Split(strings.TrimSpace(backward), "\n"), strings.Split(strings.TrimSpace(offline), "\n")
	if len(b) < len(a) || len(c) < len(a) {
		t.Fatalf("%d records forwards, %d backwards, %d of the files: %s", len(a), len(b), len(c), stderr)
	}
	for i := range a {
		if a[i] != b[len(b)-1-i] || a[i] != c[i] {
			t.Fatalf("record %d is %q forwards, %q backwards, %q of the files", i, a[i], b[len(b)-1-i], c[i])
		}
	}
}
