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
	"io"
	"os"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/internal/settings"
	"github.com/keyrack/keyrack/protocol/client"
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
	settings settings.Values  // nil until a command's flags were parsed
	remotes  []*client.Client // those that were made
}

// command is a row of the table of commands.
type command struct {
	name  string // words as typed: "audit tail"
	args  string // what the usage line shows behind them
	short string // one line of the list
	long  string // the rest of its help
	flags func(*flag.FlagSet) action
	own   bool // the action parses its arguments itself

	examples []string // command lines, the main job first
	settings []string // beginnings of the names of settings that it takes, beside those of flags
	settled  bool     // whoever runs it has resolved them: it reads no file
	hidden   bool     // not for people, so not in the list
}

// action runs a command after its flags were parsed: words are the arguments
// that are no flags, rest those behind "--", nil if there was no "--".
type action func(sh *shell, words, rest []string) error

// group is commands about one thing.
type group struct {
	name     string
	commands []command
}

// groups returns the table in the order of the list.
func groups() []group {
	return []group{
		{"The appliance", []command{
			devCommand, devResetCommand, initCommand, serveCommand, workerCommand, tokenProcessCommand, tokenScanCommand, statusCommand, lockCommand, unlockCommand,
			checkCommand, tokenListCommand, tokenInfoCommand, slotListCommand, domainRotateCommand, domainShredCommand, clockCommand, clockAcceptCommand, configCommand, configCheckCommand, configExampleCommand,
		}},
		{"Clients", []command{clientInitCommand, principalAddCommand, principalListCommand, principalRemoveCommand}},
		{"Keys", remote(
			keyCreateCommand, keyDescribeCommand, keyPublicCommand, keyListCommand, keyEnableCommand, keyDisableCommand,
			keyUpdateCommand, keyTagCommand, keyUntagCommand, keyTagsCommand, keyLastUsageCommand,
			keyScheduleDeletionCommand, keyCancelDeletionCommand,
			keyRotateCommand, keyRotationEnableCommand, keyRotationDisableCommand, keyRotationStatusCommand, keyRotationListCommand,
			keyImportCommand, keyImportParametersCommand, keyDeleteMaterialCommand,
			aliasCreateCommand, aliasUpdateCommand, aliasDeleteCommand, aliasListCommand,
		)},
		{"Data", remote(encryptCommand, decryptCommand, reEncryptCommand, dataKeyCommand, dataKeyPairCommand, randomCommand, macCommand, verifyMacCommand, signCommand, verifyCommand, deriveCommand, encapsulateCommand, decapsulateCommand)},
		{"Audit", []command{auditTailCommand, auditSearchCommand, auditVerifyCommand}},
		{"Everything else", append(remote(callCommand(), benchCommand), completionCommand, completeCommand(), versionCommand, helpCommand())},
	}
}

// connection is the settings of a client over TLS.
var connection = []string{"client.addr", "client.server-key", "client.cert", "client.key", "client.audit-key"}

// remote gives commands the settings of a client over TLS.
func remote(all ...command) []command {
	for i := range all {
		all[i].settings = append(connection, all[i].settings...)
	}
	return all
}

// commands returns the table without its groups.
func commands() (all []command) {
	for _, g := range groups() {
		all = append(all, g.commands...)
	}
	return all
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
	err := c.run(sh, args)
	sh.warnOfLogs()
	return report(sh, err)
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

// unknownCommand says which words name no command: one more than those that are the
// name of a group.
func unknownCommand(args []string) error {
	switch {
	case len(args) == 0:
		return usagef("keyrack help", "no command is given")
	case strings.HasPrefix(args[0], "-") && nearCommand(strings.TrimLeft(args[0], "-"), "") == "":
		return misused("flags stand behind the command: keyrack COMMAND "+oneLine(args[0]), "a command is missing before %s", args[0])
	case isGroup(args[0]):
		group := args[0]
		if len(args) > 1 && isGroup(group+" "+args[1]) {
			group += " " + args[1]
		}
		n := strings.Count(group, " ") + 1
		if len(args) == n {
			return usagef("keyrack help "+group, "there is no command %q", group)
		}
		typed := group + " " + args[n]
		return misused(didYouMean(nearCommand(typed, group+" "), "keyrack help "+group), "there is no command %q", typed)
	}
	return misused(didYouMean(nearCommand(args[0], ""), "keyrack help"), "there is no command %q", args[0])
}

// otherWords are what other tools call some of the commands.
var otherWords = map[string]string{
	"key delete": "key schedule-deletion", "key destroy": "key schedule-deletion", "key remove": "key schedule-deletion",
	"key restore": "key cancel-deletion", "key undelete": "key cancel-deletion", "key delete-imported-material": "key delete-material",
	"key get-parameters-for-import": "key import-parameters", "key export": "key public",
}

// nearCommand returns the command that was probably meant, of those that begin so, "" if
// there is none. The first word of a group is one, too.
func nearCommand(typed, first string) string {
	if meant, ok := otherWords[typed]; ok {
		return "keyrack " + meant
	}
	var all []string
	for _, c := range commands() {
		if c.hidden || !strings.HasPrefix(c.name, first) {
			continue
		}
		word, _, two := strings.Cut(c.name, " ")
		if all = append(all, c.name); two && first == "" {
			all = append(all, word)
		}
	}
	if near := settings.Nearest(typed, all); near != "" {
		return "keyrack " + near
	}
	return ""
}

// isGroup reports whether commands of two words begin with name.
func isGroup(name string) bool {
	return slices.ContainsFunc(commands(), func(c command) bool { return strings.HasPrefix(c.name, name+" ") })
}

// run parses the flags and acts.
func (c *command) run(sh *shell, args []string) error {
	fs, act := c.declare()
	if c.own {
		return act(sh, args, nil)
	}
	words, rest, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		return c.help(sh.out)
	}
	if err == nil {
		err = sh.resolve(fs)
	}
	if err == nil {
		err = freePlaces(fs)
	}
	if err != nil {
		return err
	}
	return act(sh, words, rest)
}

// declare returns the command's flags, those of settings among them.
func (c *command) declare() (*flag.FlagSet, action) {
	fs := newFlags(c.name)
	act := c.flags(fs)
	takeSettings(fs, c.settings...)
	if !c.settled {
		takeFile(fs)
	}
	return fs, act
}

// newFlags returns an empty set of flags that reports errors and prints nothing:
// what is printed, and to where, is decided in report and help.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
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
