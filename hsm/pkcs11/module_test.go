//go:build cgo

package pkcs11_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/hsm/pkcs11"
	secret "github.com/keyrack/keyrack/internal/pin"
)

// A library in C, of which each case below is one macro.
const library = `
#include <stddef.h>
struct list { unsigned char major, minor; void *f[68]; };
static unsigned long fails(void) { return 0x30; }
static struct list good = { 2, 40 };
#ifndef NONE
unsigned long C_GetFunctionList(struct list **l)
{
	int i;
	for (i = 0; i < 68; i++)
		good.f[i] = (void *)fails;
#if defined REFUSES
	return 5;
#elif defined SILENT
	return 0;
#elif defined WILD
	*l = (struct list *)0x10000;
	return 0;
#elif defined ODD
	*l = (struct list *)((char *)&good + 1);
	return 0;
#elif defined VERSION
	good.major = 9;
#elif defined HOLE
	good.f[43] = NULL;
#elif defined WILDCALL
	good.f[43] = (void *)8;
#endif
	*l = &good;
	return 0;
}
#endif
`

// TestWhatIsNoModule: each is refused with one error that says what it is, and none ends the process.
func TestWhatIsNoModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := build(t, dir, "OPEN")
	if err := os.Chmod(open, 0o775); err != nil {
		t.Fatal(err)
	}
	foreign := build(t, dir, "FOREIGN")
	if os.Geteuid() == 0 { // nobody else can give a file away
		if err := os.Chown(foreign, 12345, -1); err != nil {
			t.Fatal(err)
		}
	}
	whose := map[bool]string{true: "belongs to another user", false: "does not start"}[os.Geteuid() == 0]
	for path, want := range map[string]string{
		filepath.Join(dir, "none.so"): "no such file", dir: "no regular file", text: "file too short", open: "has mode 0775", foreign: whose,
		build(t, dir, "NONE"): "has no C_GetFunctionList", build(t, dir, "REFUSES"): "C_GetFunctionList returns 0x5",
		build(t, dir, "SILENT"): "garbage", build(t, dir, "WILD"): "garbage", build(t, dir, "ODD"): "garbage",
		build(t, dir, "VERSION"): "speaks Cryptoki 9.40", build(t, dir, "HOLE"): "entry 43 of its function list", build(t, dir, "WILDCALL"): "entry 43 of its function list",
		build(t, dir, "BROKEN"): "does not start: C_Initialize: pkcs11: 0x30: CKR_DEVICE_ERROR",
	} {
		for range 2 {
			p, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: path, Label: "x"})
			if !errors.Is(err, pkcs11.ErrModule) || !strings.Contains(err.Error(), want) || p != nil {
				t.Errorf("%s: %v, %v; want %q", filepath.Base(path), p, err, want)
			}
		}
	}
	if _, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: filepath.Join(dir, "none.so"), Label: "x"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing module: %v", err)
	}
}

// build compiles the library with one macro.
func build(t *testing.T, dir, macro string) string {
	t.Helper()
	path := filepath.Join(dir, macro+".so")
	cmd := exec.CommandContext(t.Context(), "cc", "-x", "c", "-shared", "-fPIC", "-D"+macro, "-o", path, "-")
	cmd.Stdin = strings.NewReader(library)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cc, which cgo needs too: %v\n%s", err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func TestWhichToken(t *testing.T) {
	t.Parallel()
	one := newToken(t)
	p := open(t, one)
	serial := p.Describe().Serial
	if _, err := pkcs11.Open(t.Context(), one); !errors.Is(err, pkcs11.ErrInUse) {
		t.Errorf("a token that is open: %v", err)
	}
	if err := pkcs11.InitToken(softHSM, one.Label, pin); err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11.Open(t.Context(), one); !errors.Is(err, pkcs11.ErrNoToken) || !strings.Contains(err.Error(), serial) || !strings.Contains(err.Error(), "2 tokens fit") {
		t.Errorf("two tokens of one label: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		change func(*pkcs11.Config)
		want   error
	}{
		"serial":                     {func(c *pkcs11.Config) { c.Serial = serial }, nil},
		"serial alone":               {func(c *pkcs11.Config) { c.Label, c.Serial = "", serial }, nil},
		"another serial":             {func(c *pkcs11.Config) { c.Serial = "0" }, pkcs11.ErrNoToken},
		"serial of another label":    {func(c *pkcs11.Config) { c.Label, c.Serial = "x", serial }, pkcs11.ErrNoToken},
		"serial and model":           {func(c *pkcs11.Config) { c.Serial, c.Model = serial, "SoftHSM v2" }, nil},
		"serial and another model":   {func(c *pkcs11.Config) { c.Serial, c.Model = serial, "Luna" }, pkcs11.ErrNoToken},
		"serial and another maker":   {func(c *pkcs11.Config) { c.Serial, c.Manufacturer = serial, "x" }, pkcs11.ErrNoToken},
		"neither":                    {func(c *pkcs11.Config) { c.Label = "" }, pkcs11.ErrConfig},
		"a relative path":            {func(c *pkcs11.Config) { c.Module = "libsofthsm2.so" }, pkcs11.ErrConfig},
		"too many sessions":          {func(c *pkcs11.Config) { c.Serial, c.Sessions = serial, 1000 }, pkcs11.ErrConfig},
		"two places for the PIN":     {func(c *pkcs11.Config) { c.Serial, c.PIN.Env = serial, "PIN" }, pkcs11.ErrConfig},
		"a credential with a folder": {func(c *pkcs11.Config) { c.PIN.File, c.PIN.Credential = "", "../pin" }, pkcs11.ErrConfig},
	} {
		c := one
		test.change(&c)
		p, err := pkcs11.Open(t.Context(), c)
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if p != nil {
			p.Close()
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pkcs11.Open(done, one); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a cancelled context: %v", err)
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	got, err := pkcs11.ParseConfig("module=/usr/lib/x.so;token=key%3brack%20one;serial=12;manufacturer=M;model=m;pin-file=/etc/pin;final-try=yes")
	want := pkcs11.Config{Module: "/usr/lib/x.so", Label: "key;rack one", Serial: "12", Manufacturer: "M", Model: "m", PIN: secret.Source{File: "/etc/pin"}, FinalTry: true}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, text := range []string{
		"module=/x;token=a;pin-env=PIN", "module=/x;serial=1;pin-credential=kr", "module=/x;token=a",
	} {
		if _, err := pkcs11.ParseConfig(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"": "NAME=VALUE", "token=a": "module=PATH is missing", "module=x;token=a": "absolute", "module=/x": "token=LABEL", "module=/x;token=a;token=b": "twice",
		"module=/x;token=": "empty", "module=/x;token=%zz": "encoded", "module=/x;token=%00": "encoded", "module=/x;token=a;slot=1": "none of module",
		"module=/x;token=a;pin-value=1234": "everybody's", "module=/x;token=a;pin=1234": "everybody's", "module=/x;token=a;1234": "NAME=VALUE", "module=/x;token=a;pin-file=1234": "absolute", "module=/x;token=a;pin-credential=a/1234": "not a name", "module=/x;token=a;": "NAME=VALUE",
		"module=/x;token=a;pin-file=pin": "absolute", "module=/x;token=a;pin-file=/p;pin-env=P": "one place", "module=/x;token=a;final-try=no": "none of module",
		"module=/x;token=" + strings.Repeat("a", 9000): "longer than",
	} {
		if _, err := pkcs11.ParseConfig(text); !errors.Is(err, pkcs11.ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}
