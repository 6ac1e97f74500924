package main_test

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fence finds the blocks of a document: what is behind the fence, and what is in it.
var fence = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// documents returns the pages for people who use or run an appliance, by path
// from the root of the tree.
func documents(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	for _, p := range append(paths, "../../README.md") {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		docs[strings.TrimPrefix(p, "../../")] = string(b)
	}
	return docs
}

// scriptsOf returns the scripts of a document: a block "sh run" begins one, "sh
// then" goes on with it. A block for a shell that is neither says why: "sh not
// run: REASON".
func scriptsOf(t *testing.T, name, text string) (scripts []string) {
	t.Helper()
	for _, b := range fence.FindAllStringSubmatch(text, -1) {
		switch kind := b[1]; {
		case kind == "sh run":
			scripts = append(scripts, b[2])
		case kind == "sh then" && len(scripts) > 0:
			scripts[len(scripts)-1] += b[2]
		case regexp.MustCompile(`^sh not run: \S+`).MatchString(kind):
		case regexp.MustCompile(`^(sh|bash|shell|console)\b`).MatchString(kind):
			t.Errorf("%s: a block is marked %q: want sh run, sh then, or sh not run: and the reason", name, kind)
		}
	}
	return scripts
}

// TestDocuments runs the documents' blocks in the environment that README.md
// names, each script in a folder of its own.
func TestDocuments(t *testing.T) {
	t.Parallel()
	for name, text := range documents(t) {
		for _, script := range scriptsOf(t, name, text) {
			first, _, _ := strings.Cut(script, "\n")
			t.Run(path.Base(name)+" "+first, func(t *testing.T) {
				t.Parallel()
				runDocumented(t, script)
			})
		}
	}
}

func runDocumented(t *testing.T, script string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("keyrack", "dev", "--", "sh", "-eux", "-c", "trap 'jobs -p | xargs -r kill' EXIT\n"+script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestTenMinutes counts what a stranger types and reads before an appliance that
// stays has served two clients and proved its log.
func TestTenMinutes(t *testing.T) {
	t.Parallel()
	_, text, found := strings.Cut(documents(t)["README.md"], "\n## Ten minutes\n")
	text, _, more := strings.Cut(text, "\n## ")
	if !found || !more {
		t.Fatal("README.md has no ten minutes")
	}
	commands := 0
	for _, script := range scriptsOf(t, "README.md", text) {
		commands += len(strings.Split(strings.TrimSpace(script), "\n"))
	}
	words := len(strings.Fields(text))
	t.Logf("ten minutes: %d lines to type, %d words in all", commands, words)
	if commands > 17 || words > 400 {
		t.Errorf("ten minutes: %d lines to type, want at most 17; %d words, want at most 400", commands, words)
	}
}

// TestDocumentsNameWhatExists looks for every path that the documents name, and
// for every page they link to.
func TestDocumentsNameWhatExists(t *testing.T) {
	t.Parallel()
	paths := regexp.MustCompile("`((?:access|api|audit|bench|cmd|contrib|docs|domain|fuzz|hsm|internal|keystore|protocol|service)/[A-Za-z0-9_./-]+)`")
	links := regexp.MustCompile(`\]\(([^)#:]+)[)#]`)
	for name, text := range documents(t) {
		for _, m := range paths.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(path.Join("../..", m[1])); err != nil {
				t.Errorf("%s names %s: %v", name, m[1], err)
			}
		}
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(path.Join("../..", path.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
	if lines := strings.Count(documents(t)["README.md"], "\n"); lines > 150 {
		t.Errorf("README.md has %d lines: a newcomer reads 150", lines)
	}
}
