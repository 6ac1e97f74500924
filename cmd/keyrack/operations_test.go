package main_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sources returns the text of all Go files but tests.
func sources(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		b.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestOperationsQuotesWhatIsPrinted looks for every warning and log line of the
// operator's page in the source.
func TestOperationsQuotesWhatIsPrinted(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(documents(t)["docs/OPERATIONS.md"], "### What status warns of")
	quoted := regexp.MustCompile("(?m)^\\| `([^`]*)` \\|").FindAllStringSubmatch(text, -1)
	if len(quoted) < 15 {
		t.Fatalf("%d lines are quoted", len(quoted))
	}
	source := sources(t)
	for _, m := range quoted {
		if !strings.Contains(source, m[1]) {
			t.Errorf("docs/OPERATIONS.md quotes %q, which nothing prints", m[1])
		}
	}
}

// unitSettings reads the unit: section/name to values in their order.
func unitSettings(t *testing.T, text string) map[string][]string {
	t.Helper()
	settings, section := map[string][]string{}, ""
	for _, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		default:
			name, value, found := strings.Cut(line, "=")
			if !found || section == "" || strings.TrimSpace(name) != name {
				t.Errorf("the unit has the line %q", line)
			}
			settings[section+"/"+name] = append(settings[section+"/"+name], value)
		}
	}
	return settings
}

// TestUnit reads the unit as far as the appliance depends on it, runs its command
// as far as the command line is concerned, and asks systemd where it is installed.
func TestUnit(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../contrib/keyrack.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := unitSettings(t, string(b))
	for name, want := range map[string]string{
		"Service/Type": "notify", "Service/LimitMEMLOCK": "64M", "Service/LimitCORE": "0", "Service/KillMode": "mixed",
		"Service/User": "keyrack", "Service/StateDirectoryMode": "0700", "Service/CapabilityBoundingSet": "",
	} {
		if got := unit[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	start := strings.Fields(strings.Join(unit["Service/ExecStart"], " "))
	if len(start) == 0 || filepath.Base(start[0]) != "keyrack" {
		t.Fatalf("ExecStart is %q", start)
	}
	out, _ := exec.Command("keyrack", start[1:]...).CombinedOutput() // there is no appliance in that folder
	if !strings.Contains(string(out), "keyrack init --dir DIR makes an appliance there") {
		t.Errorf("ExecStart: %s", out)
	}
	verifyUnit(t, strings.Replace(string(b), start[0], "/bin/true", 1))
}

// verifyUnit lets systemd read the unit where there is one.
func verifyUnit(t *testing.T, unit string) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	path := filepath.Join(t.TempDir(), "keyrack.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "keyrack.service:") {
			t.Errorf("systemd-analyze: %s", line)
		}
	}
}
