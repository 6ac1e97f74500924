package tpm2

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
)

var (
	// ErrPIN is wrapped for a PIN that is wrong, missing or empty. A Token whose PIN was wrong tries it no second time.
	ErrPIN = errors.New("tpm2: PIN refused")

	// ErrLockout is wrapped when the chip is locked after too many wrong authorizations, or one more would lock it.
	ErrLockout = errors.New("tpm2: TPM locked against guessing")
)

// pinState is what a Token knows of its PIN.
type pinState struct {
	auth    []byte // 32 hex digits: an authorization value without zero bytes, of which go-tpm 0.9.8 cuts what follows
	proved  bool   // the chip took it
	refused bool   // the chip refused it
	left    uint32 // wrong tries that the chip still takes once this one was wrong
}

// pinOf asks for the PIN. The authorization value is a hash: a chip takes 32 bytes at most, a PIN may be longer.
func pinOf(cfg Config) (pinState, error) {
	if cfg.PIN == nil {
		return pinState{}, nil
	}
	secret, err := cfg.PIN()
	if err != nil {
		return pinState{}, err
	}
	defer securemem.Wipe(secret)
	if len(secret) == 0 {
		return pinState{}, fmt.Errorf("%w: it is empty", ErrPIN)
	}
	sum := seal.MAC(nil, secret, []byte("keyrack tpm2 pin"))
	defer securemem.Wipe(sum)
	return pinState{auth: hex.AppendEncode(nil, sum[:16])}, nil
}

func (p *pinState) wipe() { securemem.Wipe(p.auth) }

// value returns the authorization value for a key that does or does not ask for the PIN.
func (p *pinState) value(asked bool) []byte {
	if asked {
		return p.auth
	}
	return nil
}

// check refuses to try a PIN that is not there, was refused, or would lock the chip if it is wrong.
func (p *pinState) check(l *link) error {
	switch {
	case p.auth == nil:
		return fmt.Errorf("%w: the key asks for one and none is configured", ErrPIN)
	case p.refused:
		return fmt.Errorf("%w before; it is not tried again until the token is opened anew", ErrPIN)
	case p.proved:
		return nil
	}
	v, err := l.properties(tpm.TPMPTLockoutCounter, 3)
	if err != nil {
		return err
	}
	tries, limit := v[tpm.TPMPTLockoutCounter], v[tpm.TPMPTMaxAuthFail]
	if tries+1 < limit {
		p.left = limit - tries - 1
		return nil
	}
	return fmt.Errorf("%w: %d of %d wrong tries are used up; one is given back every %v", ErrLockout, tries, limit,
		time.Duration(v[tpm.TPMPTLockoutInterval])*time.Second)
}

// learn notes what the chip said to a PIN.
func (p *pinState) learn(err error) error {
	switch {
	case err == nil:
		p.proved = true
	case errors.Is(err, tpm.TPMRCAuthFail), errors.Is(err, tpm.TPMRCBadAuth):
		p.refused, p.proved = true, false
		return fmt.Errorf("%w: it is wrong; wrong tries left before the chip locks itself: %d", ErrPIN, p.left)
	}
	return err
}
