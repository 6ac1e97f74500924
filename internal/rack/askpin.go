package rack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/tpm2"
	"github.com/keyrack/keyrack/internal/securemem"
)

// ErrAsksPIN says that a token is to be opened with a PIN that its operator gives each time.
var ErrAsksPIN = errors.New("rack: the token's PIN is in nobody's files: its operator must give it")

// pinAsk in a specification says that the operator gives the PIN when the token is opened.
const pinAsk = "pin-ask=yes"

// PINOpener opens a token with a PIN. The PIN is the caller's, who frees it afterwards; what has to outlive the call is copied.
type PINOpener func(ctx context.Context, pin *securemem.Buffer) (hsm.Provider, error)

// ParseAsked returns how to open a token whose PIN its operator gives: of a specification with pin-ask=yes. Of another one it
// returns nil. What is wrong with the rest of it, [ParseToken] says.
func ParseAsked(spec, dir string) (PINOpener, error) {
	kind, rest, _ := strings.Cut(spec, ":")
	attributes, asks := splitAsk(rest)
	switch {
	case !asks || kind == "soft":
		return nil, nil
	case slices.ContainsFunc(strings.Split(attributes, ";"), func(s string) bool { return strings.HasPrefix(s, "pin-") }):
		return nil, fmt.Errorf("%w: the PIN can come from one place only", ErrToken)
	case kind == "tpm2":
		cfg, err := tpm2.ParseConfig(attributes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		return askedTPM(cfg), nil
	case kind == "pkcs11":
		if _, err := pkcs11Config(attributes, dir); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		return askedPKCS11(rest, dir), nil
	}
	return nil, nil
}

// splitAsk takes pin-ask=yes out of the attributes of a specification.
func splitAsk(attributes string) (rest string, asks bool) {
	parts := strings.Split(attributes, ";")
	left := slices.DeleteFunc(parts, func(s string) bool { return s == pinAsk })
	return strings.Join(left, ";"), len(left) < strings.Count(attributes, ";")+1
}

// refuseToAsk opens no token: whoever asks for the PIN uses ParseAsked.
func refuseToAsk(context.Context) (hsm.Provider, error) { return nil, ErrAsksPIN }

// askedTPM returns how to open a TPM with a PIN. A wrong one is told by the first key that asks for it.
func askedTPM(cfg tpm2.Config) PINOpener {
	return func(ctx context.Context, pin *securemem.Buffer) (hsm.Provider, error) {
		with := cfg
		with.PIN = func() ([]byte, error) { return bytes.Clone(pin.Bytes()), nil } // which tpm2 wipes
		t, err := tpm2.Open(ctx, with)
		if err != nil {
			return nil, err // and no Provider that holds a nil Token
		}
		return t, nil
	}
}

// askedPKCS11 returns how to open a PKCS#11 token with a PIN. It is kept in locked memory for as long as the token is open:
// the process that holds the token needs it again when it has died.
func askedPKCS11(attributes, dir string) PINOpener {
	return func(ctx context.Context, pin *securemem.Buffer) (hsm.Provider, error) {
		kept, err := securemem.From(pin.Bytes())
		if err != nil {
			return nil, err
		}
		p := &pinned{pin: kept}
		open, err := pkcs11Token(attributes, dir, p.copy)
		if err == nil {
			p.Provider, err = open(ctx)
		}
		if err != nil {
			p.free()
			return nil, err
		}
		return p, nil
	}
}

// pinned is a token with the PIN that opens it again.
type pinned struct {
	hsm.Provider

	mu  sync.Mutex
	pin *securemem.Buffer // guarded by mu; freed by Close
}

// copy returns the PIN, which the caller frees.
func (p *pinned) copy() (*securemem.Buffer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin.Bytes() == nil {
		return nil, hsm.ErrClosed
	}
	return securemem.From(p.pin.Bytes())
}

func (p *pinned) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pin.Free()
}

// Close closes the token and forgets the PIN.
func (p *pinned) Close() error {
	err := p.Provider.Close()
	p.free()
	return err
}
