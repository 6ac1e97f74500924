// Package tpm2 is a TPM 2.0 as a token: keys made in the chip, usable in that chip alone, and ended for ever by one
// counter of the chip each. Read Config, Token and FORMAT.md first; the type blob binds it all together.
//
// A key is a blob outside the chip, wrapped under the chip's storage root key (SRK). Its policy is its root epoch: an NV counter of its
// own must stand where it stood when the key was made. Destroy increments that counter and deletes it; a counter that is
// made anew goes on above the highest there ever was, so no copy of the blob works again, whoever makes it.
//
// Everything that could be secret crosses the bus encrypted, in sessions salted with the SRK: inputs and outputs of PRFs, random bytes, the
// PIN's authorization value. Replies are authenticated. Whoever sits between at the very first Open or Generate and
// plays the chip cannot be told from it; later he is found out, because every blob names its SRK.
//
// With a PIN, keys ask for it as well, and the chip's dictionary attack protection counts wrong ones, for all that such protection guards in
// that chip: so a wrong PIN is tried once per Token, and never when it would be the last try before the chip locks itself. Keys without
// a PIN are not concerned by a locked chip.
//
// The package works the chip, it does not own it: it never clears, takes ownership, changes hierarchies, nor shuts down, which is the
// kernel's to do. It has no PCR policy, attestation or import.
//
// On swtpm a Load takes 0.8 ms, a PRF of a loaded key 0.15 ms, a signature 0.6 ms (go test -bench Token); a chip takes a hundred times that and
// more. Two keys that take turns pay 0.7 ms more each time, because only one stays loaded.
//
// What the TPM library keeps of a session on the heap, copies of the root's answers among it, is erased when the process ends:
// a call to a device is nothing for securemem.Do.
package tpm2

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"time"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

var (
	// ErrOwner is wrapped when the chip wants an owner authorization that Config does not have.
	ErrOwner = errors.New("tpm2: owner authorization refused")

	// ErrReplaced is returned when, after a reconnection, there is another TPM, or the TPM was cleared.
	ErrReplaced = errors.New("tpm2: another TPM than before")
)

// DefaultPath is the device of the kernel's resource manager, which lets several programs use one chip.
const DefaultPath = "/dev/tpmrm0"

// defaultTimeout is what a command may take: seconds on slow chips, never a minute.
const defaultTimeout = 20 * time.Second

// Token is an open TPM. It is safe for concurrent use; the chip does one thing at a time.
type Token struct {
	cfg         Config
	description hsm.Description
	root        *rootKey // as it was at Open

	// turn holds one value while an operation has the fields below.
	turn   chan struct{}
	link   *link // nil: the next operation connects
	closed bool
	owner  []byte
	pin    pinState
}

var _ hsm.Provider = (*Token)(nil)

// Open connects to the TPM, has it test itself, and finds or makes its SRK. It returns errors that wrap ErrUnreachable, ErrSilent,
// ErrGarbage, ErrFailed, ErrBusy, ErrOwner or ErrPIN, or what the chip or one of the functions in cfg said.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if cfg.Path == "" {
		cfg.Path = DefaultPath
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	t := &Token{cfg: cfg, turn: make(chan struct{}, 1)}
	var err error
	if t.owner, err = ownerOf(cfg); err != nil {
		return nil, err
	}
	if t.pin, err = pinOf(cfg); err != nil {
		return nil, err
	}
	err = t.use(ctx, func(l *link) error {
		t.root = l.root
		t.description, err = l.describe()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// ownerOf returns the owner's authorization value. go-tpm 0.9.8 cuts one with a zero byte in it, and would burn a try of the chip.
func ownerOf(cfg Config) ([]byte, error) {
	if cfg.Owner == nil {
		return nil, nil
	}
	auth, err := cfg.Owner()
	if err != nil {
		return nil, err
	}
	for _, b := range auth {
		if b == 0 {
			return nil, fmt.Errorf("%w: it has a zero byte", ErrOwner)
		}
	}
	if len(auth) > 32 {
		return nil, fmt.Errorf("%w: it has more than 32 bytes", ErrOwner)
	}
	return auth, nil
}

// Describe returns kind tpm2, the chip's vendor and firmware as model, and the beginning of its SRK's Name in hex as serial.
func (t *Token) Describe() hsm.Description {
	d := t.description
	d.Specs = append([]hsm.Spec(nil), d.Specs...)
	return d
}

// Random fills p from the chip's generator, encrypted on the way here.
func (t *Token) Random(ctx context.Context, p []byte) error {
	return t.use(ctx, func(l *link) error {
		if len(p) == 0 {
			return nil
		}
		s, _, err := tpm.HMACSession(l, tpm.TPMAlgSHA256, nonceSize, append(l.salted(nil), tpm.AESEncryption(128, tpm.EncryptOut))...)
		if err != nil {
			return l.failed(err)
		}
		for rest := p; len(rest) > 0; {
			reply, err := run(l, tpm.GetRandom{BytesRequested: uint16(min(len(rest), 32))}.Execute, s)
			if err != nil {
				_ = l.flush(s.Handle())
				return err
			}
			got := reply.RandomBytes.Buffer
			if len(got) == 0 || len(got) > len(rest) {
				return l.garbage(fmt.Errorf("%d random bytes for %d", len(got), len(rest)))
			}
			rest = rest[copy(rest, got):]
			securemem.Wipe(got)
		}
		return l.flush(s.Handle())
	})
}

// Close takes what is loaded out of the chip and ends the connection. It waits for an operation under way.
func (t *Token) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	if t.closed {
		return nil
	}
	t.closed = true
	securemem.Wipe(t.owner)
	t.pin.wipe()
	if t.link == nil {
		return nil
	}
	t.link.ctx = context.Background()
	fips140.WithoutEnforcement(func() { _ = t.link.close() }) // what a dead connection has left there, the next one clears
	t.link = nil
	return nil
}

// use runs one operation on the chip. An operation that finds a connection dead, or what it had loaded there gone, as after
// a restart of the TPM, runs once more on a new one: so it must not have an effect that counts twice.
func (t *Token) use(ctx context.Context, f func(*link) error) error {
	return t.operate(ctx, true, f)
}

// change is use for an operation that must not run twice, nor be given up half-way: it makes sure of the connection first.
func (t *Token) change(ctx context.Context, f func(*link) error) error {
	err := t.use(ctx, func(l *link) error {
		_, err := l.properties(tpm.TPMPTManufacturer, 1)
		return err
	})
	if err != nil {
		return err
	}
	return t.operate(context.WithoutCancel(ctx), false, f)
}

// operate runs f when its turn has come, and once more if it may and the first attempt found the TPM restarted.
func (t *Token) operate(ctx context.Context, repeat bool, f func(*link) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.closed {
		return hsm.ErrClosed
	}
	repeat = repeat && t.link != nil
	err := t.attempt(ctx, f)
	if repeat && (errors.Is(err, ErrUnreachable) || stale(err)) {
		t.drop()
		err = t.attempt(ctx, f)
	}
	return err
}

// attempt runs f, on a new connection if there is none. An error leaves nothing loaded: in what state it is would be guesswork.
func (t *Token) attempt(ctx context.Context, f func(*link) error) (err error) {
	// AES-CFB, which TPM sessions need, is no approved mode for data; what it protects here is protected no worse without it.
	fips140.WithoutEnforcement(func() {
		if t.link == nil {
			if err = t.connect(ctx); err != nil {
				return
			}
		}
		t.link.ctx = ctx
		err = f(t.link) // not in securemem.Do: it sets deadlines, of which workers have died there
		switch {
		case t.link.fault != nil:
			t.drop()
		case err != nil:
			if t.link.clear(); t.link.fault != nil {
				t.drop()
			}
		}
	})
	return err
}

// drop gives the connection up.
func (t *Token) drop() {
	if t.link != nil {
		_ = t.link.port.Close()
		t.link = nil
	}
}

// connect makes a connection, has the chip ready and tested, and makes sure that it is the one of Open.
func (t *Token) connect(ctx context.Context) error {
	p, managed, err := dial(ctx, t.cfg.Path, time.Now().Add(t.cfg.Timeout))
	if err != nil {
		return err
	}
	l := &link{ctx: ctx, timeout: t.cfg.Timeout, port: p, managed: managed, sessions: map[sessionKind]tpm.Session{}}
	if err := l.prepare(t.owner, t.root == nil); err != nil {
		return errors.Join(err, p.Close())
	}
	if t.root != nil && l.root.digest() != t.root.digest() {
		return errors.Join(ErrReplaced, p.Close())
	}
	t.link = l
	return nil
}

// prepare starts and tests the chip, takes out what a process that died left in it, and finds the SRK.
func (l *link) prepare(owner []byte, first bool) error {
	// TPM2_SelfTest of what was not tested since the chip started, TPM 2.0 Part 3, 10.2.
	_, err := l.raw(tpm.TPMCCSelfTest, 0)
	if errors.Is(err, tpm.TPMRCInitialize) {
		// Nobody started it. TPM2_Startup(CLEAR): a resource manager, or a kernel, would have.
		if _, err := run(l, tpm.Startup{StartupType: tpm.TPMSUClear}.Execute); err != nil {
			return err
		}
		_, err = l.raw(tpm.TPMCCSelfTest, 0)
	}
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	if !l.managed {
		if err := l.evict(); err != nil {
			return err
		}
	}
	l.root, err = l.findRoot(owner, first)
	return err
}

// evict flushes all transient keys and all loaded sessions.
func (l *link) evict() error {
	for _, first := range []tpm.TPMHandle{0x80000000, 0x02000000} { // TPM 2.0 Part 2, 7.2: transient objects, loaded sessions
		list, err := l.handles(first, 16)
		if err != nil {
			return err
		}
		for _, h := range list {
			if err := l.flush(h); err != nil {
				return err
			}
		}
	}
	return nil
}
