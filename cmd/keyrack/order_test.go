package main_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestOrderOnDisk watches an appliance's system calls while it creates a key: the store is synced, then the audit log,
// then the answer leaves. Request and answer are known by their length.
func TestOrderOnDisk(t *testing.T) {
	t.Parallel()
	trace := filepath.Join(t.TempDir(), "trace")
	dev := exec.Command("strace", "-f", "-y", "-s", "0", "-e", "trace=read,write,fsync,fdatasync", "-o", trace, "keyrack", "dev")
	dev.Env = append(os.Environ(), "XDG_STATE_HOME="+t.TempDir())
	out, err := dev.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	dev.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() error {
		syscall.Kill(-dev.Process.Pid, syscall.SIGTERM) // of a process that is ours until Wait
		return dev.Wait()
	}
	c := connectTo(t, bufio.NewScanner(out))
	long := strings.Repeat("x", describes)
	if _, err := client.Do(t.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: long}); err != nil {
		t.Error(err)
	}
	c.Close()
	stop() // strace ends as its child does, by the signal
	var order []string
	for _, s := range syscalls(t, trace) {
		if what := s.event(); what != "" {
			order = append(order, what)
		}
	}
	story := strings.Join(order, " ")
	if !regexp.MustCompile(`request( audit| store)* store( audit)+ answer`).MatchString(story) {
		t.Errorf("the order is %q", story)
	}
}

// describes is the length of the description that marks request and answer. The request may be read in two pieces.
const describes = 8000

// connectTo connects to the appliance whose environment is printed.
func connectTo(t *testing.T, lines *bufio.Scanner) *client.Client {
	t.Helper()
	vars := map[string]string{}
	for vars[client.EnvSocket] == "" && lines.Scan() {
		name, value, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		vars[name] = strings.Trim(value, "'")
	}
	cfg, err := client.FromEnv(func(name string) string { return vars[name] })
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tracedCall is a system call on a descriptor, in the order in which calls came back.
type tracedCall struct {
	name, path string
	result     int
}

// syscalls reads a trace: PID NAME(FD<PATH>, …) = RESULT, in two lines where another thread comes between.
func syscalls(t *testing.T, trace string) (all []tracedCall) {
	t.Helper()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	begun := map[string]string{} // by thread
	for line := range strings.Lines(string(b)) {
		pid, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		if head, ok := strings.CutSuffix(rest, "<unfinished ...>"); ok {
			begun[pid] = head
			continue
		}
		if _, tail, ok := strings.Cut(rest, " resumed>"); ok {
			rest = begun[pid] + tail
		}
		if m := traced.FindStringSubmatch(rest); m != nil {
			n, _ := strconv.Atoi(m[3])
			all = append(all, tracedCall{m[1], m[2], n})
		}
	}
	return all
}

var traced = regexp.MustCompile(`^(\w+)\(\d+<([^>]*)>.*\)\s*= (\d+)`)

// event says what a call means here, "" if nothing.
func (s tracedCall) event() string {
	sync := s.name == "fsync" || s.name == "fdatasync"
	switch {
	case sync && strings.HasSuffix(s.path, "/store.db"):
		return "store"
	case sync && strings.HasSuffix(s.path, ".seg"):
		return "audit"
	case strings.HasPrefix(s.path, "socket:") && s.name == "read" && s.result > describes/2:
		return "request"
	case strings.HasPrefix(s.path, "socket:") && s.name == "write" && s.result > describes:
		return "answer"
	}
	return ""
}
