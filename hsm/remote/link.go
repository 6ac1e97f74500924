package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/hsm"
)

// link is the way to one process.
type link struct {
	cfg  *Config
	conn net.Conn
	cmd  *exec.Cmd
	dead chan struct{} // closed when the process has ended and was waited for; why is set then
	why  error

	writing sync.Mutex // keeps frames whole

	mu      sync.Mutex // guards all below
	last    uint32
	waiting map[uint32]chan frame // with room for the one answer
	over    bool                  // no answer comes any more
}

// start starts a process and waits for its first word.
func start(ctx context.Context, c *Config) (*link, hsm.Description, error) {
	var about hsm.Description
	ours, theirs, err := pair()
	if err != nil {
		return nil, about, err
	}
	cmd := c.Command()
	cmd.ExtraFiles = []*os.File{theirs}
	if err = c.addSecret(cmd); err == nil {
		err = cmd.Start()
	}
	for _, f := range cmd.ExtraFiles { // the process has its own
		f.Close()
	}
	if err != nil {
		return nil, about, errors.Join(fmt.Errorf("remote: %w", err), ours.Close())
	}
	first := make(chan frame, 1)
	l := &link{cfg: c, conn: ours, cmd: cmd, dead: make(chan struct{}), waiting: map[uint32]chan frame{0: first}}
	go l.read()
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, errSilent)
	defer cancel()
	if err := l.answer(ctx, first, func(body []byte) error { return l.describe(body, &about) }); err != nil {
		return nil, about, errors.Join(err, l.end())
	}
	return l, about, nil
}

// pair returns the two ends of a socket that nobody else can reach (socketpair(2)).
func pair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("remote: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "token"), os.NewFile(uintptr(fds[1]), "token")
	conn, err := net.FileConn(ours)
	ours.Close() // conn has a copy
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("remote: %w", err)
	}
	return conn, theirs, nil
}

func (l *link) describe(body []byte, about *hsm.Description) error {
	if err := json.Unmarshal(body, about); err != nil || about.Kind == "" || about.Serial == "" || len(about.Specs) == 0 {
		return fmt.Errorf("%w: a description", ErrReply)
	}
	return nil
}

// read hands answers to those who wait, until there are none any more; then it waits for the process.
func (l *link) read() {
	for {
		f, err := readFrame(l.conn)
		if err != nil {
			break // the process is gone, or makes no sense, and is killed
		}
		l.hand(f)
	}
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.conn.Close()
	l.wait()
}

// hand gives an answer to who waits for it. Under the lock: who has given up then finds it there, or will not get it.
func (l *link) hand(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to, ok := l.waiting[f.number]
	delete(l.waiting, f.number)
	if !ok {
		f.free()
		return
	}
	to <- f
}

// wait waits until the process has ended, and kills it where it takes too long.
func (l *link) wait() {
	kill := time.AfterFunc(l.cfg.Patience, func() { _ = l.cmd.Process.Kill() })
	defer kill.Stop()
	_ = l.cmd.Wait() // how it ended stands in ProcessState
	l.why = fmt.Errorf("%w: %v", ErrDied, l.cmd.ProcessState)
	close(l.dead)
}

// isDead reports whether the process takes no more requests.
func (l *link) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// call sends a request and waits for the answer, or for the end of ctx or of the process.
func (l *link) call(ctx context.Context, op byte, head, tail []byte, take func([]byte) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.Timeout, errSilent)
	defer cancel()
	answer := make(chan frame, 1)
	number, err := l.expect(answer)
	if err == nil {
		err = l.send(number, op, head, tail)
	}
	if err != nil {
		return l.died(ctx)
	}
	err = l.answer(ctx, answer, take)
	if ctx.Err() != nil {
		l.giveUp(number, answer)
	}
	if errors.Is(err, errSilent) { // nor would it answer the next
		_ = l.cmd.Process.Kill()
	}
	return err
}

// errSilent is the end of a process that lives and does not answer.
var errSilent = fmt.Errorf("%w: it did not answer in time and is killed", ErrDied)

// errOver says that no request can be sent any more.
var errOver = errors.New("over")

// expect notes who waits for an answer, and returns the request's number.
func (l *link) expect(answer chan frame) (uint32, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return 0, errOver
	}
	for l.last++; l.last == 0 || l.waiting[l.last] != nil; l.last++ {
	}
	l.waiting[l.last] = answer
	return l.last, nil
}

// send writes a frame. A process that does not read for long is as good as dead.
func (l *link) send(number uint32, op byte, head, tail []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.conn.SetWriteDeadline(time.Now().Add(l.cfg.Patience))
	if err == nil {
		err = writeFrame(l.conn, number, op, head, tail)
	}
	if err != nil { // half a frame may be there
		_ = l.conn.Close()
	}
	return err
}

// answer waits for an answer and hands its body to take.
func (l *link) answer(ctx context.Context, from <-chan frame, take func([]byte) error) error {
	var f frame
	select {
	case f = <-from:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.dead:
		select {
		case f = <-from: // its last word
		default:
			return l.why
		}
	}
	defer f.free()
	switch f.kind {
	case succeeded:
		return take(f.bytes())
	case failed:
		return decodeError(f.bytes(), l.cfg.Errors)
	}
	return fmt.Errorf("%w: an answer of kind %d", ErrReply, f.kind)
}

// giveUp tells the other side that nobody waits any more.
func (l *link) giveUp(number uint32, answer <-chan frame) {
	l.mu.Lock()
	_, waits := l.waiting[number]
	delete(l.waiting, number)
	l.mu.Unlock()
	if waits {
		_ = l.send(number, opCancel, nil, nil) // a process that is gone needs not be told
		return
	}
	select {
	case f := <-answer:
		f.free()
	default: // it was taken
	}
}

// died waits for the process and says how it ended.
func (l *link) died(ctx context.Context) error {
	select {
	case <-l.dead:
		return l.why
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end closes the socket, which ends the process, and waits for that.
func (l *link) end() error {
	err := l.conn.Close()
	<-l.dead
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("remote: %w", err)
	}
	return nil
}
