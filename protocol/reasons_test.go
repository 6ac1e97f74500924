package protocol_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
)

// TestReasonsAreInTheDocument compares the table of reasons with what the code
// answers, and its kinds with the list of them.
func TestReasonsAreInTheDocument(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "<!-- begin reasons -->")
	table, _, found := strings.Cut(table, "<!-- end reasons -->")
	if !found {
		t.Fatal("PROTOCOL.md has no table of reasons")
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([A-Za-z, ]+) \\|").FindAllStringSubmatch(table, -1) {
		listed[row[1]] = true
		for _, kind := range strings.Split(row[2], ", ") {
			if !slices.ContainsFunc(api.Kinds(), func(k api.Kind) bool { return k.String() == kind }) {
				t.Errorf("PROTOCOL.md gives the reason %s to %q, which is no kind", row[1], kind)
			}
		}
	}
	answered := reasonsInCode(t)
	if !maps.Equal(listed, answered) {
		t.Errorf("PROTOCOL.md has the reasons\n%v\nthe code answers\n%v", slices.Sorted(maps.Keys(listed)), slices.Sorted(maps.Keys(answered)))
	}
}

// reasonsInCode returns the reasons in the source of what answers requests.
func reasonsInCode(t *testing.T) map[string]bool {
	t.Helper()
	reason := regexp.MustCompile(`(?:Reason: *|Reason = (?:[A-Za-z.]+, *)?)"([a-z-]+)"`)
	found := map[string]bool{}
	for _, dir := range []string{"../access", "../service", "../protocol", "../internal/rack"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range reason.FindAllStringSubmatch(string(b), -1) {
				found[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
