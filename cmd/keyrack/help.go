package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// helpCommand is made when asked for: the table it prints holds itself.
func helpCommand() command {
	return command{
		name: "help", args: "[COMMAND…]", short: "this list, or the help of a command",
		long:  "Prints the list of commands, or of those that begin with a word such as key, or what\na command does and its flags.",
		flags: func(*flag.FlagSet) action { return help },
		own:   true,
	}
}

// help prints the list, the help of one command, or the members of an
// operation: `help call kms Encrypt`.
func help(sh *shell, words, _ []string) error {
	if len(words) == 0 {
		return listCommands(sh.out, "")
	}
	c, more := find(words)
	switch {
	case c == nil && len(words) == 1 && isGroup(words[0]):
		return listCommands(sh.out, words[0]+" ")
	case c == nil:
		return unknownCommand(words)
	case c.name == "call" && len(more) > 0:
		return callHelp(sh, more)
	case len(more) > 0:
		return unknownCommand(words)
	}
	return c.help(sh.out)
}

// listCommands prints the table, or those of it that begin with a group's name.
func listCommands(w io.Writer, group string) error {
	var b strings.Builder
	b.WriteString("keyrack: the root of trust of a rack\n\n")
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, c := range commands() {
		if c.hidden || !strings.HasPrefix(c.name, group) {
			continue
		}
		fmt.Fprintf(t, "  keyrack %s\t%s\n", c.name, c.short)
	}
	t.Flush()
	b.WriteString(`
keyrack help COMMAND lists the flags of a command. Begin with: keyrack dev,
or for an appliance that stays: keyrack help init
`)
	_, err := io.WriteString(w, b.String())
	return err
}
