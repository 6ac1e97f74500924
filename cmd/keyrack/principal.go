package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// principalListCommand is keyrack:ListPrincipals.
var principalListCommand = command{
	name: "principal list", args: operatorArgs, short: "who may call",
	long: `
Prints the clients that may call, one a line: name, account, hash of the client's
key, since when.` + operatorLong,
	examples: []string{"keyrack principal list --dir /var/lib/keyrack"},
	flags:    principalListFlags,
}

// principalListFlags declares the flags and acts.
func principalListFlags(fs *flag.FlagSet) action {
	return operatorFlags(fs, func(sh *shell, c *client.Client, format *format) error {
		var all applianceapi.ListPrincipalsResponse
		err := eachPrincipal(c, func(p applianceapi.Principal) error { all.Principals = append(all.Principals, p); return nil })
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(applianceapi.ListPrincipals.Op, &all), principalLines(all.Principals))
	})
}

// eachPrincipal calls f for every principal in the order of names, page by page,
// until f returns an error.
func eachPrincipal(c *client.Client, f func(applianceapi.Principal) error) error {
	const perPage = 1000
	for marker := ""; ; {
		page, err := call(c, applianceapi.ListPrincipals, &applianceapi.ListPrincipalsRequest{Limit: perPage, Marker: marker})
		if err != nil {
			return err
		}
		for _, p := range page.Principals {
			if err := f(p); err != nil {
				return err
			}
		}
		if marker = page.NextMarker; marker == "" {
			return nil
		}
	}
}

// principalLines returns a line a principal.
func principalLines(all []applianceapi.Principal) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", oneLine(p.Name), oneLine(p.Account), oneLine(p.KeyHash), p.CreationDate.Time().Format(time.RFC3339))
	}
	t.Flush()
	return b.String()
}

// errEnough ends a walk over the principals.
var errEnough = errors.New("enough principals")

// onlyAccount returns the account of all principals. Where there is none, or more
// than one, nobody can guess which is meant.
func onlyAccount(c *client.Client) (account string, err error) {
	err = eachPrincipal(c, func(p applianceapi.Principal) error {
		if account != "" && p.Account != account {
			return errEnough
		}
		account = p.Account
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
		return "", hinted("say with --account whose root the client is to be: keyrack principal list shows the accounts", "the appliance has more than one account")
	case err == nil && account == "":
		return "", hinted("give --account twelve digits of your choice: the account begins with this client", "the appliance has no account yet")
	}
	return account, err
}

// principalRemoveCommand is keyrack:RemovePrincipal.
var principalRemoveCommand = command{
	name: "principal remove", args: "NAME " + operatorArgs, short: "take from a client the right to call",
	long: `
Removes a client. When the command returns, the next request of each of its open
connections is refused. What it has encrypted stays its account's.` + operatorLong,
	examples: []string{"keyrack principal remove mail-server --dir /var/lib/keyrack"},
	flags:    principalRemoveFlags,
}

// principalRemoveFlags declares the flags and acts.
func principalRemoveFlags(fs *flag.FlagSet) action {
	socket := socketFlag(fs)
	format := outputFlag(fs)
	return named(fs, func(sh *shell, name string) error {
		c, err := sh.local(*socket)
		if err != nil {
			return err
		}
		defer c.Close()
		out, err := call(c, applianceapi.RemovePrincipal, &applianceapi.RemovePrincipalRequest{Name: name})
		if err != nil {
			return err
		}
		p := out.Principal
		return format.print(sh.out, responseJSON(applianceapi.RemovePrincipal.Op, out), oneLine(fmt.Sprintf("removed %s of account %s, key %s", p.Name, p.Account, p.KeyHash))+"\n")
	})
}

// named makes an action of a command whose one argument is a principal's NAME.
func named(fs *flag.FlagSet, f func(sh *shell, name string) error) action {
	return func(sh *shell, words, rest []string) error {
		switch all := append(words, rest...); len(all) {
		case 0:
			return usagef("keyrack help "+fs.Name(), "%s: the NAME of a principal is needed", fs.Name())
		case 1:
			return f(sh, all[0])
		default:
			return usagef("keyrack help "+fs.Name(), "%s: unexpected argument %q", fs.Name(), all[1])
		}
	}
}
