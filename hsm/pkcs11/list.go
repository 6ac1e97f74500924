//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// List returns the initialised tokens of a module, without a login. It returns an error that wraps ErrModule, or what the module said. A
// module that never answers keeps it: whoever does not trust one asks in a process that can be killed.
func List(ctx context.Context, path string) (all []Report, err error) {
	m, err := useModule(ctx, path, loadNative)
	if err != nil {
		return nil, err
	}
	t := &Token{mod: m}
	all, err = t.reports(ctx)
	return all, errors.Join(err, m.leave(context.WithoutCancel(ctx), [bindingSize]byte{}, false))
}

// reports returns what there is to tell of each initialised token.
func (t *Token) reports(ctx context.Context) (all []Report, err error) {
	if err := t.mod.calls.enter(ctx); err != nil {
		return nil, err
	}
	defer t.mod.calls.leave()
	tokens, err := t.tokens()
	for _, f := range tokens {
		if f.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			all = append(all, t.report(f))
		}
	}
	return all, err
}

// report returns what there is to tell of a token.
func (t *Token) report(f found) Report {
	specs, err := t.specs(f.slot)
	r := Report{Description: describe(f.info, specs), Label: f.info.Label, Firmware: fmt.Sprintf("%d.%d", f.info.FirmwareVersion.Major, f.info.FirmwareVersion.Minor)}
	if err != nil {
		r.Warning = err.Error()
	}
	if free := f.info.FreePrivateMemory; free != pkcs11.CK_UNAVAILABLE_INFORMATION {
		r.FreeBytes = uint64(free)
	}
	flags := f.info.Flags
	r.NeedsPIN, r.NoPIN, r.PINLocked = flags&pkcs11.CKF_LOGIN_REQUIRED != 0, flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0, flags&pkcs11.CKF_USER_PIN_LOCKED != 0
	r.WrongPIN, r.FinalTry = flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0, flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0
	r.SelfTestFailed = flags&pkcs11.CKF_ERROR_STATE != 0
	return r
}
