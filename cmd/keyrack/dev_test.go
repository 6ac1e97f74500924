package main_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// session is a running keyrack.
type session struct {
	*exec.Cmd
	t     *testing.T
	lines *bufio.Scanner // of its standard output
}

// begin starts keyrack, found by PATH as TestMain put it there.
func begin(t *testing.T, env []string, args ...string) *session {
	t.Helper()
	cmd := exec.Command("keyrack", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &session{cmd, t, bufio.NewScanner(out)}
}

// until reads lines up to one that matches, and returns them all.
func (s *session) until(pattern string) string {
	s.t.Helper()
	var seen strings.Builder
	for re := regexp.MustCompile(pattern); s.lines.Scan(); {
		seen.WriteString(s.lines.Text() + "\n")
		if re.MatchString(s.lines.Text()) {
			return seen.String()
		}
	}
	s.t.Fatalf("no line matches %q in:\n%s", pattern, seen.String())
	return ""
}

// end sends a signal and waits.
func (s *session) end(signal os.Signal) error {
	s.t.Helper()
	if err := s.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
	for s.lines.Scan() {
	}
	return s.Wait()
}

// TestDevEndsCleanly looks for what an appliance that is thrown away leaves behind.
func TestDevEndsCleanly(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			s := begin(t, []string{"TMPDIR=" + tmp}, "dev", "--demo")
			printed := s.until("Ctrl-C here ends")
			for _, name := range []string{client.EnvAddr, client.EnvServerKey, client.EnvCert, client.EnvKey, client.EnvSocket, "PATH"} {
				if !strings.Contains(printed, "\nexport "+name+"=") {
					t.Errorf("%s is not exported in:\n%s", name, printed)
				}
			}
			if err := s.end(signal); err != nil {
				t.Errorf("ended with %v", err)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind %v, %v", left, err)
			}
		})
	}
}

// TestDevEnvironment pastes what dev prints into another shell.
func TestDevEnvironment(t *testing.T) {
	t.Parallel()
	s := begin(t, []string{"TMPDIR=" + filepath.Clean(t.TempDir()), "XDG_STATE_HOME=" + stateHome(t)}, "dev")
	printed := s.until("Ctrl-C here ends")
	other := exec.Command("sh", "-c", printed+"\nkeyrack key create")
	other.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := other.CombinedOutput()
	if err != nil || !regexp.MustCompile(`^[0-9a-f-]{36}\n$`).Match(out) {
		t.Errorf("key create printed %q: %v", out, err)
	}
	if err := s.end(os.Interrupt); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// stateHome returns a folder for what dev keeps, with a short path.
func stateHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestDevKeeps ends an appliance for development, in order and by force, and finds
// its keys and its client again in the next.
func TestDevKeeps(t *testing.T) {
	t.Parallel()
	env := []string{"XDG_STATE_HOME=" + stateHome(t)}
	const prelude = "cd ${XDG_STATE_HOME:?}/keyrack/dev; "
	paste := func(s *session, line string) string {
		t.Helper()
		other := exec.Command("sh", "-ec", s.until("Ctrl-C here ends")+prelude+line)
		other.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
		out, err := other.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	s := begin(t, env, "dev")
	paste(s, "keyrack key create >../key; echo kept | keyrack encrypt --key $(cat ../key) --out ../kept.enc; cp client.key ..")
	if err := s.end(os.Interrupt); err != nil {
		t.Errorf("ended with %v", err)
	}
	s = begin(t, env, "dev")
	if out := paste(s, "keyrack decrypt --in ../kept.enc; cmp client.key ../client.key"); out != "kept\n" {
		t.Errorf("decrypted %q", out)
	}
	if err := s.end(os.Kill); err == nil {
		t.Error("ended before it was killed")
	}
	s = begin(t, env, "dev")
	if out := paste(s, "keyrack decrypt --in ../kept.enc; keyrack lock; keyrack unlock; keyrack decrypt --in ../kept.enc"); out != "kept\nLOCKED\nUNLOCKED\nkept\n" {
		t.Errorf("printed %q", out)
	}
	reset := exec.Command("keyrack", "dev", "reset")
	reset.Env = append(os.Environ(), env...)
	if out, err := reset.CombinedOutput(); err == nil || !strings.Contains(string(out), fmt.Sprint(s.Process.Pid)) {
		t.Errorf("reset while it runs: %v, %s", err, out)
	}
	if err := s.end(os.Interrupt); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestDemo holds what make run shows to what it claims.
func TestDemo(t *testing.T) {
	t.Parallel()
	s := begin(t, nil, "dev", "--demo")
	printed := s.until("Ctrl-C here ends")
	for _, want := range []string{
		`(?m)^\$ key=\$\(keyrack key create .*\n[0-9a-f-]{36}$`,
		`(?m)^120 letter.enc$`,
		`(?m)^\$ keyrack decrypt --context to=bob .*\nattack at dawn$`,
		`(?m)^\$ keyrack decrypt --context to=eve .*\nkeyrack: InvalidCiphertextException: .*\nhint: .*$`,
		`(?m)^[0-9]+  .*kms:Encrypt  ok  .*EncryptionContext=\{to=bob\}`,
		`(?m)^\$ keyrack audit verify\nOK: .* covers [0-9]+ of them$`,
	} {
		if !regexp.MustCompile(want).MatchString(printed) {
			t.Errorf("no match for %s in:\n%s", want, printed)
		}
	}
	if err := s.end(os.Interrupt); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestAuditFollow sees a record that was made while it looked.
func TestAuditFollow(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	s := begin(t, environment(r), "audit", "tail", "-n", "1", "--follow")
	r.CreateKey()
	s.until(`kms:CreateKey  ok`)
	if _, err := client.Do(t.Context(), r.Stranger, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: "later"}); err != nil {
		t.Fatal(err)
	}
	if seen := s.until(`Description=later`); strings.Contains(seen, "ListAuditRecords") {
		t.Errorf("its own reading is printed:\n%s", seen)
	}
	if err := s.end(os.Kill); err == nil {
		t.Error("ended before it was killed")
	}
}
