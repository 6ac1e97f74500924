package main_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"
)

// TestEveryCommandIsExplained: one line of the list, a page, and examples whose flags
// exist and take what they are given.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	list := helpOf(t)
	for _, c := range keyrack.Commands() {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 60 {
			t.Errorf("%s: its line of the list is %q, want a phrase of at most 60 bytes", c.Name, c.Short)
		}
		if !regexp.MustCompile(`(?m)^  keyrack ` + c.Name + ` +` + regexp.QuoteMeta(c.Short) + `$`).MatchString(list) {
			t.Errorf("%s is not in the list", c.Name)
		}
		page := helpOf(t, strings.Fields(c.Name)...)
		if !strings.HasPrefix(page, "usage: keyrack "+c.Name) {
			t.Errorf("%s: its page begins with %.40q", c.Name, page)
		}
		if len(c.Examples) == 0 {
			t.Errorf("%s: it has no example", c.Name)
		}
		for _, line := range c.Examples {
			if !strings.Contains(page, "\n  "+line+"\n") {
				t.Errorf("%s: its page does not show %q", c.Name, line)
			}
			example(t, c.Name, line)
		}
	}
}

// example parses a line of a shell, of which keyrack is the first command.
func example(t *testing.T, name, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " | ")
	line = regexp.MustCompile(` [<>] \S+`).ReplaceAllString(line, "")
	line = regexp.MustCompile(`\$\([^)]*\)`).ReplaceAllString(line, "VALUE")
	words := strings.Fields(strings.ReplaceAll(line, "'", ""))
	if words[0] != "keyrack" || !strings.HasPrefix(line, "keyrack "+name) {
		t.Errorf("%q is no example of %s", line, name)
	}
	if err := keyrack.Parses(words[1:]); err != nil {
		t.Errorf("%q: %v", line, err)
	}
}

// TestExamplesAreChecked: what is wrong in an example would be found.
func TestExamplesAreChecked(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"polish", "key create --colour red", "key create --output yaml", "call kms Encrypt --colour red", "call kms Polish", "help polish"} {
		if keyrack.Parses(strings.Fields(line)) == nil {
			t.Errorf("%q parses", line)
		}
	}
}

// TestPagesFitATerminal: no line of help is longer than what people see at once.
func TestPagesFitATerminal(t *testing.T) {
	t.Parallel()
	pages := [][]string{nil, {"environment"}, {"files"}, {"exit"}, {"key"}, {"call", "kms", "Encrypt"}}
	for _, c := range keyrack.Commands() {
		pages = append(pages, strings.Fields(c.Name))
	}
	for _, words := range pages {
		usage := true // as long as its flags make it
		for line := range strings.Lines(helpOf(t, words...)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 && !usage {
				t.Errorf("help %s: %d characters: %s", strings.Join(words, " "), n, line)
			}
			usage = false
		}
	}
}

// TestEnvironmentIsListed: the page has every variable that a setting reads.
func TestEnvironmentIsListed(t *testing.T) {
	t.Parallel()
	page := helpOf(t, "environment")
	serve := helpOf(t, "serve")
	for _, s := range keyrack.Settings() {
		if !regexp.MustCompile(`(?m)^  `+s.EnvName()+`( |$)`).MatchString(page) || !strings.Contains(page, "(--"+s.FlagName()+")") {
			t.Errorf("help environment does not list %s", s.EnvName())
		}
		if s.Section() != "client" && !strings.Contains(serve, "  --"+s.FlagName()+" ") {
			t.Errorf("help serve does not list --%s", s.FlagName())
		}
	}
}

// TestSettingsHaveNamesOfTheirOwn: no two share a flag or a variable.
func TestSettingsHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, s := range keyrack.Settings() {
		for _, name := range []string{"--" + s.FlagName(), s.EnvName(), s.Name} {
			if other, ok := seen[name]; ok {
				t.Errorf("%s is of %s and of %s", name, other, s.Name)
			}
			seen[name] = s.Name
		}
		if s.Doc == "" || strings.HasSuffix(s.Doc, ".") {
			t.Errorf("%s: %q is no phrase", s.Name, s.Doc)
		}
		if s.Default != "" && s.Check(s.Default) != nil {
			t.Errorf("%s: its own default %q is refused: %v", s.Name, s.Default, s.Check(s.Default))
		}
	}
}

// helpOf returns a page of help.
func helpOf(t *testing.T, words ...string) string {
	t.Helper()
	status, out, stderr := keyrack.Run(nil, append([]string{"help"}, words...)...)
	if status != 0 || stderr != "" {
		t.Fatalf("help %s: status %d, %s", strings.Join(words, " "), status, stderr)
	}
	return out
}
