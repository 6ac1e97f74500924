package main_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
)

var update = flag.Bool("update", false, "rewrite docs/ERRORS.md")

// errorsPage is the page that TestErrorsPage holds to what is printed.
const errorsPage = "../../docs/ERRORS.md"

// errorsHead is what stands above the tables.
const errorsHead = `# Errors

What a person may run into, and what keyrack says: each row was provoked by a test, ` + "`cmd/keyrack/errors_doc_test.go`" + `, which compares this
page with what was printed. An error is one line; the line after it begins with ` + "`hint:`" + ` and says what to do.

*Kind* is what programs look at: AWS's exception name of an error that an appliance has answered (numbers and reasons for other
clients: [protocol/PROTOCOL.md](../protocol/PROTOCOL.md#error-kinds)); *usage* for a command line that makes no sense (exit
status 2); nothing for what went wrong on this side or at a start (exit status 1). DIR, HOST:PORT, ID, N and … stand for what differs from case to case.
`

// errorRow is a situation and what was printed in it.
type errorRow struct {
	situation        string
	kind, text, hint string
}

// errorSection is a table of the page.
type errorSection struct {
	title string
	rows  func(t *testing.T) []errorRow
}

// TestErrorsPage provokes every row of docs/ERRORS.md and compares the page.
func TestErrorsPage(t *testing.T) {
	t.Parallel()
	sections := errorSections()
	tables := make([][]errorRow, len(sections))
	t.Run("provoke", func(t *testing.T) { // returns when all of its parallel parts have
		for i, s := range sections {
			t.Run(s.title, func(t *testing.T) {
				t.Parallel()
				tables[i] = s.rows(t)
			})
		}
	})
	var b strings.Builder
	b.WriteString(errorsHead)
	rows := 0
	for i, s := range sections {
		rows += len(tables[i])
		writeSection(t, &b, s.title, tables[i])
	}
	writeRest(&b, b.String())
	t.Logf("%d rows", rows)
	if rows < 100 {
		t.Errorf("%d rows: the page is not complete", rows)
	}
	comparePage(t, b.String())
}

// comparePage compares the page, or rewrites it.
func comparePage(t *testing.T, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(errorsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	is, should := strings.Split(string(b), "\n"), strings.Split(want, "\n")
	for i, line := range should {
		if i >= len(is) || is[i] != line {
			got := "(nothing)"
			if i < len(is) {
				got = is[i]
			}
			t.Fatalf("docs/ERRORS.md, line %d is\n%s\nwhat is printed now is\n%s\nrewrite the page with: go test ./cmd/keyrack -run TestErrorsPage -update", i+1, got, line)
		}
	}
	if len(is) != len(should) {
		t.Errorf("docs/ERRORS.md has %d lines, want %d; rewrite it with: go test ./cmd/keyrack -run TestErrorsPage -update", len(is), len(should))
	}
}

// writeSection writes a table, and finds rows that leave their reader alone.
func writeSection(t *testing.T, b *strings.Builder, title string, rows []errorRow) {
	t.Helper()
	fmt.Fprintf(b, "\n## %s\n\n| situation | kind | text | hint |\n|---|---|---|---|\n", title)
	for _, r := range rows {
		if r.text == "" || r.hint == "" || r.hint == keyrack.OtherHint {
			t.Errorf("%s: %s: the text is %q and the hint %q: it must say what to do", title, r.situation, r.text, r.hint)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell(r.situation), cell(r.kind), cell(r.text), cell(r.hint))
	}
}

// cell makes text safe for a cell of a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`).Replace(s)
}

// writeRest lists what none of the tables shows: kinds and reasons that take a
// fault of the machine, or that no operation of this version answers.
func writeRest(b *strings.Builder, page string) {
	b.WriteString("\n## Not provoked above\n\nThese take a fault of the machine, a moment that a test cannot hold, or an operation that this version does not have.\n\n" +
		"| answered by an appliance | hint |\n|---|---|\n")
	for _, k := range api.Kinds() {
		if !strings.Contains(page, "| "+k.String()+" |") {
			fmt.Fprintf(b, "| %s | %s |\n", k, cell(keyrack.HintFor(k)))
		}
	}
	for _, r := range keyrack.ReasonHints() {
		if !strings.Contains(page, cell(r[1])) {
			fmt.Fprintf(b, "| reason %s | %s |\n", r[0], cell(r[1]))
		}
	}
	b.WriteString("\n| on this side: hint |\n|---|\n")
	for _, hint := range keyrack.Hints() {
		if !strings.Contains(page, cell(hint)) {
			fmt.Fprintf(b, "| %s |\n", cell(hint))
		}
	}
}

// errorCase is a situation, and the shell line that brings it about.
type errorCase struct{ situation, line string }

// provoke runs lines in a folder, each of which must fail and say why. Some of
// what they print differs from run to run: names gives other words for that.
func provoke(t *testing.T, dir string, env []string, names map[string]string, cases []errorCase) (rows []errorRow) {
	t.Helper()
	for _, c := range cases {
		cmd := exec.Command("sh", "-c", c.line)
		cmd.Dir, cmd.Env = dir, slices.Concat(env, ownEnv, []string{"PATH=" + os.Getenv("PATH")})
		var stderr strings.Builder
		cmd.Stderr = &stderr
		err := cmd.Run()
		if err == nil {
			t.Errorf("%s: %s succeeds", c.situation, c.line)
			continue
		}
		rows = append(rows, readError(t, c.situation, cmd.ProcessState.ExitCode(), stderr.String(), names))
	}
	return rows
}

// printed finds an error and its hint. Of serve, the supervisor's log may go on behind them.
var printed = regexp.MustCompile(`(?m)^keyrack: (.*)\nhint: (.*)\n(?:time=.*\n)*\z`)

// readError reads what a command printed.
func readError(t *testing.T, situation string, status int, stderr string, names map[string]string) errorRow {
	t.Helper()
	m := printed.FindStringSubmatch(stderr)
	if m == nil {
		t.Errorf("%s: status %d, printed no error and hint at the end: %q", situation, status, stderr)
		return errorRow{situation: situation}
	}
	text, hint := plain(m[1], names), plain(m[2], names)
	return errorRow{situation, kindIn(text, status), text, hint}
}

// kindIn returns the kind of error that text names.
func kindIn(text string, status int) string {
	for _, k := range api.Kinds() {
		if strings.Contains(text, k.String()) {
			return k.String()
		}
	}
	if status == 2 {
		return "usage"
	}
	return ""
}

// differing is what differs from run to run, and what stands for it.
var differing = []struct {
	is *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:…"},
	{regexp.MustCompile(`mrk-[0-9a-f]{32}`), "mrk-ID"},
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`127\.[0-9.]+:([0-689][0-9]*|7[013-9][0-9]*|72[0-46-9][0-9]*|725[1-9]|725[0-9]{2})\b`), "HOST:PORT"}, // not the default
	{regexp.MustCompile(`records [0-9]+ to [0-9]+`), "records N to N"},
	{regexp.MustCompile(`(process|segment|batch|record|records|covers) [0-9]+`), "$1 N"},
	{regexp.MustCompile(`\.keyrack-[0-9]+`), ".keyrack-N"},
	{regexp.MustCompile(`log-[0-9a-f]{8}`), "log-…"},
	{regexp.MustCompile(`sock has [0-9]+ bytes`), "sock has N bytes"},
	{regexp.MustCompile(`slot/0x[0-9a-f]+`), "slot/…"},
	{regexp.MustCompile(`[0-9]+ (whole records|records)`), "N $1"},
	{regexp.MustCompile(`20[0-9]{2}-[0-9T:.-]+Z`), "TIME"},
	{regexp.MustCompile(`[A-Za-z0-9+/]{60,}=*`), "…"},
	{regexp.MustCompile(`x{60,}`), "x…"},
	{regexp.MustCompile(fmt.Sprintf(`\b%d\b`, smallSegment)), fmt.Sprint(audit.DefaultSegment)}, // whose appliances have the default's size
}

// plain replaces what differs from run to run.
func plain(s string, names map[string]string) string {
	for _, path := range slices.SortedFunc(mapsKeys(names), func(a, b string) int { return len(b) - len(a) }) {
		s = strings.ReplaceAll(s, path, names[path])
	}
	for _, d := range differing {
		s = d.is.ReplaceAllString(s, d.by)
	}
	return s
}

func mapsKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if k != "" && !yield(k) {
				return
			}
		}
	}
}

// shortDir returns a folder whose path leaves room for a Unix socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "err")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// prepare runs a shell script that must succeed.
func prepare(t *testing.T, dir string, env []string, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Dir, cmd.Env = dir, slices.Concat(env, ownEnv, []string{"PATH=" + os.Getenv("PATH")})
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// inHints finds commands in a hint: of one word or two, or behind keyrack help.
var inHints = regexp.MustCompile(`keyrack ((?:help )?[a-z][a-z-]*(?: [a-z][a-z-]*)?)`)

// TestHintsNameCommands looks for the commands that hints name.
func TestHintsNameCommands(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	known := func(words ...string) bool {
		status, _, _ := keyrack.Run(nil, append([]string{"help"}, words...)...)
		return status == 0
	}
	checked := 0
	for _, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, m := range inHints.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			words := strings.Fields(strings.TrimPrefix(m[1], "help "))
			if words[0] == "that" || words[0] == "itself" || m[1] == "help" { // prose
				continue
			}
			if checked++; !known(words...) && !known(words[0]) {
				t.Errorf("a hint names keyrack %s, which is not there: %s", m[1], line)
			}
		}
	}
	if checked < 50 {
		t.Errorf("%d commands are named in hints", checked)
	}
}
