package main

import (
	"flag"
	"strings"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// The commands of keys, beside key create.
var (
	// keyDescribeCommand is kms:DescribeKey.
	keyDescribeCommand = command{
		name: "key describe", args: "KEY", short: "what is known of a key",
		long: `
Prints what is known of a key, whatever its state. KEY is a key id, a key ARN,
an alias name such as alias/mail, or an alias ARN.`,
		examples: []string{"keyrack key describe alias/mail"},
		flags:    keyDescribeFlags,
	}
	// keyListCommand is kms:ListKeys, all pages of it.
	keyListCommand = command{
		name: "key list", short: "the keys of the account",
		long: `
Prints id and ARN of every key of the caller's account, one key a line, in the
order of ids. Keys that are disabled are among them.`,
		examples: []string{
			"keyrack key list",
			"keyrack key list --output json",
		},
		flags: keyListFlags,
	}
	// keyEnableCommand is kms:EnableKey.
	keyEnableCommand = command{
		name: "key enable", args: "KEY", short: "let a disabled key be used again",
		long: `
Lets a key be used again, from the next request on. KEY is a key id, an ARN or
an alias. A key that is enabled stays so.`,
		examples: []string{"keyrack key enable alias/mail"},
		flags: func(fs *flag.FlagSet) action {
			return switchKey(fs, kmsapi.EnableKey, func(k api.KeyRef) *kmsapi.EnableKeyRequest { return &kmsapi.EnableKeyRequest{KeyId: k} })
		},
	}
	// keyDisableCommand is kms:DisableKey.
	keyDisableCommand = command{
		name: "key disable", args: "KEY", short: "let nobody use a key until it is enabled again",
		long: `
Ends all use of a key from the next request on, over connections that are open
too: nothing is encrypted or decrypted with it until it is enabled again. KEY is
a key id, an ARN or an alias. A key that is disabled stays so.`,
		examples: []string{"keyrack key disable alias/mail"},
		flags: func(fs *flag.FlagSet) action {
			return switchKey(fs, kmsapi.DisableKey, func(k api.KeyRef) *kmsapi.DisableKeyRequest { return &kmsapi.DisableKeyRequest{KeyId: k} })
		},
	}
)

// oneWord takes exactly one argument, which the usage line calls name, and a client.
func oneWord(fs *flag.FlagSet, name string, f func(sh *shell, c *client.Client, word string) error) action {
	return func(sh *shell, words, rest []string) error {
		switch words = append(words, rest...); {
		case len(words) == 0:
			return usagef("keyrack help "+fs.Name(), "%s: %s is missing", fs.Name(), name)
		case len(words) > 1:
			return usagef("keyrack help "+fs.Name(), "%s: unexpected argument %q", fs.Name(), words[1])
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(sh, c, words[0])
	}
}

// keyOnly returns a reference by id or ARN to the key that text names. Operations
// that manage keys take no alias, so it is looked up first.
func keyOnly(c *client.Client, text string) (api.KeyRef, error) {
	ref := api.ParseKeyRef([]byte(text))
	if ref.Form != api.RefAlias && ref.Form != api.RefAliasARN {
		return ref, nil
	}
	out, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref})
	if err != nil {
		return api.KeyRef{}, err
	}
	return api.ParseKeyRef([]byte(out.KeyMetadata.Arn)), nil
}

func keyDescribeFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		out, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: api.ParseKeyRef([]byte(key))})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.DescribeKey.Op, out), columns(keyRows(&out.KeyMetadata)))
	})
}

// keyRows returns what people read of a key.
func keyRows(m *kmsapi.KeyMetadata) [][2]string {
	rows := [][2]string{
		{"key", m.KeyId},
		{"state", m.KeyState.String()},
		{"description", m.Description},
		{"ARN", m.Arn},
		{"account", m.AWSAccountId},
		{"created", m.CreationDate.Time().Format(time.RFC3339)},
		{"spec", m.KeySpec.String()},
		{"usage", m.KeyUsage.String()},
		{"algorithms", strings.Join(algorithmNames(m), " ")},
		{"origin", m.Origin.String()},
	}
	if m.ExpirationModel != 0 {
		rows = append(rows, [2]string{"expires", expires(m)})
	}
	if m.MultiRegion {
		rows = append(rows, [2]string{"multi-Region", m.MultiRegionConfiguration.MultiRegionKeyType.String()})
	}
	if m.DeletionDate != 0 {
		rows = append(rows, [2]string{"destroyed after", m.DeletionDate.Time().Format(time.RFC3339)})
	}
	if m.CurrentKeyMaterialId != "" { // only symmetric encryption keys show it
		rows = append(rows, [2]string{"material", m.CurrentKeyMaterialId})
	}
	return rows
}

// expires says when imported key material ends.
func expires(m *kmsapi.KeyMetadata) string {
	if m.ExpirationModel == kmsapi.MaterialExpires {
		return m.ValidTo.Time().Format(time.RFC3339)
	}
	return "never"
}

// algorithmNames returns AWS's names of what a key offers: one of its lists is not empty.
func algorithmNames(m *kmsapi.KeyMetadata) (all []string) {
	for _, a := range m.EncryptionAlgorithms {
		all = append(all, a.String())
	}
	for _, a := range m.MacAlgorithms {
		all = append(all, a.String())
	}
	for _, a := range m.SigningAlgorithms {
		all = append(all, a.String())
	}
	for _, a := range m.KeyAgreementAlgorithms {
		all = append(all, a.String())
	}
	for _, a := range m.EncapsulationAlgorithms {
		all = append(all, a.String())
	}
	return all
}

func keyListFlags(fs *flag.FlagSet) action {
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		all, err := listKeys(c)
		if err != nil {
			return err
		}
		var rows [][2]string
		for _, k := range all.Keys {
			rows = append(rows, [2]string{k.KeyId, k.KeyArn})
		}
		return format.print(sh.out, responseJSON(kmsapi.ListKeys.Op, all), columns(rows))
	})
}

// keysPerPage is the longest page of ListKeys.
const keysPerPage = 1000

// listKeys returns all pages as one.
func listKeys(c *client.Client) (*kmsapi.ListKeysResponse, error) {
	all := &kmsapi.ListKeysResponse{}
	for marker := ""; ; {
		page, err := call(c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: keysPerPage, Marker: marker})
		if err != nil {
			return nil, err
		}
		all.Keys = append(all.Keys, page.Keys...)
		if marker = page.NextMarker; marker == "" {
			return all, nil
		}
	}
}

// switchKey is the action of key enable and key disable.
func switchKey[In, Out any](fs *flag.FlagSet, op api.OpOf[In, Out], request func(api.KeyRef) *In) action {
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		ref, err := keyOnly(c, key)
		if err != nil {
			return err
		}
		out, err := call(c, op, request(ref))
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(op.Op, out), "")
	})
}
