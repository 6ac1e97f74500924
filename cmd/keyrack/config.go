package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/keyrack/keyrack/internal/settings"
)

// The commands of settings.
var (
	// configCommand shows what a command started here would find.
	configCommand = command{
		name: "config", args: "[--FLAG VALUE]… [--output FORMAT]", short: "every setting as it is, and where it comes from",
		long: `
Prints every setting with its value and where that comes from: a flag, a variable of
the environment, a line of the settings file, or the default; the first of these that
says something holds. Given the flags that serve is given, it prints what serve would do.

The settings file is the one that --config names, or KEYRACK_CONFIG; for init and
serve, which are given a data folder DIR, DIR/keyrack.toml if neither is set and it is
there. A file that is named must be there. It is TOML; a key that is not known, a value
of another type or out of range, and what is given twice are errors, which name the
line. Relative paths in it are of its own folder. Nobody but its owner, who is root or
the user that runs keyrack, may be able to write it. No secret stands in it.

serve reads it once: what is changed acts at its next start. keyrack config example
prints every setting.`,
		examples: []string{
			"keyrack config --dir /var/lib/keyrack",
			"keyrack config --config /etc/keyrack.toml --output json",
		},
		settings: []string{"appliance.", "limits.", "cache.", "workers.", "audit.", "client."},
		flags:    configFlags,
	}
	// configCheckCommand reads a file and uses none of it.
	configCheckCommand = command{
		name: "config check", args: "FILE", short: "whether a settings file is right",
		long: `
Reads a settings file as serve would, and lists every fault with its line. The exit
status is 1 if there is one. Nothing is started or changed.`,
		examples: []string{"keyrack config check /etc/keyrack.toml"},
		flags:    configCheckFlags,
	}
	// configExampleCommand documents the file by one.
	configExampleCommand = command{
		name: "config example", short: "a settings file with every setting in a comment",
		long: `
Prints a settings file in which every setting stands in a comment with its default,
what it takes, and the flag and the variable that override it.`,
		examples: []string{"keyrack config example > keyrack.toml"},
		flags: func(fs *flag.FlagSet) action {
			return noWords(fs, func(sh *shell) error {
				_, err := io.WriteString(sh.out, exampleHead+allSettings.Example())
				return err
			})
		},
	}
)

// exampleHead stands above the settings of the example.
const exampleHead = `# Settings of keyrack, in TOML. A flag overrides a variable of the environment, that
# overrides this file. A running appliance takes a change at its next start. Relative
# paths are of this file's folder. Secrets never stand here.
`

// shownSetting is what config prints of a setting as JSON.
type shownSetting struct {
	Name, Value, From string
}

func configFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		sh.strays()
		var all []shownSetting
		var rows [][]string
		for i := range allSettings {
			v := sh.settings[allSettings[i].Name]
			all = append(all, shownSetting{v.Name, v.Text, v.Where})
			rows = append(rows, []string{v.Name, or(v.Text, "(not set)"), v.Where})
		}
		return format.print(sh.out, all, lines(rows))
	})
}

// or returns text, or what stands for none.
func or(text, none string) string {
	if text == "" {
		return none
	}
	return text
}

func configCheckFlags(fs *flag.FlagSet) action {
	return func(sh *shell, words, rest []string) error {
		words = append(words, rest...)
		if len(words) != 1 {
			return usagef("keyrack help config check", "config check: one FILE is needed, %d are given", len(words))
		}
		_, err := readSettings(words[0])
		faults, wrong := errors.AsType[settings.Faults](err)
		switch {
		case !wrong && err != nil:
			return err
		case !wrong:
			_, err := fmt.Fprintf(sh.out, "OK: %s\n", oneLine(words[0]))
			return err
		}
		for _, f := range faults {
			if _, err := fmt.Fprintln(sh.out, oneLine(f.Error())); err != nil {
				return err
			}
		}
		what := "faults"
		if len(faults) == 1 {
			what = "fault"
		}
		return hinted(exampleHint, "%d %s in %s", len(faults), what, words[0])
	}
}

// Hints for faults of a settings file: where they were listed, and where the first was met.
const (
	exampleHint = "keyrack config example prints every setting with what it takes"
	faultsHint  = exampleHint + "; keyrack config check FILE lists all faults"
)
