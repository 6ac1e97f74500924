package main

import (
	"flag"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// The commands of aliases.
var (
	// aliasCreateCommand is kms:CreateAlias.
	aliasCreateCommand = command{
		name: "alias create", args: "NAME --key KEY", short: "give a key a name",
		long: `
Gives a key of the caller's account a name. NAME is alias/ and any of letters,
digits, / _ and -, at most 256 characters together; it names the key wherever a
command takes KEY. A key may have 50 aliases.`,
		examples: []string{"keyrack alias create alias/mail --key 1234abcd-12ab-34cd-56ef-1234567890ab"},
		flags: func(fs *flag.FlagSet) action {
			return pointAlias(fs, kmsapi.CreateAlias, func(name string, k api.KeyRef) *kmsapi.CreateAliasRequest {
				return &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: k}
			})
		},
	}
	// aliasUpdateCommand is kms:UpdateAlias.
	aliasUpdateCommand = command{
		name: "alias update", args: "NAME --key KEY", short: "let a name be another key's",
		long: `
Lets an alias name another key, of the same kind and usage, from the next request
on. What was encrypted under the old key still decrypts: a ciphertext names its key.`,
		examples: []string{"keyrack alias update alias/mail --key alias/mail-2027"},
		flags: func(fs *flag.FlagSet) action {
			return pointAlias(fs, kmsapi.UpdateAlias, func(name string, k api.KeyRef) *kmsapi.UpdateAliasRequest {
				return &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: k}
			})
		},
	}
	// aliasDeleteCommand is kms:DeleteAlias.
	aliasDeleteCommand = command{
		name: "alias delete", args: "NAME", short: "take a name away; its key stays",
		long: `
Takes an alias away. Its key stays as it is, and can be reached by its id.`,
		examples: []string{"keyrack alias delete alias/mail"},
		flags:    aliasDeleteFlags,
	}
	// aliasListCommand is kms:ListAliases, all pages of it.
	aliasListCommand = command{
		name: "alias list", args: "[--key KEY]", short: "the aliases of the account, or of one key",
		long: `
Prints every alias of the caller's account, or of one key: its name, the id of
its key, and since when it names that key, one alias a line.`,
		examples: []string{
			"keyrack alias list",
			"keyrack alias list --key alias/mail",
		},
		flags: aliasListFlags,
	}
)

// aliasName says before anything is sent what people forget.
func aliasName(name string) error {
	if strings.HasPrefix(name, "alias/") {
		return nil
	}
	return misused("aliases begin with alias/, as in alias/"+oneLine(name), "%q is no alias name", name)
}

// pointAlias is the action of alias create and alias update.
func pointAlias[In, Out any](fs *flag.FlagSet, op api.OpOf[In, Out], request func(string, api.KeyRef) *In) action {
	key := fs.String("key", "", "the alias is to name `KEY`: a key id, an ARN, or another alias of the key")
	format := outputFlag(fs)
	return oneWord(fs, "NAME", func(sh *shell, c *client.Client, name string) error {
		if err := aliasName(name); err != nil {
			return err
		}
		if *key == "" {
			return usagef("keyrack help "+fs.Name(), "%s: --key is missing", fs.Name())
		}
		ref, err := keyOnly(c, *key)
		if err != nil {
			return err
		}
		out, err := call(c, op, request(name, ref))
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(op.Op, out), "")
	})
}

func aliasDeleteFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return oneWord(fs, "NAME", func(sh *shell, c *client.Client, name string) error {
		if err := aliasName(name); err != nil {
			return err
		}
		out, err := call(c, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.DeleteAlias.Op, out), "")
	})
}

func aliasListFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "only the aliases of `KEY`: a key id, an ARN or an alias")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		ref, err := keyOnly(c, *key)
		if err != nil {
			return err
		}
		all, err := listAliases(c, ref)
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.ListAliases.Op, all), lines(aliasRows(all.Aliases)))
	})
}

func aliasRows(all []kmsapi.AliasListEntry) (rows [][]string) {
	for _, a := range all {
		rows = append(rows, []string{a.AliasName, a.TargetKeyId, a.LastUpdatedDate.Time().Format(time.RFC3339)})
	}
	return rows
}

// aliasesPerPage is the longest page of ListAliases.
const aliasesPerPage = 100

// listAliases returns all pages as one.
func listAliases(c *client.Client, key api.KeyRef) (*kmsapi.ListAliasesResponse, error) {
	all := &kmsapi.ListAliasesResponse{}
	for marker := ""; ; {
		page, err := call(c, kmsapi.ListAliases, &kmsapi.ListAliasesRequest{KeyId: key, Limit: aliasesPerPage, Marker: marker})
		if err != nil {
			return nil, err
		}
		all.Aliases = append(all.Aliases, page.Aliases...)
		if marker = page.NextMarker; marker == "" {
			return all, nil
		}
	}
}
