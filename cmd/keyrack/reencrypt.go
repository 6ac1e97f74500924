package main

import (
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// reEncryptCommand is kms:ReEncrypt on files.
var reEncryptCommand = command{
	name: "re-encrypt", args: "--key KEY [--context K=V]… [--algorithm ALGORITHM] [--from-key KEY] [--from-context K=V]… [--from-algorithm ALGORITHM] [--in FILE] [--out FILE]", short: "encrypt anew under another key or context",
	long: `
Turns a ciphertext into one under another key or context. What is in it does not
leave the appliance. The new context is --context alone: pairs of the old one that
are to stay are given twice. A ciphertext names its own key; with --from-key it must be
that one. The algorithms are those of RSA keys; a ciphertext of one does not name it, and
needs --from-key.`,
	examples: []string{
		"keyrack re-encrypt --key alias/archive --in letter.enc --out archived.enc",
		"keyrack re-encrypt --from-key k --from-algorithm RSAES_OAEP_SHA_256 --key alias/a < pin > new",
	},
	flags: reEncryptFlags,
}

// reEncryptFlags declares the flags and acts.
func reEncryptFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "encrypt under `KEY`: a key id, an ARN or an alias such as alias/mail")
	bound := contextFlag(fs, "context", "bind to `K=V`, a pair of the new encryption context; may be given several times")
	algorithm := encryptionFlag(fs, "algorithm", "KEY is one of RSA: encrypt with `ALGORITHM`, RSAES_OAEP_SHA_256 or RSAES_OAEP_SHA_1")
	from := fs.String("from-key", "", "refuse a ciphertext of another key than `KEY`: a key id, an ARN or an alias")
	was := contextFlag(fs, "from-context", "the ciphertext is bound to `K=V`, a pair that encrypt was given; may be given several times")
	old := encryptionFlag(fs, "from-algorithm", "the ciphertext is of an RSA key, made with `ALGORITHM`")
	in := inFlag(fs, "the ciphertext")
	out := outFlag(fs, "the new ciphertext")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *key == "" {
			return usagef("keyrack help re-encrypt", "re-encrypt: --key is missing")
		}
		if *old != kmsapi.SymmetricDefault && *from == "" {
			return usagef("keyrack help re-encrypt", "re-encrypt: --from-key is missing: a ciphertext of %s does not name its key", *old)
		}
		if err := sh.binaryOutput(*out, format); err != nil {
			return err
		}
		blob, err := sh.readInput(*in, api.MaxCiphertext)
		if err != nil {
			return fmt.Errorf("read the ciphertext: %w", err)
		}
		if err := decryptable(blob); err != nil {
			return err
		}
		return sh.reEncrypt(&kmsapi.ReEncryptRequest{
			CiphertextBlob: blob, SourceKeyId: api.ParseKeyRef([]byte(*from)), SourceEncryptionContext: was.encode(), SourceEncryptionAlgorithm: *old,
			DestinationKeyId: api.ParseKeyRef([]byte(*key)), DestinationEncryptionContext: bound.encode(), DestinationEncryptionAlgorithm: *algorithm,
		}, *out, format)
	})
}

// reEncrypt calls ReEncrypt and writes the new ciphertext.
func (sh *shell) reEncrypt(in *kmsapi.ReEncryptRequest, to string, format *format) error {
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := call(c, kmsapi.ReEncrypt, in)
	if err != nil {
		return err
	}
	return sh.writeResult(to, format, kmsapi.ReEncrypt.Op, out, out.CiphertextBlob)
}
