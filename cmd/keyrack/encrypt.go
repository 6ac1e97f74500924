package main

import (
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// encryptCommand is kms:Encrypt on files. The plaintext is never a word of the
// command line, which ps(1) shows to everybody.
var encryptCommand = command{
	name: "encrypt", args: "--key KEY [--context K=V]… [--algorithm ALGORITHM] [--in FILE] [--out FILE]", short: "encrypt at most 4096 bytes",
	long: `
Encrypts 1 to 4096 bytes under a key and writes the ciphertext and nothing else:
105 bytes more than it was given. The context is not secret and not stored; it is
bound to the ciphertext, and decrypt must be given the same.

With --algorithm KEY is an RSA key. It takes 190 to 470 bytes, says how many if they
are more, and no context; whoever has its public half (key public) encrypts without
the appliance.`,
	examples: []string{
		"keyrack encrypt --key alias/mail --context user=ann --in letter.txt --out letter.enc",
		"keyrack encrypt --key alias/mail < letter.txt > letter.enc",
		"keyrack encrypt --key alias/rsa --algorithm RSAES_OAEP_SHA_256 --in pin --out pin.enc",
	},
	flags: encryptFlags,
}

// encryptionFlag declares a flag for an encryption algorithm, which is the one of
// symmetric keys where it is left out.
func encryptionFlag(fs *flag.FlagSet, name, usage string) *kmsapi.EncryptionAlgorithm {
	a := kmsapi.SymmetricDefault
	declareEnum(fs, &a, name, usage)
	return &a
}

// encryptFlags declares the flags and acts. What was read is wiped: the process
// may be traced or dumped until it ends.
func encryptFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "encrypt under `KEY`: a key id, an ARN or an alias such as alias/mail")
	bound := contextFlag(fs, "context", "bind to `K=V`, a pair of the encryption context; may be given several times")
	algorithm := encryptionFlag(fs, "algorithm", "the key is one of RSA: encrypt with `ALGORITHM`, RSAES_OAEP_SHA_256 or RSAES_OAEP_SHA_1")
	in := inFlag(fs, "the plaintext")
	out := outFlag(fs, "the ciphertext")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *key == "" {
			return usagef("keyrack help encrypt", "encrypt: --key is missing")
		}
		if err := sh.binaryOutput(*out, format); err != nil {
			return err
		}
		plaintext, err := sh.readInput(*in, api.MaxPlaintext)
		if err != nil {
			return fmt.Errorf("read the plaintext: %w", err)
		}
		defer clear(plaintext)
		if err := encryptable(plaintext); err != nil {
			return err
		}
		return sh.encrypt(&kmsapi.EncryptRequest{
			KeyId: api.ParseKeyRef([]byte(*key)), Plaintext: plaintext, EncryptionContext: bound.encode(),
			EncryptionAlgorithm: *algorithm,
		}, *out, format)
	})
}

// encryptable says before anything is sent what the appliance would refuse.
func encryptable(plaintext []byte) error {
	switch n := len(plaintext); {
	case n == 0:
		return hinted("encrypt takes 1 to 4096 bytes; was --in or the pipe meant to hold some?", "there is nothing to encrypt: the input is empty")
	case n > api.MaxPlaintext:
		return hinted(fmt.Sprintf("encrypt takes at most %d bytes; encrypt more with a key of its own, which keyrack datakey makes", api.MaxPlaintext),
			"the input is larger than %d bytes", api.MaxPlaintext)
	}
	return nil
}

// encrypt calls Encrypt and writes the ciphertext.
func (sh *shell) encrypt(in *kmsapi.EncryptRequest, to string, format *format) error {
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := call(c, kmsapi.Encrypt, in)
	if err != nil {
		return err
	}
	return sh.writeResult(to, format, kmsapi.Encrypt.Op, out, out.CiphertextBlob)
}
