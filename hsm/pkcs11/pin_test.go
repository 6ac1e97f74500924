//go:build cgo

package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm/pkcs11"
	secret "github.com/keyrack/keyrack/internal/pin"
)

// TestAWrongPIN is tried once: not again by this process, nor by one that comes after it; another PIN is.
func TestAWrongPIN(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "pins")
	f := &faulty{at: -1}
	refuse := func(what string, logins int64) {
		t.Helper()
		p, err := through(t, c, f) // with a module loaded anew, as a new process has it
		if !errors.Is(err, pkcs11.ErrPIN) || p != nil || strings.Contains(err.Error(), "wrong-one") {
			t.Errorf("%s: %v, %v", what, p, err)
		}
		if got := f.logins.Swap(0); got != logins {
			t.Errorf("%s: %d logins, want %d", what, got, logins)
		}
	}
	c.Refused = filepath.Join(t.TempDir(), "refused")
	c.PIN.File = pinFile(t, "wrong-one")
	refuse("the first time", 1)
	refuse("the second time", 0)
	remembered, err := os.ReadFile(c.Refused)
	if err != nil || strings.Contains(string(remembered), "wrong-one") || len(strings.TrimSpace(string(remembered))) != len("v1")+1+32+1+32+1+2 {
		t.Errorf("%q, %v", remembered, err)
	}
	c.PIN.File = pinFile(t, "abc") // SoftHSM's PINs have at least four bytes
	refuse("too short", 0)
	c.PIN.File = pinFile(t, pin)
	p, err := through(t, c, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Refused); !os.IsNotExist(err) {
		t.Errorf("after a login: %v", err)
	}
}

// TestAWrongPINInOneProcess is the same without a file, while the module stays loaded.
func TestAWrongPINInOneProcess(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "pins")
	c.PIN.File = pinFile(t, "wrong-one")
	f := &faulty{at: -1}
	pkcs11.Forget(softHSM)
	for range 3 {
		if _, err := pkcs11.OpenThrough(t.Context(), c, f.around); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("Open returned %v", err)
		}
	}
	if got := f.logins.Load(); got != 1 {
		t.Errorf("%d logins", got)
	}
}

// TestAPINThatWasChangedMeanwhile: a token that comes back with another PIN is asked once, not once a call.
func TestAPINThatWasChangedMeanwhile(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "changed")
	if err := os.WriteFile(r.config.PIN.File, []byte("another-one"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := r.logins.Load()
	if err := r.token.Restart(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := r.token.Load(t.Context(), r.root); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("Load returned %v", err)
		}
	}
	if n := r.logins.Load() - before; n != 1 {
		t.Errorf("%d logins", n)
	}
	if err := os.WriteFile(r.config.PIN.File, []byte(pin), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.token.Load(t.Context(), r.root); err != nil {
		t.Errorf("with the right PIN: %v", err)
	}
}

// TestWhatTheTokenSaysOfItsPIN: flags that stand in the way are heeded before a try is spent.
func TestWhatTheTokenSaysOfItsPIN(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "flags")
	for _, test := range []struct {
		name  string
		flags uint
		final bool
		want  error
	}{
		{"one wrong try", raw.CKF_USER_PIN_COUNT_LOW, false, nil},
		{"final try", raw.CKF_USER_PIN_FINAL_TRY, false, pkcs11.ErrPINTries},
		{"final try, forced", raw.CKF_USER_PIN_FINAL_TRY, true, nil},
		{"locked", raw.CKF_USER_PIN_LOCKED, true, pkcs11.ErrPINLocked},
		{"to be changed", raw.CKF_USER_PIN_TO_BE_CHANGED, false, pkcs11.ErrPIN},
		{"failed its self-test", raw.CKF_ERROR_STATE, false, pkcs11.ErrToken},
	} {
		f := &faulty{at: -1, info: func(i *raw.TokenInfo) { i.Flags |= test.flags }}
		c.FinalTry = test.final
		p, err := through(t, c, f)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if n := f.logins.Load(); (n == 1) != (test.want == nil) {
			t.Errorf("%s: %d logins", test.name, n)
		}
		if p != nil {
			p.Close()
		}
	}
}

// TestWhatLoginSays: what C_Login answers has one error each.
func TestWhatLoginSays(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "login")
	for code, want := range map[uint]error{
		raw.CKR_PIN_LOCKED: pkcs11.ErrPINLocked, raw.CKR_PIN_EXPIRED: pkcs11.ErrPIN, raw.CKR_PIN_INCORRECT: pkcs11.ErrPIN,
		raw.CKR_FUNCTION_FAILED: raw.Error(raw.CKR_FUNCTION_FAILED),
	} {
		f := &login{code: code}
		pkcs11.Forget(softHSM)
		if _, err := pkcs11.OpenThrough(t.Context(), c, func(lib pkcs11.Cryptoki) pkcs11.Cryptoki { f.Cryptoki = lib; return f }); !errors.Is(err, want) {
			t.Errorf("%#x: %v, want %v", code, err, want)
		}
	}
}

// login is a module whose C_Login answers code.
type login struct {
	pkcs11.Cryptoki
	code uint
}

func (l *login) LoginUser(raw.SessionHandle, []byte) error { return raw.Error(l.code) }

func TestPINFiles(t *testing.T) {
	t.Parallel()
	c := newToken(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(c.PIN.File, link); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"for the group": write("group", pin, 0o640), "for all": write("all", pin, 0o604), "missing": filepath.Join(dir, "none"), "a folder": dir, "a link": link,
		"empty": write("empty", "\n", 0o600), "long": write("long", strings.Repeat("1", 300), 0o600), "two lines": write("lines", pin+"\n"+pin, 0o600),
	} {
		c := c
		c.PIN.File = path
		p, err := pkcs11.Open(t.Context(), c)
		if !errors.Is(err, secret.ErrUnreadable) || p != nil || strings.Contains(err.Error(), pin) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	c.PIN.File = ""
	if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, secret.ErrUnreadable) {
		t.Errorf("without a PIN: %v", err)
	}
	c.PIN.File = write("windows", pin+"\r\n", 0o400)
	open(t, c)
}

// TestOtherPlacesForThePIN are the environment, and the credentials of a systemd unit.
func TestOtherPlacesForThePIN(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "places")
	c.PIN.File = ""
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kr-pin"), []byte(pin), 0o440); err != nil {
		t.Fatal(err)
	}
	for _, where := range []pkcs11.Config{{PIN: secret.Source{Env: "KR_TEST_PIN"}}, {PIN: secret.Source{Credential: "kr-pin"}}} {
		c.PIN = where.PIN
		os.Unsetenv("KR_TEST_PIN")
		os.Unsetenv("CREDENTIALS_DIRECTORY")
		if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, secret.ErrUnreadable) {
			t.Errorf("%+v: without it: %v", where, err)
		}
		os.Setenv("KR_TEST_PIN", pin)
		os.Setenv("CREDENTIALS_DIRECTORY", dir)
		p, err := pkcs11.Open(t.Context(), c)
		if err != nil {
			t.Fatalf("%+v: %v", where, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
