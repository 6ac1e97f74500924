package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// worker is a process as its parent sees it.
type worker struct {
	cmd   *exec.Cmd
	life  *os.File   // closed when this process ends, however it ends, and that tells the worker
	told  chan State // what it said of itself; closed when it has ended and was waited for
	ready time.Time  // when it first said something
}

// start makes the next worker. It is in our process group, so that whoever kills
// the group kills both; a worker ignores the signals of a terminal, which are for us.
func (s *supervisor) start() (*worker, error) {
	lifeOfParent, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifeOfParent.Close()
	said, say, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, life.Close())
	}
	defer say.Close()
	cmd := s.Command(s.next)
	cmd.ExtraFiles = []*os.File{lifeOfParent, say} // see Join
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, life.Close(), said.Close())
	}
	s.Logger.Info("a worker begins", "pid", cmd.Process.Pid, "state", s.next.word())
	life.Write([]byte{begin}) // one that has ended already is waited for
	w := &worker{cmd: cmd, life: life, told: make(chan State)}
	go w.follow(said)
	return w, nil
}

// follow hands on what the worker says, JSON objects, until it ends.
func (w *worker) follow(said *os.File) {
	defer close(w.told)
	for words := json.NewDecoder(said); ; {
		var state State
		if words.Decode(&state) != nil { // the end, as this binary writes nothing else
			break
		}
		w.told <- state
	}
	said.Close()
	w.cmd.Wait() // how it ended stands in ProcessState
	w.life.Close()
}

// send signals the worker. One that has ended meanwhile is as it should be: the
// signal reaches no other process, since the kernel's handle names this one alone.
func (w *worker) send(signal os.Signal) { w.cmd.Process.Signal(signal) }

// lived is how long the worker was ready, 0 if it never was.
func (w *worker) lived() time.Duration {
	if w.ready.IsZero() {
		return 0
	}
	return time.Since(w.ready)
}

// unclean says what is wrong with how a worker that was told to stop has ended.
func (w *worker) unclean() error {
	if state := w.cmd.ProcessState; !state.Success() && state.ExitCode() != ExitLocked {
		return fmt.Errorf("%w: %v", ErrUnclean, state)
	}
	return nil
}
