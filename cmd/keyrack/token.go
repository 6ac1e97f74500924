package main

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/internal/rack"
)

// tokenListCommand shows what an appliance could have its root in.
var tokenListCommand = command{
	name: "token list", args: "[--module PATH]…", short: "the tokens of this machine",
	long: `
Lists the tokens that this machine offers, each with what --token of keyrack init
takes: TPMs behind the kernel's resource manager, /dev/tpmrm*, and tokens of PKCS#11
libraries: those of --module, or else those that Debian's packages have installed. It
changes nothing, asks for no PIN and spends no try. A library is loaded by a process
of its own, as the user that runs the command.`,
	examples: []string{"keyrack token list", "keyrack token list --module /usr/lib/softhsm/libsofthsm2.so"},
	flags:    tokenListFlags,
}

// tokenListFlags declares the flags and acts.
func tokenListFlags(fs *flag.FlagSet) action {
	var modules []string
	fs.Func("module", "the `PATH` of a PKCS#11 library, absolute; may be given again", func(path string) error {
		if !filepath.IsAbs(path) {
			return errors.New("want an absolute path")
		}
		modules = append(modules, path)
		return nil
	})
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if modules == nil {
			modules = rack.KnownModules()
		}
		all := rack.FindTokens(context.Background(), rack.TPMNodes("/dev"), modules)
		if len(all) == 0 {
			return hinted("see that the TPM is switched on in the firmware's settings, or give --module the library of your HSM", "this machine offers no token: there is no /dev/tpmrm0, and no PKCS#11 library has one")
		}
		var blocks []string
		for i := range all {
			blocks = append(blocks, tokenLines(&all[i]))
		}
		return format.print(sh.out, struct{ Tokens []rack.TokenReport }{all}, strings.Join(blocks, "\n"))
	})
}

// tokenInfoCommand shows one token.
var tokenInfoCommand = command{
	name: "token info", args: "[SPEC | --dir DIR [--token SPEC]]", short: "what a token is, and how it is",
	long: `
Prints what a token tells of itself: kind, model, serial, the keys that it makes, its
self-test, what it says of PINs, and the room that is left. The token is that of SPEC,
or of the appliance in DIR. It changes nothing, asks for no PIN and spends no try. A
TPM that is not behind the kernel's resource manager can be asked only while no
appliance uses it.`,
	examples: []string{
		"keyrack token info tpm2",
		"keyrack token info 'pkcs11:module=/usr/lib/softhsm/libsofthsm2.so;token=keyrack'",
		"keyrack token info --dir /var/lib/keyrack --output json",
	},
	settings: []string{"appliance.dir", "appliance.token"},
	flags:    tokenInfoFlags,
}

// tokenInfoFlags declares the flags and acts.
func tokenInfoFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return func(sh *shell, words, rest []string) error {
		all := append(words, rest...)
		spec, dir := sh.settings.Text("appliance.token"), sh.settings.Text("appliance.dir")
		switch {
		case len(all) > 1:
			return usagef("keyrack help token info", "token info: unexpected argument %q", all[1])
		case len(all) == 1:
			if err := validToken(all[0]); err != nil {
				return usagef("keyrack help token info", "token info: %w", err)
			}
			spec = all[0]
		}
		r, err := rack.InspectToken(context.Background(), spec, dir)
		if err != nil {
			return err
		}
		return format.print(sh.out, r, tokenLines(&r))
	}
}

// tokenLines returns what people read.
func tokenLines(r *rack.TokenReport) string {
	var rows [][2]string
	for _, row := range [][2]string{
		{"--token", r.Spec}, {"kind", r.Kind}, {"model", r.Model}, {"serial", r.Serial}, {"keys", strings.Join(r.Keys, ", ")},
		{"self-test", r.SelfTest}, {"PIN", r.PIN}, {"room", r.Room}, {"WARNING", r.Warning}, {"ERROR", r.Error},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return columns(rows)
}

// tokenScanCommand is the process that loads a PKCS#11 library for the two above, so it is in no list.
var tokenScanCommand = command{
	name: rack.ScanModule, short: "a part of token list", hidden: true,
	long:    "Is started by keyrack token list and keyrack token info.",
	settled: true,
	flags: func(*flag.FlagSet) action {
		return func(_ *shell, words, _ []string) error {
			if len(words) != 1 {
				return usagef("keyrack help token list", "this process asks a library for its tokens")
			}
			return rack.Scan(context.Background(), words[0])
		}
	},
}
