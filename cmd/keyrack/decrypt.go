package main

import (
	"bytes"
	"flag"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// decryptCommand is kms:Decrypt on files.
var decryptCommand = command{
	name: "decrypt", args: "[--key KEY] [--context K=V]… [--algorithm ALGORITHM] [--in FILE] [--out FILE]", short: "decrypt what encrypt wrote",
	long: `
Decrypts a ciphertext and writes the plaintext and nothing else; what is not text, such
as a key, not to a terminal. A ciphertext
names its own key; with --key it must be that one. The context must be the one
that encrypt was given.

A ciphertext of an RSA key does not name it: --key and --algorithm say with which key,
and how, it was encrypted, here or by anybody who has the public half.`,
	examples: []string{
		"keyrack decrypt --context user=ann --in letter.enc --out letter.txt",
		"keyrack decrypt < letter.enc",
		"keyrack decrypt --key alias/rsa --algorithm RSAES_OAEP_SHA_256 --in pin.enc",
	},
	flags: decryptFlags,
}

// decryptFlags declares the flags and acts. A ciphertext of another key than
// --key is refused by the appliance, which knows all of its references.
func decryptFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "refuse a ciphertext of another key than `KEY`: a key id, an ARN or an alias")
	bound := contextFlag(fs, "context", "the ciphertext is bound to `K=V`, a pair that encrypt was given; may be given several times")
	algorithm := encryptionFlag(fs, "algorithm", "the key is one of RSA: the ciphertext was made with `ALGORITHM`, RSAES_OAEP_SHA_256 or RSAES_OAEP_SHA_1")
	in := inFlag(fs, "the ciphertext")
	out := outFlag(fs, "the plaintext")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *algorithm != kmsapi.SymmetricDefault && *key == "" {
			return usagef("keyrack help decrypt", "decrypt: --key is missing: a ciphertext of %s does not name its key", *algorithm)
		}
		blob, err := sh.readInput(*in, api.MaxCiphertext)
		if err != nil {
			return fmt.Errorf("read the ciphertext: %w", err)
		}
		if err := decryptable(blob); err != nil {
			return err
		}
		return sh.decrypt(&kmsapi.DecryptRequest{
			KeyId: api.ParseKeyRef([]byte(*key)), CiphertextBlob: blob, EncryptionContext: bound.encode(),
			EncryptionAlgorithm: *algorithm,
		}, *out, format)
	})
}

// decryptable says before anything is sent what cannot be a ciphertext.
func decryptable(blob []byte) error {
	const hint = "give the file exactly as encrypt wrote it"
	switch n := len(blob); {
	case n == 0:
		return hinted(hint, "there is nothing to decrypt: the input is empty")
	case n > api.MaxCiphertext:
		return hinted(hint, "the input is larger than any ciphertext, %d bytes", api.MaxCiphertext)
	}
	return nil
}

// decrypt calls Decrypt and writes the plaintext: nothing of it before all of it
// has verified.
func (sh *shell) decrypt(in *kmsapi.DecryptRequest, to string, format *format) error {
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := call(c, kmsapi.Decrypt, in)
	if err != nil {
		return err
	}
	defer clear(out.Plaintext)
	if to == "-" && isTerminal(sh.out) && !isText(out.Plaintext) {
		return misused("give --out FILE, or a pipe, as in: keyrack decrypt | base64", "the plaintext is not text, and standard output is a terminal")
	}
	return sh.writeResult(to, format, kmsapi.Decrypt.Op, out, out.Plaintext)
}

// isText reports whether a terminal shows b as it is: UTF-8 without control characters
// but line ends and tabs.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	return !bytes.ContainsFunc(b, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' })
}
