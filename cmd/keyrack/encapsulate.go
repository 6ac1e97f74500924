package main

import (
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

var (
	// encapsulateCommand is kms:Encapsulate.
	encapsulateCommand = command{
		name: "encapsulate", args: "--key KEY [--out FILE] [--out-secret FILE]", short: "a fresh shared secret and its ciphertext",
		long: `
Makes a shared secret of 32 bytes with a key for ENCAPSULATE_DECAPSULATE (ML-KEM) and
writes the ciphertext that holds it. --out-secret has the secret itself; without it
only decapsulate shows it. Whoever has the public key can do the same without the
appliance.`,
		examples: []string{"keyrack encapsulate --key alias/peer --out secret.ct --out-secret /run/secret"},
		flags:    encapsulateFlags,
	}
	// decapsulateCommand is kms:Decapsulate.
	decapsulateCommand = command{
		name: "decapsulate", args: "--key KEY [--in FILE] [--out FILE]", short: "the shared secret of a ciphertext",
		long: `
Writes the shared secret of 32 bytes that encapsulate, or whoever has the public key,
put into a ciphertext, and nothing else. A ciphertext that was changed, or was made for
another key, is no error: it gives another secret (implicit rejection), with which
nothing of the other side opens.`,
		examples: []string{"keyrack decapsulate --key alias/peer --in secret.ct --out /run/secret"},
		flags:    decapsulateFlags,
	}
)

// encapsulateFlags declares the flags and acts. The ciphertext is written first: what was
// encrypted with a secret whose ciphertext is not kept would be lost. JSON has the answer
// without the secret.
func encapsulateFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "encapsulate for `KEY`: a key id, an ARN or an alias such as alias/peer")
	out := outFlag(fs, "the ciphertext")
	secret := placeFlag(fs, "out-secret", "the shared secret", "write the shared secret to `FILE` as --out does, but to no terminal; - is standard output")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *key == "" {
			return usagef("keyrack help encapsulate", "encapsulate: --key is missing")
		}
		if err := sh.binaryOutput(*out, format); err != nil {
			return err
		}
		if err := sh.secretApart(*out, *secret); err != nil {
			return err
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		got, err := call(c, kmsapi.Encapsulate, &kmsapi.EncapsulateRequest{KeyId: api.ParseKeyRef([]byte(*key)), EncapsulationAlgorithm: kmsapi.MLKEM})
		if err != nil {
			return err
		}
		shared := got.SharedSecret
		defer clear(shared)
		got.SharedSecret = nil
		if err := sh.writeResult(*out, format, kmsapi.Encapsulate.Op, got, got.SharedSecretCiphertextBlob); err != nil || *secret == "" {
			return err
		}
		if err := sh.writeOutput(*secret, shared); err != nil {
			return fmt.Errorf("write the shared secret: %w", err)
		}
		return nil
	})
}

// secretApart refuses places for a ciphertext and its secret that are one, or that show the
// secret.
func (sh *shell) secretApart(out, secret string) error {
	if secret == "" {
		return nil
	}
	if sh.sameOutput(out, secret) {
		return usagef("keyrack help encapsulate", "encapsulate: --out and --out-secret are the same; each needs a place of its own")
	}
	return sh.secretOutput("--out-secret", secret)
}

// decapsulateFlags declares the flags and acts.
func decapsulateFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "decapsulate with `KEY`: a key id, an ARN or an alias such as alias/peer")
	in, out := inFlag(fs, "the ciphertext"), outFlag(fs, "the shared secret")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *key == "" {
			return usagef("keyrack help decapsulate", "decapsulate: --key is missing")
		}
		if err := sh.secretOutput("--out", *out); err != nil {
			return err
		}
		ciphertext, err := sh.readInput(*in, api.MaxCiphertext)
		if err != nil {
			return fmt.Errorf("read the ciphertext: %w", err)
		}
		if n := len(ciphertext); n == 0 || n > api.MaxCiphertext {
			return hinted("give the file exactly as encapsulate wrote it: 768, 1088 or 1568 bytes", "the input is no ciphertext: it is empty, or larger than any one")
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		got, err := call(c, kmsapi.Decapsulate, &kmsapi.DecapsulateRequest{
			KeyId: api.ParseKeyRef([]byte(*key)), EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecretCiphertextBlob: ciphertext})
		if err != nil {
			return err
		}
		defer clear(got.SharedSecret)
		return sh.writeResult(*out, format, kmsapi.Decapsulate.Op, got, got.SharedSecret)
	})
}
