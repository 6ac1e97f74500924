package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/protocol/client"
)

// clientInitCommand makes a client's key where the client is.
var clientInitCommand = command{
	name: "client init", args: "NAME [--out FOLDER] [--output FORMAT]",
	short: "make this machine's key, and print the hash to register",
	long: `
Makes a key and a certificate for a client of an appliance, NAME.key and NAME.pem
in FOLDER, and prints the hash of the key: sha256: and 64 digits, which is no
secret. It asks no appliance. The key never leaves this machine: the operator is
told the hash, and registers it with keyrack principal add NAME --key-hash HASH, which
prints by what this machine knows the appliance.

Files that are there are never overwritten.`,
	examples: []string{"keyrack client init mail-server --out /etc/mail/keyrack"},
	flags:    clientInitFlags,
}

// clientInitFlags declares the flags and acts.
func clientInitFlags(fs *flag.FlagSet) action {
	out := fs.String("out", ".", "make the key and the certificate in `FOLDER`, which is made if need be")
	format := outputFlag(fs)
	return named(fs, func(sh *shell, name string) error {
		if err := checkFileName(fs.Name(), name); err != nil {
			return err
		}
		k, err := newClientKey(*out, name)
		if err != nil {
			return err
		}
		if err := format.print(sh.out, k.description(), k.hash+"\n"); err != nil {
			return errors.Join(err, k.remove())
		}
		_, err = fmt.Fprintf(sh.err, `The key is made. On the appliance:
  keyrack principal add %s --key-hash %s
Here: paste what that prints, and
  export %s=%s
  export %s=%s
`, shellQuote(name), k.hash, client.EnvCert, shellQuote(oneLine(k.cert)), client.EnvKey, shellQuote(oneLine(k.key)))
		return err
	})
}

// checkFileName refuses a client's name that is no file's name, before a file is made.
func checkFileName(command, name string) error {
	if name == filepath.Base(name) && name != "." && name != ".." {
		return nil
	}
	return usagef("keyrack help "+command, "%s: the name %q would be a path; it may have letters, digits and +=,.@_-", command, name)
}

// clientKey is a client's key and certificate, just made.
type clientKey struct {
	hash      string // sha256:<64 hex digits>
	cert, key string // absolute paths, of files of mode 0600
	madeDir   string // the folder for them, if there was none; else empty
}

// newClientKey makes the files, and the folder dir for them if there is none.
// After an error nothing is left.
func newClientKey(dir, name string) (*clientKey, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	k := &clientKey{}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		k.madeDir = dir
	case !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("make the client's key: %w", err)
	}
	hash, cert, key, err := rack.NewClient(dir, name)
	if err != nil {
		return nil, fmt.Errorf("make the client's key: %w", errors.Join(err, k.remove()))
	}
	k.hash, k.cert, k.key = hash.String(), cert, key
	return k, nil
}

// remove removes what newClientKey made.
func (k *clientKey) remove() error {
	var errs []error
	for _, path := range []string{k.cert, k.key, k.madeDir} {
		if path != "" {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// description returns what programs read.
func (k *clientKey) description() any {
	return struct {
		KeyHash     string
		Environment map[string]string
	}{k.hash, map[string]string{client.EnvCert: k.cert, client.EnvKey: k.key}}
}
