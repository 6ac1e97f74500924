package main_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestInitSyncsNames watches the system calls of an init: before it prints what the appliance is known by, the
// folders that hold the new names are synced, those above the data folder, too, which are new as well.
func TestInitSyncsNames(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	trace, dir := filepath.Join(t.TempDir(), "trace"), filepath.Join(top, "a", "b")
	watched := exec.Command("strace", "-f", "-y", "-s", "0", "-e", "trace=write,fsync", "-o", trace, "keyrack", "init", "--dir", dir)
	if out, err := watched.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var synced []string
	for _, s := range syscalls(t, trace) {
		if s.name == "write" && len(s.path) > 5 && s.path[:5] == "pipe:" {
			break // the answer
		}
		if s.name == "fsync" {
			synced = append(synced, s.path)
		}
	}
	for _, folder := range []string{top, filepath.Join(top, "a"), dir} {
		if !slices.Contains(synced, folder) {
			t.Errorf("%s is not synced before the end; synced are %q", folder, synced)
		}
	}
}
