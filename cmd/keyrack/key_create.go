package main

import (
	"flag"

	"github.com/keyrack/keyrack/api/kmsapi"
)

// keyCreateCommand is kms:CreateKey.
var keyCreateCommand = command{
	name: "key create", args: "[--spec KEYSPEC --usage USAGE] [--description TEXT] [--tag NAME=VALUE]… [--multi-region] [--origin EXTERNAL]", short: "create a key and print its id",
	long: `
Creates a key in the caller's account, and prints the key's id alone, or its whole
KeyMetadata as JSON. Without --spec it is a symmetric encryption key; a key of
another spec has one usage, which must be said. With --origin EXTERNAL it waits for
its key material, which key import brings.`,
	examples: []string{
		"keyrack key create --description backups",
		"keyrack key create --tag team=mail --tag stage=test",
		"keyrack key create --origin EXTERNAL",
		"keyrack key create --spec HMAC_256 --usage GENERATE_VERIFY_MAC",
		"keyrack key create --spec ECC_NIST_P256 --usage SIGN_VERIFY",
		"keyrack key create --spec ECC_NIST_P256 --usage KEY_AGREEMENT",
		"keyrack key create --spec RSA_3072 --usage ENCRYPT_DECRYPT",
		"keyrack key create --spec ML_DSA_65 --usage SIGN_VERIFY",
		"keyrack key create --spec ML_KEM_768 --usage ENCAPSULATE_DECAPSULATE",
	},
	flags: keyCreateFlags,
}

// keyCreateFlags declares the flags and acts. Text is the bare id, so that
// key=$(keyrack key create) is all a script needs.
func keyCreateFlags(fs *flag.FlagSet) action {
	in := kmsapi.CreateKeyRequest{Origin: kmsapi.OriginAWSKMS}
	declareEnum(fs, &in.KeySpec, "spec", "make a key of `KEYSPEC`, AWS's name such as HMAC_256; SYMMETRIC_DEFAULT if it is left out")
	declareEnum(fs, &in.KeyUsage, "usage", "make it for `USAGE`, AWS's name such as GENERATE_VERIFY_MAC")
	description := fs.String("description", "", "describe the key's use as `TEXT`; it is not secret and stands in the audit log")
	var tags tagList
	fs.Var(&tags, "tag", "give the key the tag `NAME=VALUE`; may be given several times; see key tag")
	fs.BoolVar(&in.MultiRegion, "multi-region", false, "make a multi-Region key, whose id begins with mrk-; it stays in this region")
	declareEnum(fs, &in.Origin, "origin", "take the key material from `ORIGIN`: AWS_KMS makes it here, as if it is left out; EXTERNAL waits for key import")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		in.Description, in.Tags = *description, tags
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		out, err := call(c, kmsapi.CreateKey, &in)
		if err != nil {
			return err
		}
		return format.print(sh.out, responseJSON(kmsapi.CreateKey.Op, out), out.KeyMetadata.KeyId+"\n")
	})
}
