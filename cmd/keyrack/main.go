// Command keyrack is the appliance and its client in one binary: `keyrack help`
// lists its commands, and the help of each is the only list of its flags.
//
// Read first: [commands], the table; [run], what happens to a command line;
// encrypt.go, a typical command; dev.go, the one that is an appliance itself.
//
// Commands hold flags and printing. They are clients of a running appliance, but
// for init, serve and dev, which make and run one through internal/rack, and audit
// verify and audit search, which read a log's files.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// version is what the Makefile builds in.
var version = "devel"

// main runs the command line that the process was started with.
func main() {
	os.Exit(run(&shell{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv}, os.Args[1:]))
}

// shell is what a command has of the world around it. Commands write to out what
// they were asked for and nothing else; warnings and progress go to err.
type shell struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
}

// command is a row of the table of commands.
type command struct {
	name  string // words as typed: "audit tail"
	args  string // what the usage line shows behind them
	short string // one line of the list
	long  string // the rest of its help
	flags func(*flag.FlagSet) action
	own   bool // the action parses its arguments itself

	hidden bool // not for people, so not in the list
}

// action runs a command after its flags were parsed: words are the arguments
// that are no flags, rest those behind "--", nil if there was no "--".
type action func(sh *shell, words, rest []string) error

// commands returns the table in the order of the list.
func commands() []command {
	return []command{
		devCommand, devResetCommand, initCommand, serveCommand, workerCommand,
		statusCommand, lockCommand, unlockCommand, checkCommand, domainRotateCommand,
		clientInitCommand, principalAddCommand, principalListCommand, principalRemoveCommand,
		keyCreateCommand, keyDescribeCommand, keyListCommand, keyEnableCommand, keyDisableCommand,
		keyUpdateCommand, keyTagCommand, keyUntagCommand, keyTagsCommand,
		aliasCreateCommand, aliasUpdateCommand, aliasDeleteCommand, aliasListCommand, encryptCommand, decryptCommand, reEncryptCommand,
		dataKeyCommand, randomCommand, callCommand(),
		auditTailCommand, auditSearchCommand, auditVerifyCommand, benchCommand, versionCommand, helpCommand(),
	}
}

// run runs one command line and returns the exit status: 0, 1 for an error, 2
// for a command line that makes no sense, and for `dev -- COMMAND` COMMAND's own.
func run(sh *shell, args []string) int {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		args[0] = "help"
	}
	c, args := find(args)
	if c == nil {
		return report(sh, unknownCommand(args))
	}
	return report(sh, c.run(sh, args))
}

// find returns the command with the longest name that args begin with, and what
// follows it.
func find(args []string) (found *command, rest []string) {
	most := 0
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if n := len(words); n > most && len(args) >= n && strings.Join(args[:n], " ") == c.name {
			found, most = &c, n
		}
	}
	return found, args[most:]
}

// unknownCommand says which words name no command: two, where the first is the
// name of a group.
func unknownCommand(args []string) error {
	switch {
	case len(args) == 0:
		return usagef("keyrack help", "no command is given")
	case isGroup(args[0]):
		return usagef("keyrack help "+args[0], "there is no command %q", strings.Join(args[:min(2, len(args))], " "))
	}
	return usagef("keyrack help", "there is no command %q", args[0])
}

// isGroup reports whether commands of two words begin with name.
func isGroup(name string) bool {
	return slices.ContainsFunc(commands(), func(c command) bool { return strings.HasPrefix(c.name, name+" ") })
}

// run parses the flags and acts.
func (c *command) run(sh *shell, args []string) error {
	fs := newFlags(c.name)
	act := c.flags(fs)
	if c.own {
		return act(sh, args, nil)
	}
	words, rest, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		return c.help(sh.out)
	}
	if err != nil {
		return err
	}
	return act(sh, words, rest)
}

// newFlags returns an empty set of flags that reports errors and prints nothing:
// what is printed, and to where, is decided in report and help.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// parse parses flags wherever they stand before "--". Package flag stops at the
// first word that is no flag, but people write `audit verify DIR --key KEY`. rest
// is nil without "--", and empty if nothing follows it.
func parse(fs *flag.FlagSet, args []string) (words, rest []string, err error) {
	for {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, nil, err
		} else if err != nil {
			return nil, nil, usagef("keyrack help "+fs.Name(), "%s: %w", fs.Name(), err)
		}
		left := fs.Args()
		if at := len(args) - len(left); at > 0 && args[at-1] == "--" {
			return words, append([]string{}, left...), nil
		}
		if len(left) == 0 {
			return words, nil, nil
		}
		words, args = append(words, left[0]), left[1:]
	}
}

// noWords refuses arguments that a command has no use for.
func noWords(fs *flag.FlagSet, f func(sh *shell) error) action {
	return func(sh *shell, words, rest []string) error {
		if all := append(words, rest...); len(all) > 0 {
			return usagef("keyrack help "+fs.Name(), "%s: unexpected argument %q", fs.Name(), all[0])
		}
		return f(sh)
	}
}

// help prints the command's help: the only list of its flags.
func (c *command) help(w io.Writer) error {
	fs := newFlags(c.name)
	c.flags(fs)
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s\n\n%s\n", strings.TrimSpace("keyrack "+c.name+" "+c.args), strings.TrimSpace(c.long))
	writeFlags(&b, fs)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeFlags lists flags with two dashes, or one where the name is one letter.
// The word in back quotes of a flag's usage stands for its value.
func writeFlags(b *strings.Builder, fs *flag.FlagSet) {
	sep := "\n"
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		if f.DefValue != "" && f.DefValue != "false" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "%s  %s\n        %s\n", sep, strings.TrimSpace(dashes+f.Name+" "+value), usage)
		sep = ""
	})
}
