package main

import (
	"context"
	"flag"
	"slices"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/protocol/client"
)

// completionPatience bounds what the Tab key may wait for an appliance. Only tests change it.
var completionPatience = 500 * time.Millisecond

// valueOf finds what a flag or a word may be. The placeholder that help prints for it
// says what it is.
type valueOf struct {
	sh      *shell
	fs      *flag.FlagSet
	args    []string              // typed already, whole flags: they may say where the appliance is
	members map[string]*api.Field // of call, by flag
}

// flagsOf returns the flags that a command has behind args, and those of call by member.
func (c *command) flagsOf(args []string) (*flag.FlagSet, map[string]*api.Field) {
	if c.name != "call" {
		fs, _ := c.declare()
		return fs, nil
	}
	members := map[string]*api.Field{}
	op, err := findOperation(args)
	if err != nil {
		return newFlags(c.name), nil
	}
	for i := range op.In.Fields {
		members[op.In.Fields[i].Flag] = &op.In.Fields[i]
	}
	return (&request{op: op, in: op.NewIn()}).flags(), members
}

// operationWords returns the services, or the operations of one.
func operationWords(args []string) (all []candidate) {
	seen := map[string]bool{}
	for _, op := range table.All() {
		c := candidate{op.Service.Name, "operations"}
		if len(args) == 1 {
			c = candidate{op.Name, op.Action}
		}
		if !seen[c.word] && (len(args) == 0 || op.Service.Name == args[0]) {
			all = append(all, c)
		}
		seen[c.word] = true
	}
	return all
}

// flag returns the values of a flag.
func (v *valueOf) flag(f *flag.Flag) []candidate {
	if member := v.members[f.Name]; member != nil {
		return v.member(member)
	}
	if e, ok := f.Value.(*enumFlag); ok {
		return plainWords(e.offered())
	}
	if s, ok := f.Value.(*settingFlag); ok && len(s.Choices) > 0 {
		return plainWords(s.Choices)
	}
	name, _ := flag.UnquoteUsage(f)
	if s, ok := f.Value.(*settingFlag); ok {
		name = s.Placeholder()
	}
	return v.word(v.fs.Name(), name)
}

// member returns the values of a member of a request.
func (v *valueOf) member(f *api.Field) []candidate {
	if f.Shape == api.ShapeList {
		f = f.Elem
	}
	if f.Shape == api.ShapeBool {
		return plainWords([]string{"true", "false"})
	}
	if len(f.Names) > 0 {
		return plainWords(offeredOf(f.Names))
	}
	return v.word(v.fs.Name(), valueName(f))
}

// word returns what a placeholder of a command stands for.
func (v *valueOf) word(command, placeholder string) []candidate {
	switch command + " " + placeholder {
	case "alias update NAME", "alias delete NAME":
		return v.ask(aliasCandidates)
	case "principal remove NAME", "audit search NAME":
		return v.askOperator()
	case "audit search GLOB":
		return actions()
	case "bench OP":
		return plainWords([]string{"encrypt", "decrypt", "status"})
	}
	switch placeholder {
	case "KEY":
		return slices.Concat(v.ask(aliasCandidates), v.ask(keyCandidates))
	case "FILE", "NOTEFILE", "PATH":
		return anyFile
	case "DIR", "FOLDER":
		return anyFolder
	case "SO":
		return plainWords([]string{"ok", "denied", "error"})
	case "SPEC":
		return plainWords([]string{"soft", "soft:", "tpm2", "tpm2:path=", "tpm2:pin-file="})
	}
	if strings.Contains(placeholder, "|") && placeholder == strings.ToLower(placeholder) {
		return plainWords(strings.Split(placeholder, "|"))
	}
	return nil
}

// actions returns the names of all operations and events.
func actions() (all []candidate) {
	for _, op := range table.Recorded() {
		all = append(all, candidate{op.Name, op.Action})
	}
	return all
}

func plainWords(words []string) (all []candidate) {
	for _, w := range words {
		all = append(all, candidate{w, ""})
	}
	return all
}

// ready applies what was typed of settings, as far as it makes sense.
func (v *valueOf) ready() bool {
	if v.sh.settings != nil {
		return true
	}
	_, _, err := parse(v.fs, v.args)
	return err == nil && v.sh.resolve(v.fs) == nil
}

// ask asks the appliance over TLS, for a short time.
func (v *valueOf) ask(f func(context.Context, *client.Client) ([]candidate, error)) []candidate {
	if !v.ready() {
		return nil
	}
	c, err := v.sh.remote()
	if err != nil {
		return nil
	}
	return briefly(c, f)
}

// askOperator asks the operator's socket who is registered.
func (v *valueOf) askOperator() []candidate {
	if !v.ready() {
		return nil
	}
	c, err := v.sh.local("")
	if err != nil {
		return nil
	}
	return briefly(c, func(ctx context.Context, c *client.Client) (all []candidate, err error) {
		page, err := client.Do(ctx, c, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{Limit: 1000})
		if err != nil {
			return nil, err
		}
		for _, p := range page.Principals {
			all = append(all, candidate{p.Name, p.Account})
		}
		return all, nil
	})
}

// briefly makes a call that nobody waits for long.
func briefly(c *client.Client, f func(context.Context, *client.Client) ([]candidate, error)) []candidate {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	all, err := f(ctx, c)
	if err != nil {
		return nil
	}
	return typable(all)
}

// typable leaves out what is no name of a key, an alias or a principal. bash puts a
// candidate into the command line as it is: an appliance in wrong hands could write
// commands there.
func typable(all []candidate) []candidate {
	const marks = "+=,.@_/:-"
	return slices.DeleteFunc(all, func(c candidate) bool {
		return strings.ContainsFunc(c.word, func(r rune) bool {
			letter, digit := r|0x20 >= 'a' && r|0x20 <= 'z', r >= '0' && r <= '9'
			return !letter && !digit && !strings.ContainsRune(marks, r)
		}) || strings.HasPrefix(c.word, "-") || strings.HasPrefix(c.word, ":")
	})
}

// aliasCandidates returns the first page of the account's aliases.
func aliasCandidates(ctx context.Context, c *client.Client) (all []candidate, err error) {
	page, err := client.Do(ctx, c, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{Limit: aliasesPerPage})
	if err != nil {
		return nil, err
	}
	for _, a := range page.Aliases {
		all = append(all, candidate{a.AliasName, a.TargetKeyId})
	}
	return all, nil
}

// keyCandidates returns the first keys of the account.
func keyCandidates(ctx context.Context, c *client.Client) (all []candidate, err error) {
	page, err := client.Do(ctx, c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: aliasesPerPage})
	if err != nil {
		return nil, err
	}
	for _, k := range page.Keys {
		all = append(all, candidate{k.KeyId, ""})
	}
	return all, nil
}
