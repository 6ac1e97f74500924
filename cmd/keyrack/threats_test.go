package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsNameTests looks for every test that the threat model rests on, and
// for a table of them under each attacker.
func TestThreatsNameTests(t *testing.T) {
	t.Parallel()
	text := documents(t)["docs/THREATS.md"]
	named := regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(text, -1)
	if len(named) < 40 {
		t.Fatalf("%d tests are named", len(named))
	}
	for _, m := range named {
		if !hasTest(t, m[1], m[2]) {
			t.Errorf("docs/THREATS.md names %s of %s, which is not there", m[2], m[1])
		}
	}
	_, tables, _ := strings.Cut(text, "## Who attacks")
	for _, line := range strings.Split(tables, "\n") {
		if row := strings.Split(line, "|"); len(row) == 4 && !strings.Contains(row[2], "`") && row[2] != " test " && row[2] != "---" {
			t.Errorf("docs/THREATS.md names no test: %s", line)
		}
	}
}

// hasTest reports whether a package has a test or a fuzz target of that name.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
