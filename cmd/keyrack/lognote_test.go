package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// note returns what the client of env has kept of the log.
func note(t *testing.T, env map[string]string) (path, text string) {
	t.Helper()
	files, err := filepath.Glob(strings.TrimSuffix(env[client.EnvCert], ".pem") + ".log-*")
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return files[0], string(b)
}

// list is one command of a client, which must succeed.
func list(t *testing.T, env map[string]string) {
	t.Helper()
	if status, _, stderr := keyrack.Run(env, "key", "list"); status != 0 || stderr != "" {
		t.Fatalf("status %d, %s", status, stderr)
	}
}

// TestOldLogIsNoticed by the next command of a client, after the appliance's log was
// put back to an earlier day.
func TestOldLogIsNoticed(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	log, backup := filepath.Join(r.Dir, "audit"), filepath.Join(t.TempDir(), "backup")
	list(t, asMap(r))
	r.Restart(func(*rack.Config) {
		if err := os.CopyFS(backup, os.DirFS(log)); err != nil {
			t.Fatal(err)
		}
	})
	list(t, asMap(r))
	_, before := note(t, asMap(r))
	r.Restart(func(*rack.Config) {}) // a log that is closed is signed to its end
	list(t, asMap(r))
	path, kept := note(t, asMap(r))
	if kept == before {
		t.Fatalf("the log has grown, and what is kept is still %s", kept)
	}
	r.Restart(func(*rack.Config) {
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(log, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 {
		status, out, stderr := keyrack.Run(asMap(r), "key", "create")
		if status != 1 || out != "" || !strings.HasPrefix(stderr, "keyrack: the appliance's audit log contradicts what it has signed before: ") ||
			!strings.Contains(stderr, "\nhint: the log was cut or rewritten") || !strings.Contains(stderr, path) {
			t.Fatalf("status %d, printed %q and %q", status, out, stderr)
		}
	}
	if _, now := note(t, asMap(r)); now != kept {
		t.Error("the evidence was overwritten")
	}
	if err := os.Remove(path); err != nil { // whoever knows why does what the hint says
		t.Fatal(err)
	}
	list(t, asMap(r))
}

// TestDamagedNote is an error that says which file.
func TestDamagedNote(t *testing.T) {
	t.Parallel()
	env := asMap(racktest.Start(t))
	for list(t, env); ; list(t, env) { // there is none before the first second is over
		if files, _ := filepath.Glob(filepath.Dir(env[client.EnvCert]) + "/root.log-*"); len(files) > 0 {
			break
		}
	}
	path, _ := note(t, env)
	if err := os.WriteFile(path, []byte("rose"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := keyrack.Run(env, "key", "list")
	if status != 1 || !strings.Contains(stderr, "the kept checkpoint") || !strings.Contains(stderr, "\nhint: remove '"+path+"'") {
		t.Errorf("status %d, %s", status, stderr)
	}
	delete(env, client.EnvAuditKey) // who does not know the key keeps nothing
	list(t, env)
}

// TestCommandsShareANote at the same time.
func TestCommandsShareANote(t *testing.T) {
	t.Parallel()
	env := asMap(racktest.Start(t))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				if status, _, stderr := keyrack.Run(env, "key", "list"); status != 0 || stderr != "" {
					t.Errorf("status %d, %s", status, stderr)
				}
			}
		})
	}
	all.Wait()
}

// TestWhereTheNoteIs beside the certificate, or in the folder for state.
func TestWhereTheNoteIs(t *testing.T) {
	t.Parallel()
	key, dir := racktest.Start(t).AuditKey(), t.TempDir()
	id := strings.Split(key, "+")[1]
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"KEYRACK_CERT": dir + "/ann.pem"}, dir + "/ann.log-" + id},
		{map[string]string{"KEYRACK_CERT": dir + "/none/ann.pem", "XDG_STATE_HOME": dir + "/state"}, dir + "/state/keyrack/log/ann.log-" + id},
		{map[string]string{"KEYRACK_CERT": dir + "/none/ann.pem", "HOME": dir + "/home"}, dir + "/home/.local/state/keyrack/log/ann.log-" + id},
		{map[string]string{"KEYRACK_CERT": dir + "/none/ann.pem", "XDG_STATE_HOME": dir + "/file"}, ""},
		{map[string]string{"KEYRACK_CERT": dir + "/none/ann.pem"}, ""},
	} {
		got, stderr := keyrack.NotePath(c.env, key)
		if got != c.want || (got == "") != strings.HasPrefix(stderr, "keyrack: warning: the audit log is not compared with what was seen of it before: ") {
			t.Errorf("%v: %q, %q", c.env, got, stderr)
		}
	}
	if got, stderr := keyrack.NotePath(nil, "nonsense"); got != "" || stderr != "" {
		t.Errorf("no key: %q, %q", got, stderr)
	}
	if files, _ := filepath.Glob(dir + "/*"); !slices.Contains(files, dir+"/state") {
		t.Error("the folder for state was not made")
	}
}
