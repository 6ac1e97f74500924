// Package remote puts a token into a process of its own: a vendor's library that crashes then costs the calls in flight
// and not the appliance, and what it reads is that process's memory. Read Open, Token and Serve first.
//
// Both processes are the same binary at the same version: the frames between them (frame.go) are no stored or public
// format. The package starts the process anew when it has died; it does not confine it: that is the caller's Command.
package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/securemem"
)

var (
	// ErrDied is wrapped by calls that were under way when the process with the token ended, or that found it so. The next call
	// starts it anew.
	ErrDied = errors.New("remote: the process that holds the token has died")

	// ErrReply is wrapped for an answer of that process that makes no sense.
	ErrReply = errors.New("remote: the process that holds the token answers nonsense")
)

// Config says how to start the other process.
type Config struct {
	// Command makes a command whose process calls Serve with descriptor 3. Open sets ExtraFiles and starts it.
	Command func() *exec.Cmd

	// Errors are what errors.Is finds across the border, beside those of package hsm and context. Serve must get the same.
	Errors []error

	// Secret, unless it is nil, gives what the process gets from its own function Secret at each start: at most 4096 bytes, in
	// locked memory that is freed then.
	Secret func() (*securemem.Buffer, error)

	Patience time.Duration // how long the process may take to end by itself; 0 means 10 s
	Timeout  time.Duration // how long a call may take before the process is killed; longer than its own; 0 means 45 s
}

const (
	defaultPatience = 10 * time.Second
	defaultTimeout  = 45 * time.Second
)

// Token is a token in another process. It is safe for concurrent use. Beside the errors of hsm.Provider its methods return what the token
// there returned, as far as Config.Errors knows it, and errors that wrap ErrDied or ErrReply.
type Token struct {
	cfg   Config
	about hsm.Description

	starting chan struct{} // holds one value while a process is being started

	mu     sync.Mutex // guards all below
	link   *link
	closed bool
}

var _ hsm.Provider = (*Token)(nil)

// Open starts the process, which opens the token. It returns what that said.
func Open(ctx context.Context, c Config) (*Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	l, about, err := start(ctx, &c)
	if err != nil {
		return nil, err
	}
	return &Token{cfg: c, about: about, link: l, starting: make(chan struct{}, 1)}, nil
}

// running returns the link to a process that lives, or starts one.
func (t *Token) running(ctx context.Context) (*link, error) {
	if l, err := t.current(); l != nil || err != nil {
		return l, err
	}
	select {
	case t.starting <- struct{}{}:
		defer func() { <-t.starting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l, err := t.current(); l != nil || err != nil {
		return l, err // another call was faster
	}
	l, about, err := start(ctx, &t.cfg)
	if err != nil {
		return nil, fmt.Errorf("start it anew: %w", err)
	}
	if about.Kind != t.about.Kind || about.Serial != t.about.Serial {
		return nil, errors.Join(fmt.Errorf("%w: it holds %s %s now, was %s %s", ErrReply, about.Kind, about.Serial, t.about.Kind, t.about.Serial), l.end())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errors.Join(hsm.ErrClosed, l.end())
	}
	t.link = l
	return l, nil
}

// current returns the link if its process lives.
func (t *Token) current() (*link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil, hsm.ErrClosed
	case t.link.isDead():
		return nil, nil
	}
	return t.link, nil
}

// do sends a request and hands the answer's body to take, which must not keep it.
func (t *Token) do(ctx context.Context, op byte, head, tail []byte, take func(body []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := t.running(ctx)
	if err != nil {
		return err
	}
	return l.call(ctx, op, head, tail, take)
}

// Describe returns what the token in the other process does.
func (t *Token) Describe() hsm.Description {
	d := t.about
	d.Specs = slices.Clone(d.Specs)
	return d
}

// Generate implements hsm.Provider. A process that dies meanwhile may leave a key that nobody knows, unless it was planned.
func (t *Token) Generate(ctx context.Context, spec hsm.Spec) (k hsm.Key, blob []byte, err error) {
	return t.newest(ctx, opGenerate, spec, nil)
}

var _ hsm.Planner = (*Token)(nil)

// Plan implements hsm.Planner.
func (t *Token) Plan(ctx context.Context, spec hsm.Spec) (plan []byte, err error) {
	err = t.do(ctx, opPlan, []byte{byte(spec)}, nil, func(body []byte) error {
		if len(body) == 0 || len(body) > maxBlob {
			return fmt.Errorf("%w: a plan of %d bytes", ErrReply, len(body))
		}
		plan = slices.Clone(body)
		return nil
	})
	return plan, err
}

// Make implements hsm.Planner.
func (t *Token) Make(ctx context.Context, spec hsm.Spec, plan []byte) (hsm.Key, []byte, error) {
	if len(plan) > maxBlob {
		return nil, nil, errors.Join(ctx.Err(), hsm.ErrBlob)
	}
	return t.newest(ctx, opMake, spec, plan)
}

// newest sends a request for a new key.
func (t *Token) newest(ctx context.Context, op byte, spec hsm.Spec, plan []byte) (k hsm.Key, blob []byte, err error) {
	err = t.do(ctx, op, []byte{byte(spec)}, plan, func(body []byte) error {
		var made madeKey
		if err := json.Unmarshal(body, &made); err != nil || len(made.Blob) == 0 || len(made.Blob) > maxBlob || made.Spec != spec {
			return fmt.Errorf("%w: a new key", ErrReply)
		}
		blob = made.Blob
		k, err = t.newKey(made)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return k, blob, nil
}

// Load implements hsm.Provider.
func (t *Token) Load(ctx context.Context, blob []byte) (k hsm.Key, err error) {
	if len(blob) > maxBlob {
		return nil, errors.Join(ctx.Err(), hsm.ErrBlob)
	}
	err = t.do(ctx, opLoad, blob, nil, func(body []byte) error {
		var found madeKey
		if err := json.Unmarshal(body, &found); err != nil {
			return fmt.Errorf("%w: a loaded key", ErrReply)
		}
		found.Blob = slices.Clone(blob)
		k, err = t.newKey(found)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// Destroy implements hsm.Provider.
func (t *Token) Destroy(ctx context.Context, blob []byte) error {
	if len(blob) > maxBlob {
		return errors.Join(ctx.Err(), hsm.ErrBlob)
	}
	return t.do(ctx, opDestroy, blob, nil, nothing)
}

func nothing([]byte) error { return nil }

// Random implements hsm.Provider.
func (t *Token) Random(ctx context.Context, p []byte) error {
	if len(p) == 0 {
		return t.do(ctx, opRandom, binary.BigEndian.AppendUint32(nil, 0), nil, nothing)
	}
	for part := range slices.Chunk(p, maxRandom) {
		if err := t.do(ctx, opRandom, binary.BigEndian.AppendUint32(nil, uint32(len(part))), nil, func(body []byte) error {
			if copy(part, body) != len(part) || len(body) != len(part) {
				return fmt.Errorf("%w: %d random bytes", ErrReply, len(body))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Close has the process close the token and end, and kills it where it does not.
func (t *Token) Close() error {
	t.mu.Lock()
	first, l := !t.closed, t.link
	t.closed = true
	t.mu.Unlock()
	if !first || l.isDead() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Patience)
	defer cancel()
	return errors.Join(l.call(ctx, opClose, nil, nil, nothing), l.end())
}

// parsePublic returns the key of an uncompressed point, or nil without one.
func parsePublic(spec hsm.Spec, point []byte) (*ecdsa.PublicKey, error) {
	switch {
	case spec == hsm.PRFSHA256 && len(point) == 0:
		return nil, nil
	case spec == hsm.SignP256:
		if public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point); err == nil {
			return public, nil
		}
	}
	return nil, fmt.Errorf("%w: a key of %v with a public half of %d bytes", ErrReply, spec, len(point))
}
