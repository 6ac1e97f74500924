package rack

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
	"github.com/keyrack/keyrack/internal/securemem"
)

// TokenProcess is the command with which this binary starts itself once more to hold a PKCS#11 token: a vendor's library that crashes, or
// reads the memory it is in, is then not in the appliance's process. Its arguments are those of [HoldToken].
const TokenProcess = "token-process"

// pkcs11Token returns how to open the token that attributes name, in a process of its own. pin, unless it is nil, gives the PIN.
func pkcs11Token(attributes, dir string, pin func() (*securemem.Buffer, error)) (hsm.Opener, error) {
	if _, err := pkcs11Config(attributes, dir); err != nil {
		return nil, err
	}
	process := remote.Config{Errors: tokenErrors(), Secret: pin, Command: func() *exec.Cmd {
		// The binary that runs, also where another one has taken its place on disk.
		cmd := exec.Command("/proc/self/exe", TokenProcess, dir, attributes)
		cmd.Args[0] = os.Args[0]
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // a vendor's library may write to either
		cmd.Env = append(os.Environ(), "GOTRACEBACK=none")
		return cmd
	}}
	return func(ctx context.Context) (hsm.Provider, error) {
		t, err := remote.Open(ctx, process)
		if err != nil {
			return nil, err // not t: a nil *Token would be a Provider
		}
		return t, nil
	}, nil
}

// HoldToken holds the PKCS#11 token that attributes name for the process that started this one, of an appliance in dir, until that ends.
// Signals that end an appliance are that process's to obey: it needs the token until it has stopped.
func HoldToken(ctx context.Context, dir, attributes string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	if err := securemem.Harden(); err != nil {
		return err
	}
	cfg, err := pkcs11Config(attributes, dir)
	if err != nil {
		return err
	}
	if _, asks := splitAsk(attributes); asks {
		held, err := remote.Secret()
		if err != nil {
			return err
		}
		defer held.Free()
		cfg.Asked = heldPIN{held}
	}
	return remote.Serve(ctx, func(ctx context.Context) (hsm.Provider, error) { return pkcs11.Open(ctx, cfg) }, tokenErrors())
}

// heldPIN is a PIN that this process was given.
type heldPIN struct{ *securemem.Buffer }

// Read returns a copy.
func (p heldPIN) Read() (*securemem.Buffer, error) { return securemem.From(p.Bytes()) }

func pkcs11Config(attributes, dir string) (pkcs11.Config, error) {
	attributes, _ = splitAsk(attributes)
	cfg, err := pkcs11.ParseConfig(attributes)
	cfg.Refused = filepath.Join(dir, refusedName)
	return cfg, err
}

// tokenErrors are the errors that mean the same on both sides.
func tokenErrors() []error { return append(pkcs11.Errors(), securemem.ErrNotLocked, securemem.ErrFull) }
