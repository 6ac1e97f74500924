package supervise

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Descriptors of a worker, behind the three standard ones.
const (
	lifeFD = 3 // one byte, begin, and then nothing; its end is the parent's
	tellFD = 4 // the worker's words
)

// begin is written to a worker once its start is in the log, so that what it says itself,
// an error above all, comes behind that.
const begin = 'b'

// ErrAlone is returned by Join in a process that Run did not start.
var ErrAlone = errors.New("this process has no supervisor")

// Parent is the supervisor as its worker sees it. Safe for concurrent use.
type Parent struct {
	tell *os.File
	gone chan struct{}
}

// Join returns the parent of this process, once, when it lets the worker begin. It closes the two descriptors to
// the processes that this one starts.
func Join() (*Parent, error) {
	for _, fd := range []int{lifeFD, tellFD} {
		var stat syscall.Stat_t
		if err := syscall.Fstat(fd, &stat); err != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			return nil, ErrAlone
		}
		syscall.CloseOnExec(fd)
	}
	p := &Parent{tell: os.NewFile(tellFD, "words to the supervisor"), gone: make(chan struct{})}
	life := os.NewFile(lifeFD, "life of the supervisor")
	life.Read(make([]byte, 1)) // begin, or the end of a parent that is gone
	go func() {
		defer close(p.gone)
		io.Copy(io.Discard, life)
		life.Close()
	}()
	return p, nil
}

// Tell says how this worker is. The first time, it says that it is ready; each
// time, how the next worker is to begin if this one ends. A parent that is gone
// need not know.
func (p *Parent) Tell(s State) error {
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err = p.tell.Write(append(line, '\n')); errors.Is(err, syscall.EPIPE) || errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// Gone is closed when the parent has ended: the worker stops then, since nobody
// would start it again.
func (p *Parent) Gone() <-chan struct{} { return p.gone }
