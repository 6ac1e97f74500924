//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/securemem"
)

// login logs the user in, unless the token asks for nobody. It never spends a try that it need not: the token's own count of wrong PINs
// (PKCS#11 2.40, section 3.2, CK_TOKEN_INFO flags), the PIN's length, and what is known of the last wrong PIN are judged first.
// It reports whether anybody was logged in. The caller has entered mod.calls.
func (t *Token) login(slot uint, s pkcs11.SessionHandle, info pkcs11.TokenInfo) (in bool, err error) {
	switch flags := info.Flags; {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return false, ErrPINLocked
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0 && !t.cfg.FinalTry:
		return false, ErrPINTries
	case flags&pkcs11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return false, fmt.Errorf("%w: it wants it changed first", ErrPIN)
	}
	code, err := t.cfg.readPIN()
	switch {
	case err != nil:
		return false, err
	case code != nil:
		defer code.Free()
		return true, t.tryPIN(slot, s, info, code.Bytes())
	case info.Flags&pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		return true, t.refusal(slot, t.mod.lib.LoginUser(s, nil))
	case info.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0:
		return false, fmt.Errorf("%w: the token needs one, and none of pin-file, pin-env and pin-credential is given", pin.ErrUnreadable)
	}
	return false, nil
}

// readPIN returns the PIN, in locked memory that the caller frees, or nil where the configuration names none.
func (c *Config) readPIN() (*securemem.Buffer, error) {
	if c.Asked != nil {
		return c.Asked.Read()
	}
	return c.PIN.Read()
}

// tryPIN logs in with a PIN that was not refused before, and remembers it if it is refused now.
func (t *Token) tryPIN(slot uint, s pkcs11.SessionHandle, info pkcs11.TokenInfo, pin []byte) error {
	switch n := uint(len(pin)); {
	case info.MaxPinLen > 0 && info.MaxPinLen >= info.MinPinLen && (n < info.MinPinLen || n > info.MaxPinLen):
		return fmt.Errorf("%w: it takes %d to %d bytes, so this one was not tried", ErrPIN, info.MinPinLen, info.MaxPinLen)
	case t.mod.hasRefused(t.binding, pin):
		return fmt.Errorf("%w: it did before, so this one was not tried again", ErrPIN)
	case refusedBefore(t.cfg.Refused, t.binding, pin):
		return fmt.Errorf("%w: it did before, so this one was not tried again; if it is right all the same, remove %s", ErrPIN, t.cfg.Refused)
	}
	err := t.refusal(slot, t.mod.lib.LoginUser(s, pin))
	switch {
	case err == nil:
		forgetRefused(t.cfg.Refused)
	case errors.Is(err, ErrPIN):
		t.mod.remember(t.binding, pin)
		err = errors.Join(err, rememberRefused(t.cfg.Refused, t.binding, pin))
	}
	return err
}

// refusal says what C_Login has meant by err.
func (t *Token) refusal(slot uint, err error) error {
	switch {
	case err == nil, isCode(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return nil // the login is the process's, and it outlives a session that was lost
	case isCode(err, pkcs11.CKR_PIN_LOCKED):
		return ErrPINLocked
	case isCode(err, pkcs11.CKR_PIN_EXPIRED):
		return fmt.Errorf("%w: it has expired", ErrPIN)
	case isCode(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE):
		return fmt.Errorf("%w%s", ErrPIN, t.triesLeft(slot))
	}
	return called("C_Login", err)
}

// triesLeft says what the token tells after a wrong PIN.
func (t *Token) triesLeft(slot uint) string {
	info, err := t.mod.lib.GetTokenInfo(slot)
	switch {
	case err != nil:
		return ""
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return ": it is locked now"
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return ": one wrong PIN more locks it"
	}
	return ""
}
