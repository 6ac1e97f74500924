package supervise_test

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/internal/rack/supervise"
)

// rig is a supervisor in this process and what its workers print.
type rig struct {
	lines
	stop  chan os.Signal
	ended chan error
	log   *buffer
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	more sync.Cond    // of mu
	b    bytes.Buffer // guarded by mu
}

func newBuffer() *buffer {
	b := new(buffer)
	b.more.L = &b.mu
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.more.Broadcast()
	return b.b.Write(p)
}

// until waits for words.
func (b *buffer) until(words string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !strings.Contains(b.b.String(), words) {
		b.more.Wait()
	}
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a supervisor. kind says of what kind each worker is, from 0.
func start(t *testing.T, kind func(n int) string, options ...func(*supervise.Config)) *rig {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{lines{t, bufio.NewScanner(out)}, make(chan os.Signal, 2), make(chan error, 1), newBuffer()}
	n := 0
	cfg := supervise.Config{
		Command: func(s supervise.State) *exec.Cmd {
			cmd := command(kind(n), s)
			cmd.Stdout = in
			n++
			return cmd
		},
		First: supervise.State{Addr: "host:0"}, Stop: r.stop, Logger: slog.New(slog.NewTextHandler(r.log, nil)),
		Pauses: supervise.Pauses{First: time.Millisecond, Most: 4 * time.Millisecond},
	}
	for _, option := range options {
		option(&cfg)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.ended <- supervise.Run(cfg)
		in.Close()
	}()
	t.Cleanup(func() {
		r.stop <- syscall.SIGTERM
		r.stop <- syscall.SIGTERM
		<-over
		out.Close()
	})
	return r
}

func good(int) string { return "good" }

func kill(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

// TestCrash kills workers: the next one has the address and the state that the last
// one told.
func TestCrash(t *testing.T) {
	t.Parallel()
	r := start(t, good)
	var pid, last int
	r.want("ready %d false host:0", &pid)
	for range 3 {
		kill(t, pid, syscall.SIGKILL)
		last = pid
		r.want("ready %d false host:4711", &pid)
		if pid == last {
			t.Errorf("worker %d is said to follow itself", pid)
		}
	}
	r.stop <- syscall.SIGTERM
	r.want("stopped")
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if log := r.log.String(); strings.Count(log, `status="signal: killed"`) != 3 || !strings.Contains(log, "again=unlocked") {
		t.Errorf("the log does not say how workers ended:\n%s", log)
	}
}

// TestLock follows the state through locks, kills and unlocks.
func TestLock(t *testing.T) {
	t.Parallel()
	r := start(t, good)
	var pid int
	r.want("ready %d false host:0", &pid)
	kill(t, pid, syscall.SIGUSR1)
	r.want("ready %d true host:4711", &pid)
	kill(t, pid, syscall.SIGKILL)
	r.want("ready %d true host:4711", &pid)
	kill(t, pid, syscall.SIGUSR2)
	r.want("unlocked")
	kill(t, pid, syscall.SIGKILL)
	r.want("ready %d false host:4711", &pid)
	if log := r.log.String(); !strings.Contains(log, "ended to lock") || !strings.Contains(log, "again=locked") {
		t.Errorf("the log does not tell the story:\n%s", log)
	}
}

// TestFirstFails has a worker that never becomes ready: there is no second one.
func TestFirstFails(t *testing.T) {
	t.Parallel()
	r := start(t, func(int) string { return "broken" })
	failed, ok := errors.AsType[*supervise.Failed](<-r.ended)
	if !ok || failed.Worker.ExitCode() != 7 {
		t.Errorf("ended with %v", failed)
	}
	if begun := strings.Count(r.log.String(), "a worker begins"); begun != 1 {
		t.Errorf("%d workers were started", begun)
	}
}

// TestNoBinary cannot start a worker at all.
func TestNoBinary(t *testing.T) {
	t.Parallel()
	r := start(t, good, func(c *supervise.Config) {
		c.Command = func(supervise.State) *exec.Cmd { return exec.Command(filepath.Join(t.TempDir(), "nothing")) }
	})
	if err := <-r.ended; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ended with %v", err)
	}
}

// TestBackoff lets workers fail once one was ready.
func TestBackoff(t *testing.T) {
	t.Parallel()
	r := start(t, func(n int) string {
		if n == 0 || n > 5 {
			return "good"
		}
		return "broken"
	})
	var pid int
	r.want("ready %d false host:0", &pid)
	kill(t, pid, syscall.SIGKILL)
	r.want("ready %d false host:4711", &pid)
	log := r.log.String()
	at := 0
	for _, pause := range []string{"0s", "1ms", "2ms", "4ms", "4ms", "4ms"} {
		found := strings.Index(log[at:], " in="+pause+"\n")
		if found < 0 {
			t.Fatalf("no pause of %s behind byte %d of:\n%s", pause, at, log)
		}
		at += found + 1
	}
}

// TestPausesBeginAnew is the row of pauses itself.
func TestPausesBeginAnew(t *testing.T) {
	t.Parallel()
	var p supervise.Pauses
	lived := []time.Duration{0, 0, 59 * time.Second, 0, 0, 0, 0, 0, time.Minute, 0}
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 16, 30, 30, 0, 1} {
		if got := p.Next(lived[i]); got != want*time.Second {
			t.Errorf("pause %d is %v, want %d s", i, got, want)
		}
	}
}

// TestStop ends workers that do not stop as they should.
func TestStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		patience   time.Duration
		signals    int
		log        string
	}{
		{"second signal", "stubborn", time.Hour, 2, "the worker is killed"},
		{"bound", "stubborn", time.Millisecond, 1, "takes too long to stop"},
		{"error", "unclean", time.Hour, 1, "stopping"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(int) string { return c.kind }, func(cfg *supervise.Config) { cfg.Patience = c.patience })
			var pid int
			r.want("ready %d false host:0", &pid)
			for range c.signals {
				r.stop <- syscall.SIGINT
			}
			if err := <-r.ended; !errors.Is(err, supervise.ErrUnclean) {
				t.Errorf("ended with %v", err)
			}
			if log := r.log.String(); !strings.Contains(log, c.log) {
				t.Errorf("the log does not say %q:\n%s", c.log, log)
			}
		})
	}
}

// TestStopEarly stops a worker that is not ready yet.
func TestStopEarly(t *testing.T) {
	t.Parallel()
	r := start(t, func(int) string { return "early" })
	var pid int
	r.want("ready %d false host:0", &pid) // it only says so here
	r.stop <- syscall.SIGTERM
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestStopInPause stops while there is no worker.
func TestStopInPause(t *testing.T) {
	t.Parallel()
	r := start(t, func(n int) string { return []string{"good", "broken"}[n] }, func(c *supervise.Config) {
		c.Pauses = supervise.Pauses{First: time.Hour, Most: time.Hour}
	})
	var pid int
	r.want("ready %d false host:0", &pid)
	kill(t, pid, syscall.SIGKILL)
	r.log.until(" in=1h0m0s\n")
	r.stop <- syscall.SIGTERM
	if err := <-r.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestOrphan kills a supervisor: its worker stops by itself.
func TestOrphan(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=supervisor")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := lines{t, bufio.NewScanner(out)}
	var pid int
	l.want("ready %d false x:0", &pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if line := l.next(); line != "orphaned" && line != "stopped" { // by the pipe, or by the kernel's signal
		t.Errorf("the worker printed %q", line)
	}
	if line := l.next(); line != "" { // the end of its output is its end
		t.Errorf("printed %q", line)
	}
	cmd.Wait()
}

// TestAlone joins without a supervisor.
func TestAlone(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=good false x:0")
	out, err := cmd.Output()
	if string(out) != supervise.ErrAlone.Error()+"\n" || err == nil {
		t.Errorf("printed %q, %v", out, err)
	}
}

// TestSystemd is told of the states that a unit with Type=notify waits for.
func TestSystemd(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	r := start(t, good, func(c *supervise.Config) { c.Notify = supervise.Systemd(filepath.Join(dir, "s"), c.Logger) })
	read := func() string {
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := read(); got != "READY=1\nSTATUS=unlocked" {
		t.Errorf("told %q", got)
	}
	r.stop <- syscall.SIGTERM
	if got := read(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}

// TestSystemdAway has a socket where nobody listens: it is logged, and no more.
func TestSystemdAway(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	supervise.Systemd("", slog.New(slog.NewTextHandler(&log, nil)))("READY=1")
	if log.Len() > 0 {
		t.Errorf("without a socket it logged %s", &log)
	}
	supervise.Systemd(filepath.Join(t.TempDir(), "s"), slog.New(slog.NewTextHandler(&log, nil)))("READY=1")
	if !strings.Contains(log.String(), "was not told") {
		t.Errorf("logged %q", &log)
	}
}
