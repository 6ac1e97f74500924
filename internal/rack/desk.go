package rack

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

// The desk is where an operator gives a token's PIN to an appliance that has not opened it yet: a Unix socket in the data
// folder, there only while one waits. Over a connection goes the PIN, to its end; back comes one line of JSON, a deskAnswer.
const (
	deskName     = "pin.sock"
	maxDeskPIN   = 256              // bytes; no token takes more
	deskPatience = 10 * time.Second // for the PIN, once a connection is there
	maxAnswer    = 4096             // bytes
)

// deskAnswer says what became of a PIN.
type deskAnswer struct {
	Error string // empty: the token is open
	Kind  int    // 1 and up: place of what the error is in deskErrors; 0 = something else
}

// deskErrors are what the operator's command must tell apart. Both ends are of one version.
func deskErrors() []error {
	return append([]error{ErrTPMPIN, ErrTPMLockout, ErrTPMAway, ErrTPMSilent, ErrTPMGarbage, ErrTPMFailed, ErrTPMBusy, ErrTPMReplaced, hsm.ErrBlob}, tokenErrors()...)
}

// toldError is an error of the other end.
type toldError struct {
	text string
	is   error
}

// Error returns what the other end said.
func (e *toldError) Error() string { return e.text }

// Unwrap returns what kind of error it is.
func (e *toldError) Unwrap() error { return e.is }

// DeskPath returns the path of the socket where the appliance whose operator's socket is at path takes a PIN.
func DeskPath(socket string) string { return filepath.Join(filepath.Dir(socket), deskName) }

// WaitsForPIN reports whether an appliance waits for a PIN at the desk.
func WaitsForPIN(desk string) bool {
	c, err := net.DialTimeout("unix", desk, deskPatience)
	if err != nil {
		return false
	}
	c.Close() // without a PIN, so without a try
	return true
}

// GivePIN gives the PIN to the appliance that waits at the desk, and returns when its token has taken or refused it. The PIN is
// the caller's. It returns ErrOpenFolder, and gives it to nobody, where not only the appliance can wait there.
func GivePIN(ctx context.Context, desk string, pin *securemem.Buffer) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", desk)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := judgeDesk(c, desk); err != nil {
		return err
	}
	if _, err := c.Write(pin.Bytes()); err != nil {
		return err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	var answer deskAnswer
	if err := json.NewDecoder(io.LimitReader(c, maxAnswer)).Decode(&answer); err != nil {
		return fmt.Errorf("the appliance has not said what became of the PIN: %w", errors.Join(ctx.Err(), err))
	}
	if answer.Error == "" {
		return nil
	}
	told := &toldError{text: answer.Error}
	if known := deskErrors(); answer.Kind >= 1 && answer.Kind <= len(known) {
		told.is = known[answer.Kind-1]
	}
	return told
}

// waitForPIN returns the token when an operator has given the right PIN. Each PIN is tried once, and none but those given.
func (a *Appliance) waitForPIN(ctx context.Context) (hsm.Provider, error) {
	path := filepath.Join(a.cfg.Dir, deskName)
	for _, stale := range []string{path, a.Socket()} { // of a process that was killed: the folder is ours
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "locked, and waiting for the token's PIN: keyrack unlock gives it", slog.String("folder", a.cfg.Dir))
	a.cfg.OnWaiting()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, err
		}
		if token := a.attend(ctx, c); token != nil {
			return token, nil
		}
	}
}

// attend serves one connection, and returns the token if its PIN was right.
func (a *Appliance) attend(ctx context.Context, c net.Conn) hsm.Provider {
	defer c.Close()
	pin, err := takePIN(c)
	if err != nil || pin == nil {
		return nil // nobody is there who could be told
	}
	defer pin.Free()
	token, err := a.tryPIN(ctx, pin)
	var answer deskAnswer
	if err != nil {
		answer.Error = err.Error()
		for i, known := range deskErrors() {
			if errors.Is(err, known) {
				answer.Kind = i + 1
				break
			}
		}
		a.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the token was not opened with the PIN that was given", slog.Any("error", err))
	}
	_ = c.SetDeadline(time.Now().Add(deskPatience))
	_ = json.NewEncoder(c).Encode(answer) // whoever is gone finds out by keyrack status
	return token
}

// takePIN reads a PIN of root or of the appliance's own user. nil is a connection that gave none.
func takePIN(c net.Conn) (*securemem.Buffer, error) {
	if err := errors.Join(judgePeer(c), c.SetDeadline(time.Now().Add(deskPatience))); err != nil {
		return nil, err
	}
	room, err := securemem.New(maxDeskPIN + 1)
	if err != nil {
		return nil, err
	}
	defer room.Free()
	n, err := io.ReadFull(c, room.Bytes())
	if n == 0 || n > maxDeskPIN || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return securemem.From(room.Bytes()[:n])
}

// errStranger says that somebody else is at the desk.
var errStranger = errors.New("rack: neither root nor the appliance's user")

// judgePeer refuses other users, whatever the socket's mode.
func judgePeer(c net.Conn) error {
	uid, err := peerOf(c)
	switch {
	case err != nil:
		return err
	case uid != 0 && int(uid) != os.Geteuid():
		return errStranger
	}
	return nil
}

// peerOf returns the user at the other end of a Unix socket (SO_PEERCRED, unix(7)).
func peerOf(c net.Conn) (uid uint32, err error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	return peer.Uid, nil
}

// judgeDesk refuses a desk where somebody else could sit: one in a folder that others may write in, and one of a user who is neither
// root nor the folder's owner.
func judgeDesk(c net.Conn, desk string) error {
	dir := filepath.Dir(desk)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	uid, err := peerOf(c)
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case err != nil:
		return err
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%w: %s has mode %04o", ErrOpenFolder, dir, info.Mode().Perm())
	case uid != 0 && (!ok || uid != stat.Uid):
		return fmt.Errorf("%w: user %d waits for the PIN in %s, which is not his", ErrOpenFolder, uid, dir)
	}
	return nil
}

// tryPIN opens the token and has it prove the PIN.
func (a *Appliance) tryPIN(ctx context.Context, pin *securemem.Buffer) (hsm.Provider, error) {
	token, err := a.cfg.AskedToken(ctx, pin)
	if err != nil {
		return nil, err
	}
	if err := a.provePIN(ctx, token); err != nil {
		return nil, errors.Join(err, token.Close())
	}
	return token, nil
}

// provePIN uses a key of the appliance, whose answer is thrown away: a TPM's PIN is asked for by keys alone.
func (a *Appliance) provePIN(ctx context.Context, token hsm.Provider) error {
	keyring, err := domain.Open(ctx, a.below, token)
	if err != nil {
		return err
	}
	blob, err := keyring.TokenKey(ctx, chainKey)
	if err != nil {
		return err
	}
	key, err := token.Load(ctx, blob)
	if err != nil {
		return err
	}
	defer key.Close()
	prf, ok := key.(hsm.PRF)
	if !ok {
		return errOtherKey
	}
	var nonce [32]byte // of no batch of the log
	rand.Read(nonce[:])
	out, err := prf.PRF(ctx, make([]byte, 0, 32), seal.KDFInput(nil, seal.LabelAudit, nonce[:], 256))
	securemem.Wipe(out)
	return err
}
