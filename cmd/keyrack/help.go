package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/keyrack/keyrack/internal/settings"
)

// helpCommand is made when asked for: the table it prints holds itself.
func helpCommand() command {
	return command{
		name: "help", args: "[COMMAND… | TOPIC]", short: "this list, the help of a command, or a topic",
		long: `
Prints the list of commands, or of those that begin with words such as key; what a
command does, with its flags and examples; or a topic: ` + strings.Join(topicNames(), ", ") + `.`,
		examples: []string{
			"keyrack help",
			"keyrack help key create",
			"keyrack help call kms Encrypt",
			"keyrack help environment",
		},
		flags: func(*flag.FlagSet) action { return help },
		own:   true,
	}
}

// help prints the list, a topic, the help of one command, or the members of an
// operation: `help call kms Encrypt`.
func help(sh *shell, words, _ []string) error {
	if len(words) == 0 {
		return listCommands(sh.out, "")
	}
	c, more := find(words)
	switch {
	case c == nil && isGroup(strings.Join(words, " ")):
		return listCommands(sh.out, strings.Join(words, " ")+" ")
	case c == nil && len(words) == 1 && isTopic(words[0]):
		return printTopic(sh.out, words[0])
	case c == nil:
		return unknownCommand(words)
	case c.name == "call" && len(more) > 0:
		return callHelp(sh, more)
	case len(more) > 0:
		return unknownCommand(words)
	}
	return c.help(sh.out)
}

// listCommands prints the table, or those of it that begin with a word.
func listCommands(w io.Writer, first string) error {
	var b strings.Builder
	if first == "" {
		b.WriteString("keyrack: the root of trust of a rack\n\nusage: keyrack COMMAND [FLAG…] [ARGUMENT…]\n")
	}
	width := 0
	for _, c := range commands() {
		width = max(width, len(c.name))
	}
	for _, g := range groups() {
		all := slices.DeleteFunc(g.commands, func(c command) bool { return c.hidden || !strings.HasPrefix(c.name, first) })
		if len(all) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s\n", g.name)
		for _, c := range all {
			fmt.Fprintf(&b, "  keyrack %-*s   %s\n", width, c.name, c.short)
		}
	}
	fmt.Fprintf(&b, `
keyrack help COMMAND says more of one, with examples. Topics of help: %s.
Begin with: keyrack dev, or for an appliance that stays: keyrack help init
`, strings.Join(topicNames(), ", "))
	_, err := io.WriteString(w, b.String())
	return err
}

// help prints the command's help: the only list of its flags.
func (c *command) help(w io.Writer) error {
	fs, _ := c.declare()
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s\n\n%s\n", strings.TrimSpace("keyrack "+c.name+" "+c.args), strings.TrimSpace(c.long))
	writeFlags(&b, fs)
	b.WriteString("\nExamples:\n")
	for _, line := range c.examples {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Columns of help.
const (
	helpWidth = 100 // of a line
	mostFlag  = 30  // of a flag and its value; a longer one has a line of its own
)

// writeFlags lists the flags of a command in columns: its own, then those of settings,
// each with the variable that stands for it.
func writeFlags(b *strings.Builder, fs *flag.FlagSet) {
	var own, set [][2]string
	fs.VisitAll(func(f *flag.Flag) {
		if s, ok := f.Value.(*settingFlag); ok {
			set = append(set, [2]string{flagAndValue(f), settingUsage(s)})
			return
		}
		_, usage := flag.UnquoteUsage(f)
		if f.Name == configFlag {
			set = append(set, [2]string{flagAndValue(f), usage + " (" + envConfig + ")"})
			return
		}
		own = append(own, [2]string{flagAndValue(f), usage + defaultOf(f)})
	})
	slices.SortStableFunc(set, func(a, b [2]string) int { return rank(a[0]) - rank(b[0]) })
	writeRows(b, "Flags:", own)
	writeRows(b, "Settings, also of the environment and a file (keyrack help config):", set)
}

// rank is the place of a flag among settings, in the order of the table.
func rank(flag string) int {
	name, _, _ := strings.Cut(flag, " ")
	for i := range allSettings {
		if dashed(allSettings[i].FlagName()) == name {
			return i
		}
	}
	return -1
}

// flagAndValue returns a flag with what stands for its value: the word in back quotes
// of its usage.
func flagAndValue(f *flag.Flag) string {
	value, _ := flag.UnquoteUsage(f)
	if s, ok := f.Value.(*settingFlag); ok {
		value = s.Placeholder()
	}
	return strings.TrimSpace(dashed(f.Name) + " " + value)
}

// defaultOf returns what a flag is that is not given, where that says something.
func defaultOf(f *flag.Flag) string {
	if f.DefValue == "" || f.DefValue == "false" || f.DefValue == "0" || f.DefValue == "0s" {
		return ""
	}
	return " (default " + f.DefValue + ")"
}

// settingUsage returns what a setting's flag does.
func settingUsage(s *settingFlag) string {
	text := s.Doc
	if s.Kind == settings.Number || s.Kind == settings.Size || s.Kind == settings.Time {
		text += ": " + s.Allowed()
	}
	notes := s.EnvName()
	if s.Default != "" && s.Kind != settings.Bool {
		notes = "default " + s.Default + ", " + notes
	}
	return text + " (" + notes + ")"
}

// writeRows writes two columns under a title, the second in as many lines as it needs.
func writeRows(b *strings.Builder, title string, rows [][2]string) {
	if len(rows) == 0 {
		return
	}
	width := 0
	for _, r := range rows {
		if n := len([]rune(r[0])); n <= mostFlag {
			width = max(width, n)
		}
	}
	fmt.Fprintf(b, "\n%s\n", title)
	indent := strings.Repeat(" ", width+4)
	for _, r := range rows {
		text := wrap(r[1], helpWidth-len(indent))
		if n := len([]rune(r[0])); n > width {
			fmt.Fprintf(b, "  %s\n%s", r[0], indent)
		} else {
			fmt.Fprintf(b, "  %s%s", r[0], strings.Repeat(" ", width-n+2))
		}
		b.WriteString(strings.Join(text, "\n"+indent) + "\n")
	}
}

// wrap breaks text between words into lines of a width.
func wrap(text string, width int) (all []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			all, line = append(all, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(all, line)
}
