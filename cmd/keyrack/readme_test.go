package main_test

import (
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
)

// runnable finds the blocks of README.md that are marked to be run.
var runnable = regexp.MustCompile("(?ms)^```sh run\n(.*?)^```$")

// TestReadme runs the README's blocks in the environment it names, each in a
// folder of its own.
func TestReadme(t *testing.T) {
	t.Parallel()
	blocks := runnable.FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md has no block to run")
	}
	for _, b := range blocks {
		name, _, _ := strings.Cut(b[1], "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "readme") // not t.TempDir: a Unix socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			cmd := exec.Command("keyrack", "dev", "--", "sh", "-eux", "-c", "trap 'jobs -p | xargs -r kill' EXIT\n"+b[1])
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

// TestReadmeNamesWhatExists looks for every path that the README names.
func TestReadmeNamesWhatExists(t *testing.T) {
	t.Parallel()
	for _, m := range regexp.MustCompile("`([a-z0-9]+/[A-Za-z0-9_./]+)`").FindAllStringSubmatch(readme(t), -1) {
		if _, err := os.Stat(path.Join("../..", m[1])); err != nil {
			t.Errorf("README.md names %s: %v", m[1], err)
		}
	}
	if lines := strings.Count(readme(t), "\n"); lines > 150 {
		t.Errorf("README.md has %d lines: a newcomer reads 150", lines)
	}
}

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
