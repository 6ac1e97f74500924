// Package supervise keeps a worker process running: in the parent, [Run] starts
// it, starts it again when it ends, and stops it; in the worker, [Join] gives the
// ends of two pipes by which it tells how it is and learns that its parent is gone.
//
// Read first: [Run]; [Config]; [Parent].
//
// It holds no key, opens no network socket and knows nothing of what a worker
// does, so that there is little in the parent that could fail.
package supervise

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// ExitLocked is the exit status of a worker that ended because it was told to
// lock: the next one starts locked, at once.
const ExitLocked = 3

// State is what outlives a worker: how it was, by what it said, is how the next
// one is to begin.
type State struct {
	Locked bool
	Addr   string // host:port of its listener; empty if there is none yet
}

// Config says what to run. Command, Stop and Logger are required; the zero value
// of the rest is the default.
type Config struct {
	// Command makes a worker that is to begin in a state. Run sets ExtraFiles
	// and SysProcAttr and starts it.
	Command func(State) *exec.Cmd
	First   State            // of the first worker
	Stop    <-chan os.Signal // the first value stops the worker in order (SIGTERM), the second kills it
	Logger  *slog.Logger

	Notify   func(status string) // tells the service manager, see [Systemd]; nil = nobody
	Patience time.Duration       // how long a stop may take before the worker is killed; 0 = 30 s
	Pauses   Pauses
}

// Failed is the error of a first worker that ended before it was ready. If it
// exited, it has said why on its standard error.
type Failed struct{ Worker *os.ProcessState }

// Error says how it ended.
func (f *Failed) Error() string {
	return fmt.Sprintf("the worker ended before it was ready: %v", f.Worker)
}

// ErrUnclean is wrapped by the error of a worker that was to stop and did not do
// so in order: it was killed, or what it had to finish went wrong.
var ErrUnclean = errors.New("the worker did not stop in order")

// defaultPatience is how long a worker may take to finish what it has read.
const defaultPatience = 30 * time.Second

// supervisor is the state of one Run.
type supervisor struct {
	Config
	next   State // how the next worker begins
	proven bool  // some worker was ready
	stops  int   // how often Stop was asked for
}

// Run runs one worker after the other until it is told to stop, and returns nil
// when the last one has stopped in order. A first worker that does not become
// ready ends Run with a *[Failed]: what ails it will not pass by itself. From then
// on a worker that ends is followed by another one, after a pause that grows while
// they keep failing.
func Run(cfg Config) error {
	// The kernel signals a worker when the thread that made it ends (PR_SET_PDEATHSIG,
	// prctl(2)), so that must be a thread that lasts.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Notify == nil {
		cfg.Notify = func(string) {}
	}
	s := &supervisor{Config: cfg, next: cfg.First}
	for {
		w, err := s.start()
		if err != nil && !s.proven {
			return fmt.Errorf("start the worker: %w", err)
		}
		if err == nil {
			s.watch(w)
		}
		switch {
		case s.stops > 0:
			return w.unclean()
		case !s.proven:
			return &Failed{w.cmd.ProcessState}
		case !s.wait(s.after(w, err)):
			return nil
		}
	}
}

// watch follows a worker to its end.
func (s *supervisor) watch(w *worker) {
	var overdue <-chan time.Time
	for {
		select {
		case state, more := <-w.told:
			if !more {
				return
			}
			s.heard(w, state)
		case signal := <-s.Stop:
			s.stop(w, signal)
			overdue = time.After(s.Patience)
		case <-overdue:
			s.Logger.Error("the worker takes too long to stop and is killed", "pid", w.cmd.Process.Pid, "after", s.Patience)
			w.send(syscall.SIGKILL)
		}
	}
}

// heard keeps what a worker says of itself.
func (s *supervisor) heard(w *worker, state State) {
	if state.Addr == "" {
		state.Addr = s.next.Addr
	}
	s.next = state
	if w.ready.IsZero() {
		w.ready = time.Now()
	}
	s.proven = true
	s.Notify("READY=1\nSTATUS=" + state.word())
}

// stop ends a worker: in order when first asked, at once when asked again.
func (s *supervisor) stop(w *worker, signal os.Signal) {
	s.stops++
	if s.stops > 1 {
		s.Logger.Warn("the worker is killed", "pid", w.cmd.Process.Pid, "signal", signal)
		w.send(syscall.SIGKILL)
		return
	}
	s.Logger.Info("stopping", "pid", w.cmd.Process.Pid, "signal", signal)
	s.Notify("STOPPING=1")
	w.send(syscall.SIGTERM)
}

// after says what comes behind a worker that ended by itself, or that could not
// be started, and returns the pause before the next one.
func (s *supervisor) after(w *worker, err error) (pause time.Duration) {
	if err != nil {
		pause = s.Pauses.next(0)
		s.Logger.Error("a worker could not be started", "error", err, "again", s.next.word(), "in", pause)
		return pause
	}
	lived := w.lived()
	status := slog.String("status", w.cmd.ProcessState.String())
	if lived > 0 && w.cmd.ProcessState.ExitCode() == ExitLocked {
		s.next.Locked = true
		s.Logger.Info("the worker ended to lock", "pid", w.cmd.Process.Pid, "again", s.next.word())
		return 0
	}
	pause = s.Pauses.next(lived)
	s.Logger.Error("the worker ended", "pid", w.cmd.Process.Pid, status, "lived", lived.Round(time.Millisecond), "again", s.next.word(), "in", pause)
	return pause
}

// wait waits, and returns false if it was told to stop meanwhile.
func (s *supervisor) wait(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case signal := <-s.Stop:
		s.Logger.Info("stopping", "signal", signal)
		s.Notify("STOPPING=1")
		return false
	case <-timer.C:
		return true
	}
}

// word says in one word how a worker is or begins.
func (s State) word() string {
	if s.Locked {
		return "locked"
	}
	return "unlocked"
}
