package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// completionCommand prints what a shell runs.
var completionCommand = command{
	name: "completion", args: "bash|zsh|fish", short: "a script by which a shell completes command lines",
	long: `
Prints a script for a shell, which then completes commands, flags, their values,
operations of call, and names of keys where the appliance answers within half a second.
Asking for those is recorded in the audit log as any call.

  bash   keyrack completion bash > /etc/bash_completion.d/keyrack
  zsh    keyrack completion zsh > "${fpath[1]}/_keyrack"
  fish   keyrack completion fish > ~/.config/fish/completions/keyrack.fish`,
	examples: []string{"keyrack completion bash > /etc/bash_completion.d/keyrack"},
	flags: func(fs *flag.FlagSet) action {
		return func(sh *shell, words, rest []string) error {
			words = append(words, rest...)
			if len(words) != 1 || scripts[words[0]] == "" {
				return usagef("keyrack help completion", "completion: the name of a shell is needed: bash, zsh or fish")
			}
			_, err := io.WriteString(sh.out, scripts[words[0]])
			return err
		}
	},
}

// completeCommand is what the scripts ask: __complete WORD… with the words behind
// keyrack, of which the last is being typed. It answers a candidate a line, with what
// help says of it behind a tab, or :files or :dirs where the shell knows better. It is
// made when asked for: what it answers holds the table.
func completeCommand() command {
	return command{
		name: "__complete", short: "a part of completion", hidden: true, own: true,
		long:  "Is asked by a shell.",
		flags: func(*flag.FlagSet) action { return printCandidates },
	}
}

// candidate is what a word may become.
type candidate struct{ word, about string }

// What a shell completes itself.
var (
	anyFile   = []candidate{{":files", ""}}
	anyFolder = []candidate{{":dirs", ""}}
)

// printCandidates answers a shell. There are no errors: nobody reads them while typing.
func printCandidates(sh *shell, words, _ []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	quiet := &shell{in: strings.NewReader(""), out: sh.out, err: io.Discard, getenv: sh.getenv}
	last := len(words) - 1
	var b strings.Builder
	for _, c := range quiet.candidates(words[:last], words[last]) {
		if strings.HasPrefix(c.word, words[last]) || strings.HasPrefix(c.word, ":") {
			fmt.Fprintf(&b, "%s\t%s\n", oneLine(c.word), oneLine(c.about))
		}
	}
	_, err := io.WriteString(sh.out, b.String())
	return err
}

// candidates returns what may stand behind some words, with a beginning of it.
func (sh *shell) candidates(before []string, typed string) []candidate {
	c, args := find(before)
	switch {
	case c == nil:
		return nextWords(before)
	case c.name == "help":
		return append(nextWords(args), topicWords(args)...)
	case c.name == "call" && len(args) < 2:
		return operationWords(args)
	}
	all := sh.argument(c, args, typed)
	if len(args) == 0 {
		all = append(all, nextWords(before)...) // config and config check
	}
	return all
}

// nextWords returns the words that lead from some to commands.
func nextWords(before []string) (all []candidate) {
	seen := map[string]bool{}
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if c.hidden || len(words) <= len(before) || strings.Join(words[:len(before)], " ") != strings.Join(before, " ") {
			continue
		}
		word := words[len(before)]
		about := c.short
		if len(words) > len(before)+1 {
			about = word + " …"
		}
		if !seen[word] {
			all = append(all, candidate{word, about})
		}
		seen[word] = true
	}
	return all
}

// topicWords returns the topics of help.
func topicWords(before []string) (all []candidate) {
	if len(before) > 0 {
		return nil
	}
	for _, t := range topics() {
		all = append(all, candidate{t.name, t.short})
	}
	return all
}

// typing is a command line that is being typed.
type typing struct {
	fs    *flag.FlagSet
	given map[string]bool
	words int        // that are no flags
	open  *flag.Flag // whose value is being typed; nil = none
	own   bool       // "--" was typed
}

// read sorts what was typed already, as parse would.
func (l *typing) read(args []string) {
	for _, arg := range args {
		name, _, with := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch f := l.fs.Lookup(name); {
		case l.own:
		case l.open != nil:
			l.open = nil
		case arg == "--":
			l.own = true
		case len(arg) < 2 || arg[0] != '-':
			l.words++
		case f != nil:
			if l.given[name] = true; !with && !isBool(f) {
				l.open = f
			}
		}
	}
}

// argument returns what may stand behind a command's arguments: the value of a flag, a
// flag, or a word of its usage line.
func (sh *shell) argument(c *command, args []string, typed string) []candidate {
	fs, values := c.flagsOf(args)
	l := &typing{fs: fs, given: map[string]bool{}}
	words := args
	if c.name == "call" {
		words = args[2:]
	}
	l.read(words)
	if l.open != nil {
		words = words[:len(words)-1]
	}
	v := &valueOf{sh: sh, fs: fs, args: words, members: values}
	name, _, with := strings.Cut(typed, "=")
	switch {
	case l.own:
		return anyFile
	case l.open != nil:
		return v.flag(l.open)
	case strings.HasPrefix(typed, "-") && with:
		if f := fs.Lookup(strings.TrimLeft(name, "-")); f != nil {
			return prefixed(name+"=", v.flag(f))
		}
		return nil
	case strings.HasPrefix(typed, "-"):
		return l.flags()
	}
	return v.word(c.name, placeholderAt(c.args, l.words))
}

// flags returns the flags that can still be given.
func (l *typing) flags() (all []candidate) {
	l.fs.VisitAll(func(f *flag.Flag) {
		if l.given[f.Name] && !strings.Contains(f.Usage, repeatable) {
			return
		}
		_, about := flag.UnquoteUsage(f)
		all = append(all, candidate{dashed(f.Name), about})
	})
	return all
}

// prefixed puts what was typed before the value of a flag before every candidate.
func prefixed(prefix string, all []candidate) []candidate {
	for i := range all {
		if !strings.HasPrefix(all[i].word, ":") {
			all[i].word = prefix + all[i].word
		}
	}
	return all
}

// placeholderAt returns what stands for the word in a place of a usage line, "" for
// none. A word with … may be followed by others of its kind.
func placeholderAt(usage string, at int) string {
	for _, field := range strings.Fields(usage) {
		if strings.ContainsAny(field[:min(2, len(field))], "-(") {
			return ""
		}
		if at == 0 || strings.Contains(field, "…") {
			return strings.Trim(field, "[]…")
		}
		at--
	}
	return ""
}
