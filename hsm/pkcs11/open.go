//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
)

// Open loads the module, finds the token, and logs in. It returns an error that wraps one of ErrConfig, ErrModule, ErrNoToken,
// ErrToken, ErrInUse, pin.ErrUnreadable, ErrPIN, ErrPINTries, ErrPINLocked and ErrSilent, or what the module said.
func Open(ctx context.Context, c Config) (hsm.Provider, error) {
	t, err := open(ctx, c, loadNative)
	if err != nil {
		return nil, err // not t: a nil *Token would be a Provider
	}
	return t, nil
}

// open is Open with a loader of a test's choice.
func open(ctx context.Context, c Config, load func(string) (cryptoki, error)) (*Token, error) {
	if err := errors.Join(ctx.Err(), c.check()); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrSilent)
	defer cancel()
	type result struct {
		t   *Token
		err error
	}
	done, gone := make(chan result), make(chan struct{})
	go func() {
		t, err := join(ctx, c, load)
		select {
		case done <- result{t, err}:
		case <-gone:
			if err == nil {
				_ = t.Close()
			}
		}
	}()
	select {
	case r := <-done:
		return r.t, r.err
	case <-ctx.Done():
		close(gone)
		return nil, context.Cause(ctx)
	}
}

// join is Open without a bound on its time.
func join(ctx context.Context, c Config, load func(string) (cryptoki, error)) (*Token, error) {
	m, err := useModule(ctx, c.Module, load)
	if err != nil {
		return nil, err
	}
	t := &Token{cfg: c, mod: m, closing: make(chan struct{})}
	claimed, err := t.introduce(ctx)
	if err == nil {
		t.conn, err = t.connect(ctx)
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
		defer cancel()
		return nil, errors.Join(err, m.leave(ctx, t.binding, claimed))
	}
	return t, nil
}

// introduce finds the token that the configuration names and learns what it is. It reports whether it has claimed it.
func (t *Token) introduce(ctx context.Context) (claimed bool, err error) {
	if err := t.mod.calls.enter(ctx); err != nil {
		return false, err
	}
	defer t.mod.calls.leave()
	slot, info, err := t.choose()
	if err != nil {
		return false, err
	}
	t.binding = found{slot, info}.binding()
	if err := t.mod.claim(t.binding); err != nil {
		return false, err
	}
	specs, err := t.specs(slot)
	if err != nil {
		return true, err
	}
	t.about = describe(info, specs)
	sessions := t.cfg.Sessions
	if most := info.MaxSessionCount; most > 1 && most < uint(sessions)+1 { // one more holds the login; 0 and ~0 mean no limit or none known
		sessions = int(most) - 1
	}
	t.permits = make(chan struct{}, sessions)
	return true, nil
}

// found is a slot with a token that may be the one.
type found struct {
	slot uint
	info pkcs11.TokenInfo
}

func (f found) binding() [bindingSize]byte {
	return bindingOf(f.info.ManufacturerID, f.info.Model, f.info.SerialNumber)
}

// choose returns the one token that the configuration names; the errors list what there is.
func (t *Token) choose() (uint, pkcs11.TokenInfo, error) {
	all, err := t.tokens()
	if err != nil {
		return 0, pkcs11.TokenInfo{}, err
	}
	fits := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return !t.cfg.fits(f.info) })
	switch {
	case len(fits) == 0:
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("%w: %s has %s", ErrNoToken, t.mod.path, list(all))
	case len(fits) > 1:
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("%w: %d tokens fit, name one by serial=: %s", ErrNoToken, len(fits), list(fits))
	}
	return fits[0].slot, fits[0].info, judge(fits[0].info)
}

// tokens returns what is in the slots. Slots whose token cannot be read are passed over: they are not the one.
func (t *Token) tokens() (all []found, err error) {
	slots, err := t.mod.lib.Slots()
	if err != nil {
		return nil, called("C_GetSlotList", err)
	}
	for _, slot := range slots {
		info, err := t.mod.lib.GetTokenInfo(slot)
		if err != nil {
			continue
		}
		for _, s := range []*string{&info.Label, &info.ManufacturerID, &info.Model, &info.SerialNumber} {
			*s = printable(*s)
		}
		all = append(all, found{slot, info})
	}
	return all, nil
}

// fits reports whether a token is one that the configuration names.
func (c *Config) fits(info pkcs11.TokenInfo) bool {
	for _, pair := range [][2]string{
		{c.Label, info.Label}, {c.Serial, info.SerialNumber}, {c.Manufacturer, info.ManufacturerID}, {c.Model, info.Model},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// list names tokens for an error.
func list(all []found) string {
	var names []string
	for _, f := range all {
		if f.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			names = append(names, fmt.Sprintf("token %q with serial %q", f.info.Label, f.info.SerialNumber))
		}
	}
	if len(names) == 0 {
		return "no initialised token"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// judge refuses a token that nobody can log in to.
func judge(info pkcs11.TokenInfo) error {
	switch flags := info.Flags; {
	case flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
		return fmt.Errorf("%w: serial %q is not initialised", ErrNoToken, info.SerialNumber)
	case flags&pkcs11.CKF_ERROR_STATE != 0:
		return fmt.Errorf("%w: its own self-test has failed", ErrToken)
	case flags&pkcs11.CKF_LOGIN_REQUIRED != 0 && flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("%w: token %q has no user PIN yet", ErrNoToken, info.Label)
	}
	return nil
}

// specs returns the keys that the token can make and use, by its mechanisms.
func (t *Token) specs(slot uint) (specs []hsm.Spec, err error) {
	for _, s := range []struct {
		spec      hsm.Spec
		makes, do uint
	}{
		{hsm.PRFSHA256, pkcs11.CKM_GENERIC_SECRET_KEY_GEN, pkcs11.CKM_SHA256_HMAC},
		{hsm.SignP256, pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKM_ECDSA},
	} {
		if t.offers(slot, s.makes) && t.offers(slot, s.do) {
			specs = append(specs, s.spec)
		}
	}
	if !slices.Contains(specs, hsm.PRFSHA256) {
		return nil, fmt.Errorf("%w: it lacks CKM_GENERIC_SECRET_KEY_GEN or CKM_SHA256_HMAC", ErrToken)
	}
	return specs, nil
}

func (t *Token) offers(slot, mechanism uint) bool {
	_, err := t.mod.lib.GetMechanismInfo(slot, mechanisms(mechanism))
	return err == nil
}

func mechanisms(m uint) []*pkcs11.Mechanism { return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)} }

// describe returns what Describe does.
func describe(info pkcs11.TokenInfo, specs []hsm.Spec) hsm.Description {
	d := hsm.Description{
		Kind:   "pkcs11",
		Model:  fmt.Sprintf("%s %s, firmware %d.%d, token %q", info.ManufacturerID, info.Model, info.FirmwareVersion.Major, info.FirmwareVersion.Minor, info.Label),
		Serial: info.SerialNumber,
		Specs:  specs,
	}
	if d.Serial == "" { // some modules leave it out; a label is better than nothing
		d.Serial = info.Label
	}
	if strings.Contains(strings.ToLower(info.Model+info.ManufacturerID), "softhsm") {
		d.Development = true
		d.Warning = "SoftHSM is no hardware: keys are as safe as its files and the PIN"
	}
	return d
}

// called says which function has returned err.
func called(function string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", function, err)
}
