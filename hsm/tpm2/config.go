package tpm2

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyrack/keyrack/internal/pin"
)

// ErrConfig is wrapped by ParseConfig for a configuration that makes no sense.
var ErrConfig = errors.New("tpm2: bad configuration")

// Config says which TPM to open and how. The zero Config is the TPM of this machine, without PIN.
type Config struct {
	// Path is a device node, the path of a Unix socket, or tcp:HOST:PORT, where commands and replies follow each other as swtpm's
	// --server has them; empty is DefaultPath. Of a socket, and of a device other than a resource manager's, Token must be the only user:
	// what others left loaded there it takes out.
	Path string

	// PIN returns the PIN that keys ask for, 1 byte at least; nil makes keys without. It is asked once, by Open, which wipes what
	// it returns. Keys of the one sort and of the other can live in one chip.
	PIN func() ([]byte, error)

	// Owner returns the authorization value of the owner hierarchy, without zero bytes, at most 32; nil is the empty one. It is asked once, by
	// Open, and is needed to make the SRK, by Generate and by Destroy.
	Owner func() ([]byte, error)

	// Timeout is what one command may take; 0 is 20 s.
	Timeout time.Duration
}

// ParseConfig reads NAME=VALUE, separated by semicolons, each once: path (absolute, or tcp:HOST:PORT); one of pin-file, pin-env and
// pin-credential; one of owner-file, owner-env and owner-credential, of the owner hierarchy's authorization value. Empty text is the
// zero Config. It returns an error that wraps ErrConfig, and reads no secret.
func ParseConfig(text string) (c Config, err error) {
	var code, owner pin.Source
	fields := map[string]*string{
		"path":     &c.Path,
		"pin-file": &code.File, "pin-env": &code.Env, "pin-credential": &code.Credential,
		"owner-file": &owner.File, "owner-env": &owner.Env, "owner-credential": &owner.Credential,
	}
	if text == "" {
		return c, nil
	}
	for part := range strings.SplitSeq(text, ";") {
		name, value, ok := strings.Cut(part, "=")
		switch field := fields[name]; {
		case name == "pin" || name == "owner":
			return c, fmt.Errorf("%w: a secret on a command line is everybody's: use %[2]s-file, %[2]s-env or %[2]s-credential", ErrConfig, name)
		case !ok && field == nil:
			return c, fmt.Errorf("%w: an attribute is not NAME=VALUE", ErrConfig) // which one is not said: it may be a PIN
		case field == nil:
			return c, fmt.Errorf("%w: %q is none of path, pin-file, pin-env, pin-credential, owner-file, owner-env, owner-credential", ErrConfig, name)
		case !ok || value == "" || *field != "":
			return c, fmt.Errorf("%w: %s needs a value, and stands there once", ErrConfig, name)
		default:
			*field = value
		}
	}
	if c.Path != "" && !strings.HasPrefix(c.Path, "tcp:") && !filepath.IsAbs(c.Path) {
		return c, fmt.Errorf("%w: path %q is neither absolute nor tcp:HOST:PORT", ErrConfig, c.Path)
	}
	for _, s := range []pin.Source{code, owner} {
		if err := s.Check(); err != nil {
			return c, fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	c.PIN, c.Owner = reader(code), reader(owner)
	return c, nil
}

// reader returns what reads the secret of a source, or nil where there is none.
func reader(s pin.Source) func() ([]byte, error) {
	if !s.Given() {
		return nil
	}
	return func() ([]byte, error) {
		b, err := s.Read()
		if err != nil {
			return nil, err
		}
		defer b.Free()
		return bytes.Clone(b.Bytes()), nil
	}
}
