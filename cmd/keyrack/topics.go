package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/keyrack/keyrack/internal/rack"
)

// topic is a page of help that is of no command.
type topic struct {
	name, short string
	text        func() string
}

// topics returns the pages.
func topics() []topic {
	return []topic{
		{"environment", "the variables of the environment", environmentTopic},
		{"files", "what keyrack reads and writes, and where", func() string { return filesTopic }},
		{"exit", "what an exit status says", func() string { return exitTopic }},
	}
}

func topicNames() (all []string) {
	for _, t := range topics() {
		all = append(all, t.name)
	}
	return all
}

// isTopic reports whether help has a page of a name.
func isTopic(name string) bool {
	for _, t := range topics() {
		if t.name == name {
			return true
		}
	}
	return false
}

// printTopic prints a page.
func printTopic(w io.Writer, name string) (err error) {
	for _, t := range topics() {
		if t.name == name {
			_, err = fmt.Fprintf(w, "%s: %s\n\n%s", t.name, t.short, strings.TrimLeft(t.text(), "\n"))
		}
	}
	return err
}

// environmentTopic is made of the table of settings.
func environmentTopic() string {
	var b strings.Builder
	b.WriteString(`
A flag overrides a variable, a variable the settings file, that the default. An empty
variable is none. keyrack config prints what holds, and why.
`)
	section := ""
	var rows [][2]string
	for i := range allSettings {
		s := &allSettings[i]
		if s.Section() != section {
			writeRows(&b, section+":", rows)
			section, rows = s.Section(), nil
		}
		rows = append(rows, [2]string{s.EnvName(), s.Doc + ": " + s.Allowed() + " (--" + s.FlagName() + ")"})
	}
	writeRows(&b, section+":", rows)
	writeRows(&b, "others:", [][2]string{
		{envConfig, "the settings file (--" + configFlag + ")"},
		{"NOTIFY_SOCKET", "serve tells this socket of systemd that it is ready, and that it stops"},
		{"XDG_STATE_HOME", "dev keeps its appliance in keyrack/dev there; ~/.local/state without it"},
	})
	return b.String()
}

// filesTopic names files and folders.
var filesTopic = `
An appliance's data folder, which --dir names and no other user may write to:
  store.db        the records, sealed
  audit/          the audit log; keyrack audit verify proves a copy of it
  server.pem      the key by which clients know the appliance
  ` + filepath.Base(rack.SocketPath("")) + `    the operator's Unix socket, while the appliance runs
  keyrack.toml    its settings, if it is there (keyrack help config)
  and the file of the soft token, unless --token soft:PATH names another place

A client's files, wherever it keeps them:
  NAME.key        its private key, which never leaves the machine it was made on
  NAME.pem        its certificate
  NAME.log-…      the newest checkpoint that it saw of an appliance's audit log; with no place
                  there, in ~/.local/state/keyrack/log
  keyrack.toml    its settings, if --config or ` + envConfig + ` names one

What a command writes, with --out and its like, is readable by its owner only, and whole
or not there at all. A file that holds something is never overwritten: name another, or
remove it first. An empty one is a place, and so are pipes and devices.

keyrack dev keeps an appliance in ~/.local/state/keyrack/dev; keyrack dev reset
removes it.
`

// exitTopic says what a script may count on.
const exitTopic = `
  0    it is done
  1    it went wrong: the error is on standard error, and a line hint: says what to do
  2    the command line makes no sense, or a variable of the environment: nothing was done
  130  Ctrl-C cut a search, a verification or a measurement short

keyrack dev -- COMMAND ends as COMMAND does: with its status, 128 and the number of the
signal that killed it, or 127 if it could not be started. What a command was asked for
is on standard output; warnings, progress and errors are on standard error.
`
