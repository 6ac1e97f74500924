package main

import (
	"flag"

	"github.com/keyrack/keyrack/api/kmsapi"
)

// keyCreateCommand is kms:CreateKey, with the defaults of an encryption key.
var keyCreateCommand = command{
	name: "key create", args: "[--description TEXT] [--tag NAME=VALUE]…", short: "create a key and print its id",
	long: `
Creates a symmetric encryption key in the caller's account, and prints the key's
id alone, or its whole KeyMetadata as JSON.`,
	examples: []string{
		"keyrack key create --description backups",
		"keyrack key create --tag team=mail --tag stage=test",
	},
	flags: keyCreateFlags,
}

// keyCreateFlags declares the flags and acts. Text is the bare id, so that
// key=$(keyrack key create) is all a script needs.
func keyCreateFlags(fs *flag.FlagSet) action {
	description := fs.String("description", "", "describe the key's use as `TEXT`; it is not secret and stands in the audit log")
	var tags tagList
	fs.Var(&tags, "tag", "give the key the tag `NAME=VALUE`; may be given several times; see key tag")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		out, err := call(c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: *description, Origin: kmsapi.OriginAWSKMS, Tags: tags})
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.CreateKey.Op, out), out.KeyMetadata.KeyId+"\n")
	})
}
