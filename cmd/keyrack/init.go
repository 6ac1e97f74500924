package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"path/filepath"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/rack"
)

// initCommand makes what serve runs.
var initCommand = command{
	name: "init", args: "--dir DIR [--token SPEC]", short: "make an appliance that stays, in a folder of its own",
	long: `
Makes an appliance in DIR, which is made for its user alone unless it is there: a
root in the token, a domain key, an empty store and the server's key. It prints by
what others know the appliance. It does not start it: keyrack serve does.

A token behind a vendor's PKCS#11 library is named by attributes as a PKCS#11 URI has
them (RFC 7512), in quotes because of the semicolons, and must have its user PIN:
  'pkcs11:module=/usr/lib/softhsm/libsofthsm2.so;token=LABEL;pin-file=/etc/keyrack/pin'
serial=, manufacturer= and model= say more of which token. Instead of pin-file=, a file
of mode 0600, the PIN's place can be pin-env=VARIABLE or, in a systemd unit with
LoadCredentialEncrypted=NAME, pin-credential=NAME. A PIN that the token has refused is
not tried again until it is another one; where one more wrong PIN would lock the token
none is tried, unless final-try=yes stands there.

A folder that holds an appliance is refused. An attempt that was cut off left none:
run it again.`,
	examples: []string{
		"keyrack init --dir /var/lib/keyrack",
		"keyrack init --dir /var/lib/keyrack --token tpm2",
		"keyrack init --dir /var/lib/keyrack --token tpm2:pin-file=/etc/keyrack/pin",
		"keyrack init --dir rack --token 'pkcs11:module=/usr/lib/hsm.so;token=kr;pin-file=/etc/pin'",
	},
	settings: []string{"appliance.dir", "appliance.token"},
	flags:    initFlags,
}

// initFlags declares the flags and acts.
func initFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		cfg, err := sh.rackConfig(fs.Name())
		if err != nil {
			return err
		}
		made, err := rack.Create(context.Background(), cfg)
		if err != nil {
			return err
		}
		if err := format.print(sh.out, made, columns([][2]string{
			{"appliance", made.ID}, {"server key", made.ServerKey}, {"audit key", made.AuditKey},
		})); err != nil {
			return err
		}
		return initAdvice(sh.err, cfg.Dir, made.Token)
	})
}

// initAdvice says what an operator must know before anything is entrusted to the appliance.
func initAdvice(w io.Writer, dir string, token hsm.Description) error {
	warning := ""
	switch {
	case token.Kind == "soft":
		warning = "WARNING: the soft token is a file, for DEVELOPMENT: who can read it can read every key.\n"
	case token.Warning != "":
		warning = "WARNING: " + token.Warning + ".\n"
	}
	_, err := fmt.Fprintf(w, `
WARNING: there is NO RECOVERY SLOT. Whoever loses the token loses every key.
%[3]s
Keep the audit key elsewhere: with it anybody can check the log, by
  keyrack audit verify %[2]s --key KEY
Next:
  keyrack serve --dir %[1]s
  keyrack principal add NAME --account TWELVE-DIGITS --out FOLDER --dir %[1]s
`, shellQuote(dir), shellQuote(filepath.Join(dir, "audit")), warning)
	return err
}
