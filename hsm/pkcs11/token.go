//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Token is an open token. It is safe for concurrent use; each call has a session of its own. Beside the errors of
// hsm.Provider its methods return errors that wrap ErrGone, ErrSilent, ErrReply, or those of a new login.
type Token struct {
	cfg     Config
	mod     *module
	about   hsm.Description
	binding [bindingSize]byte
	permits chan struct{} // full while as many calls are under way as there may be, those that never return included
	closing chan struct{} // closed by Close

	joining sync.Mutex // held by the call that connects anew; taken before mu

	// mu guards all below. It is never held across a call into the module.
	mu     sync.Mutex
	conn   *conn  // nil where the last one was lost
	epoch  uint64 // counts destroyed keys: a handle may be given to another object afterwards
	closed bool
}

var _ hsm.Provider = (*Token)(nil)

// conn is one login and its sessions, which are void together.
type conn struct {
	slot   uint
	starts uint64                 // of the module: handles of before another start may be those of others now
	login  bool                   // it is one: the token may ask for none
	holder pkcs11.SessionHandle   // never used: closing the last session would log out (PKCS#11 2.40, section 5.6)
	idle   []pkcs11.SessionHandle // guarded by Token.mu
}

// job is a call of the token.
type job struct {
	alone bool                  // it makes or destroys objects
	run   func(s session) error // may run again after the token came back, and after its caller has given up
	taken func()                // runs in the caller's goroutine after a run that returned nil
	end   func()                // runs once, when nothing uses the job's memory any more
}

// session is what a job works with.
type session struct {
	cryptoki
	pkcs11.SessionHandle
	conn *conn
	ctx  context.Context
}

// do runs a job in a session of its own. A call into a module cannot be cancelled: when ctx is done, or after the configured time, do
// returns and leaves the call, its session and its permit behind until it comes back.
func (t *Token) do(ctx context.Context, j job) error {
	err := ctx.Err()
	if err == nil && t.isClosed() {
		err = hsm.ErrClosed
	}
	if err != nil {
		j.finish()
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.cfg.Timeout, ErrSilent)
	defer cancel()
	if err := t.permit(ctx); err != nil {
		j.finish()
		return err
	}
	done, gone := make(chan error), make(chan struct{})
	go func() {
		err := t.attempts(ctx, j)
		<-t.permits
		select {
		case done <- err:
		case <-gone:
			j.finish()
		}
	}()
	select {
	case err = <-done:
		if err == nil && j.taken != nil {
			j.taken()
		}
		j.finish()
		return err
	case <-ctx.Done():
		close(gone)
		return context.Cause(ctx)
	}
}

func (j *job) finish() {
	if j.end != nil {
		j.end()
	}
}

// permit waits until one call more may run.
func (t *Token) permit(ctx context.Context) error {
	select {
	case t.permits <- struct{}{}:
		return nil
	case <-t.closing:
		return hsm.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Token) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// attempts runs j. Where the token was away meanwhile it connects anew and runs j again, the last time after a restart of the module.
func (t *Token) attempts(ctx context.Context, j job) (err error) {
	var lost *conn
	for _, restart := range []bool{false, false, true} {
		var c *conn
		if c, err = t.connection(ctx, lost, restart); err != nil {
			return err
		}
		if err = t.once(ctx, c, j); err == nil || !t.isLost(ctx, c, err) || ctx.Err() != nil {
			return err
		}
		lost = c
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// once runs j in a session of c.
func (t *Token) once(ctx context.Context, c *conn, j job) error {
	enter, leave := t.mod.calls.enter, t.mod.calls.leave
	if j.alone {
		enter, leave = t.mod.calls.lock, t.mod.calls.unlock
	}
	if err := enter(ctx); err != nil {
		return err
	}
	defer leave()
	if t.mod.starts != c.starts {
		return pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	}
	s, err := t.take(c)
	if err != nil {
		return err
	}
	if err = j.run(session{t.mod.lib, s, c, ctx}); err == nil && t.give(c, s) {
		return nil
	}
	_ = t.mod.lib.CloseSession(s) // after an error nobody knows what is under way in it
	return err
}

// take returns an idle session of c, or a new one.
func (t *Token) take(c *conn) (pkcs11.SessionHandle, error) {
	t.mu.Lock()
	if n := len(c.idle); n > 0 {
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		t.mu.Unlock()
		return s, nil
	}
	t.mu.Unlock()
	return t.newSession(c.slot)
}

// give makes s idle, if c is still the connection.
func (t *Token) give(c *conn, s pkcs11.SessionHandle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != c {
		return false
	}
	c.idle = append(c.idle, s)
	return true
}

func (t *Token) newSession(slot uint) (pkcs11.SessionHandle, error) {
	s, err := t.mod.lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	return s, called("C_OpenSession", err)
}

// none confirms that a search that found nothing has seen everything: without a login the token hides its private objects, and says that
// there are none. It returns hsm.ErrBlob, or that the login is gone.
func (t *Token) none(s session) error {
	info, err := s.GetSessionInfo(s.SessionHandle)
	if err != nil {
		return called("C_GetSessionInfo", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != s.conn || s.conn.login && info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return hsm.ErrBlob
}

// isLost reports whether err says that c, or the session of c that was used, is void. Some modules say no more than that something
// failed: then another call tells.
func (t *Token) isLost(ctx context.Context, c *conn, err error) bool {
	if isCode(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_OPERATION_ACTIVE) {
		return true
	}
	if !isCode(err, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_FUNCTION_FAILED) {
		return false
	}
	if t.mod.calls.enter(ctx) != nil {
		return false
	}
	defer t.mod.calls.leave()
	if t.mod.starts != c.starts {
		return true
	}
	s, err := t.newSession(c.slot)
	if err != nil {
		return true
	}
	var b [1]byte
	return errors.Join(t.mod.lib.Random(s, b[:]), t.mod.lib.CloseSession(s)) != nil
}

// connection returns the connection, made anew if it is the one that was lost. restart has the module started anew at once.
func (t *Token) connection(ctx context.Context, lost *conn, restart bool) (*conn, error) {
	t.mu.Lock()
	c, closed := t.conn, t.closed
	t.mu.Unlock()
	if closed {
		return nil, hsm.ErrClosed
	}
	if c != nil && c != lost {
		return c, nil
	}
	t.joining.Lock()
	defer t.joining.Unlock()
	if c = t.drop(ctx, lost); c != nil {
		return c, nil // another call was faster
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return t.reconnect(ctx, restart)
}

// drop gives up lost, and returns the connection unless there is none. The caller holds joining.
func (t *Token) drop(ctx context.Context, lost *conn) *conn {
	t.mu.Lock()
	c := t.conn
	var idle []pkcs11.SessionHandle
	if c != nil && c == lost {
		t.conn, c = nil, nil
		idle = append(lost.idle, lost.holder)
		lost.idle = nil
	}
	t.mu.Unlock()
	if len(idle) > 0 {
		t.closeSessions(ctx, lost.starts, idle)
	}
	return c
}

// closeSessions closes sessions of one start of the module, if it is the present one.
func (t *Token) closeSessions(ctx context.Context, starts uint64, all []pkcs11.SessionHandle) {
	if t.mod.calls.enter(ctx) != nil {
		return
	}
	defer t.mod.calls.leave()
	if t.mod.starts != starts {
		return
	}
	for _, s := range all {
		_ = t.mod.lib.CloseSession(s) // it is gone already where the token was away
	}
}

// reconnect makes a connection; where that fails, or at once if asked, after a restart of the module. A PIN that is refused is not tried
// again by that. The caller holds joining.
func (t *Token) reconnect(ctx context.Context, restart bool) (c *conn, err error) {
	if err := t.mod.calls.enter(ctx); err != nil {
		return nil, err
	}
	starts := t.mod.starts
	t.mod.calls.leave()
	if !restart {
		if c, err = t.connect(ctx); err != nil && isLogin(err) {
			return nil, err
		}
	}
	if c == nil {
		if err := t.mod.restart(ctx, starts); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		if c, err = t.connect(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn = c
	return c, nil
}

// isLogin reports whether err is about the PIN, which no restart betters.
func isLogin(err error) bool {
	return slices.ContainsFunc([]error{ErrPIN, pin.ErrUnreadable, ErrPINTries, ErrPINLocked}, func(e error) bool { return errors.Is(err, e) })
}

// connect finds the token, in whatever slot it is now, and logs in.
func (t *Token) connect(ctx context.Context) (*conn, error) {
	if err := t.mod.calls.enter(ctx); err != nil {
		return nil, err
	}
	defer t.mod.calls.leave()
	all, err := t.tokens()
	if err != nil {
		return nil, err
	}
	same := slices.DeleteFunc(all, func(f found) bool { return f.binding() != t.binding })
	if len(same) != 1 {
		return nil, fmt.Errorf("%w: %d slots have the one with serial %q now", ErrNoToken, len(same), t.about.Serial)
	}
	if err := judge(same[0].info); err != nil {
		return nil, err
	}
	slot := same[0].slot
	s, err := t.newSession(slot)
	if err != nil {
		return nil, err
	}
	in, err := t.login(slot, s, same[0].info)
	if err != nil {
		_ = t.mod.lib.CloseSession(s)
		return nil, err
	}
	return &conn{slot: slot, starts: t.mod.starts, holder: s, login: in}, nil
}

// Describe returns kind pkcs11, what the token says of itself, and a warning where it is no hardware.
func (t *Token) Describe() hsm.Description {
	d := t.about
	d.Specs = slices.Clone(d.Specs)
	return d
}

// maxRandom is how many bytes are asked for at once: some modules end at that.
const maxRandom = 1024

// Random fills p from the token's generator (C_GenerateRandom).
func (t *Token) Random(ctx context.Context, p []byte) error {
	if len(p) == 0 {
		return errors.Join(ctx.Err(), t.errClosed())
	}
	for part := range slices.Chunk(p, maxRandom) {
		buf, err := securemem.New(len(part))
		if err != nil {
			return err
		}
		if err := t.do(ctx, job{
			run:   func(s session) error { return called("C_GenerateRandom", s.Random(s.SessionHandle, buf.Bytes())) },
			taken: func() { copy(part, buf.Bytes()) },
			end:   buf.Free,
		}); err != nil {
			return err
		}
	}
	return nil
}

func (t *Token) errClosed() error {
	if t.isClosed() {
		return hsm.ErrClosed
	}
	return nil
}

// Close logs out and ends the module, unless another token of it is open. It waits for calls under way; where one does not return in
// time it returns an error that wraps ErrSilent, and the module stays as it is.
func (t *Token) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	t.mu.Unlock()
	if !first {
		return nil
	}
	close(t.closing)
	ctx, cancel := context.WithTimeoutCause(context.Background(), t.cfg.Timeout, ErrSilent)
	defer cancel()
	for range cap(t.permits) {
		select {
		case t.permits <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	done := make(chan error, 1)
	go func() { done <- t.part(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// part ends the connection and the use of the module.
func (t *Token) part(ctx context.Context) error {
	t.joining.Lock()
	defer t.joining.Unlock()
	t.mu.Lock()
	c := t.conn
	t.mu.Unlock()
	if c != nil {
		if err := t.mod.calls.enter(ctx); err != nil {
			return err
		}
		if t.mod.starts == c.starts {
			_ = t.mod.lib.Logout(c.holder) // where the token is away it has forgotten the login
		}
		t.mod.calls.leave()
		t.drop(ctx, c)
	}
	return t.mod.leave(ctx, t.binding, true)
}
