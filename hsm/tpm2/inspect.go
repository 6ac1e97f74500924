package tpm2

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"time"

	tpm "github.com/google/go-tpm/tpm2"

	"github.com/keyrack/keyrack/hsm"
)

// Report is what a chip tells of itself without any authorization.
type Report struct {
	hsm.Description // its Serial is empty where there is no storage root key yet

	WrongTries, MaxTries uint32        // wrong PINs that count now, and how many lock it
	GivenBack            time.Duration // after it a try is given back
	Locked               bool          // it takes no PIN for now
	FreeCounters         uint32        // counters that the chip says it has room for; each key needs one
	FreePersistent       uint32        // persistent keys likewise; the storage root key is one
}

// Inspect asks the chip at cfg.Path what it is, after it has tested itself. It changes nothing, makes no key, spends no try, and needs neither PIN
// nor owner; the rest of cfg but Timeout has no effect. Its errors are those of Open.
func Inspect(ctx context.Context, cfg Config) (r Report, err error) {
	if cfg.Path == "" {
		cfg.Path = DefaultPath
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	p, managed, err := dial(ctx, cfg.Path, time.Now().Add(cfg.Timeout))
	if err != nil {
		return r, err
	}
	defer p.Close()
	l := &link{ctx: ctx, timeout: cfg.Timeout, port: p, managed: managed, sessions: map[sessionKind]tpm.Session{}}
	fips140.WithoutEnforcement(func() { r, err = l.inspect() })
	return r, err
}

// inspect is Inspect on a connection.
func (l *link) inspect() (r Report, err error) {
	if _, err := l.raw(tpm.TPMCCSelfTest, 0); err != nil {
		return r, fmt.Errorf("self-test: %w", err)
	}
	for _, h := range rootKeys {
		root, err := l.readRoot(h)
		if err != nil && !errors.Is(err, tpm.TPMRCHandle) {
			return r, err
		}
		if root != nil && err == nil {
			l.root = root
			break
		}
	}
	if r.Description, err = l.describe(); err != nil {
		return r, err
	}
	v, err := l.properties(tpm.TPMPTPermanent, 24)
	if err != nil {
		return r, err
	}
	r.WrongTries, r.MaxTries = v[tpm.TPMPTLockoutCounter], v[tpm.TPMPTMaxAuthFail]
	r.GivenBack = time.Duration(v[tpm.TPMPTLockoutInterval]) * time.Second
	r.Locked = v[tpm.TPMPTPermanent]&inLockout != 0
	r.FreeCounters, r.FreePersistent = v[tpm.TPMPTNVCountersAvail], v[tpm.TPMPTHRPersistentAvail]
	return r, nil
}

// inLockout is the bit of TPM_PT_PERMANENT that says that the chip takes no authorization that could be guessed, TPM 2.0 Part 2, 8.6.
const inLockout = 1 << 9
