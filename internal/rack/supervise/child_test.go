package supervise_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/internal/rack/supervise"
)

// role is the environment variable that makes this binary a process of a test.
const role = "SUPERVISE_TEST_ROLE"

// TestMain lets the test binary be a worker, or a supervisor of workers.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the processes that tests start
	switch words := strings.Fields(os.Getenv(role)); {
	case len(words) == 0:
		os.Exit(m.Run())
	case words[0] == "supervisor":
		os.Exit(beSupervisor())
	default:
		os.Exit(beWorker(words[0], words[1], words[2]))
	}
}

// command returns this binary as a worker of some kind, which prints what happens
// to it on the standard output of cmd's maker.
func command(kind string, s supervise.State) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %t %s", role, kind, s.Locked, s.Addr))
	return cmd
}

// beWorker is a worker. SIGUSR1 tells it to lock and SIGUSR2 to unlock. Kinds:
// good; stubborn does not stop; unclean stops with an error; broken fails before it
// is ready; early is stopped before.
func beWorker(kind, locked, addr string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	parent, err := supervise.Join()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if kind == "broken" {
		return 7
	}
	if kind != "early" {
		parent.Tell(supervise.State{Locked: locked == "true", Addr: strings.Replace(addr, ":0", ":4711", 1)})
	}
	fmt.Println("ready", os.Getpid(), locked, addr)
	for {
		select {
		case <-parent.Gone():
			fmt.Println("orphaned")
			return 0
		case s := <-signals:
			if status := obey(parent, kind, s); status >= 0 {
				return status
			}
		}
	}
}

// obey acts on a signal, and returns the exit status or -1 to go on.
func obey(parent *supervise.Parent, kind string, s os.Signal) int {
	switch {
	case s == syscall.SIGUSR1:
		return supervise.ExitLocked
	case s == syscall.SIGUSR2:
		parent.Tell(supervise.State{})
		fmt.Println("unlocked")
	case kind == "stubborn":
		fmt.Println("no")
	case kind == "unclean":
		return 1
	default:
		fmt.Println("stopped")
		return 0
	}
	return -1
}

// beSupervisor supervises a good worker.
func beSupervisor() int {
	err := supervise.Run(supervise.Config{
		Command: func(s supervise.State) *exec.Cmd {
			cmd := command("good", s)
			cmd.Stdout = os.Stdout
			return cmd
		},
		First: supervise.State{Addr: "x:0"}, Logger: slog.New(slog.DiscardHandler),
	})
	fmt.Println("ended", err)
	return 1
}

// lines reads what processes print.
type lines struct {
	t *testing.T
	*bufio.Scanner
}

// next returns the next line, or "" when no process is left that could print one.
func (l *lines) next() string {
	if l.Scan() {
		return l.Text()
	}
	return ""
}

// want holds the next line to a format that scans its values.
func (l *lines) want(format string, values ...any) {
	l.t.Helper()
	line := l.next()
	if n, err := fmt.Sscanf(line, format, values...); err != nil || n != len(values) {
		l.t.Fatalf("printed %q, want %q", line, format)
	}
}
