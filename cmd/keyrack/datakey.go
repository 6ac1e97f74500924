package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

var (
	// dataKeyCommand is kms:GenerateDataKey and GenerateDataKeyWithoutPlaintext.
	dataKeyCommand = command{
		name: "datakey", args: "--key KEY [--bytes N] [--context K=V]… [--out FILE] [--out-plaintext FILE]", short: "make a key to encrypt data with",
		long: `
Makes a random key for a program that encrypts data itself, and writes it encrypted
under KEY, as encrypt would. Store that beside the data: decrypt, given the same
context, turns it back into the data key. --out-plaintext has the data key itself,
to be used now and then removed; without it nobody sees the key yet.`,
		examples: []string{"keyrack datakey --key alias/backup --out key.enc --out-plaintext /run/key"},
		flags:    dataKeyFlags,
	}
	// randomCommand is kms:GenerateRandom.
	randomCommand = command{
		name: "random", args: "[--bytes N] [--out FILE]", short: "random bytes of the appliance",
		long: `
Writes random bytes and nothing else, to a file or a pipe:
keyrack random --bytes 24 | base64`,
		examples: []string{"keyrack random --bytes 24 | base64"},
		flags:    randomFlags,
	}
)

// bytesFlag declares --bytes.
func bytesFlag(fs *flag.FlagSet, what string) *int64 {
	return fs.Int64("bytes", 32, fmt.Sprintf("make %s of `N` bytes, 1 to %d", what, api.MaxDataKey))
}

// countable refuses what --bytes cannot be: 0 would be sent as if it were absent.
func countable(name string, n int64) error {
	if n < 1 || n > api.MaxDataKey {
		return usagef("keyrack help "+name, "%s: --bytes is %d, want 1 to %d", name, n, api.MaxDataKey)
	}
	return nil
}

// dataKeyFlags declares the flags and acts.
func dataKeyFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "encrypt the data key under `KEY`: a key id, an ARN or an alias such as alias/mail")
	n := bytesFlag(fs, "a data key")
	bound := contextFlag(fs, "context", "bind to `K=V`, a pair of the encryption context; may be given several times")
	out := outFlag(fs, "the encrypted data key")
	secret := placeFlag(fs, "out-plaintext", "the data key", "write the data key to `FILE` as --out does, but to no terminal; - is standard output")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *key == "" {
			return usagef("keyrack help datakey", "datakey: --key is missing")
		}
		if err := countable("datakey", *n); err != nil {
			return err
		}
		if err := sh.binaryOutput(*out, format); err != nil {
			return err
		}
		if *secret != "" && sh.sameOutput(*out, *secret) {
			return usagef("keyrack help datakey", "datakey: --out and --out-plaintext are the same; each needs a place of its own")
		}
		d := dataKey{api.ParseKeyRef([]byte(*key)), *n, bound.encode(), *out, format}
		if *secret == "" {
			return sh.sealedDataKey(&d)
		}
		return sh.dataKey(&d, *secret)
	})
}

// dataKey is what the flags ask for.
type dataKey struct {
	key    api.KeyRef
	bytes  int64
	bound  api.EncryptionContext
	to     string
	format *format
}

// dataKey writes the encrypted data key, and only then the one in clear: data that
// was encrypted with a key whose ciphertext is not kept would be lost. JSON has the
// answer without it.
func (sh *shell) dataKey(d *dataKey, secret string) error {
	if err := sh.secretOutput("--out-plaintext", secret); err != nil {
		return err
	}
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := call(c, kmsapi.GenerateDataKey, &kmsapi.GenerateDataKeyRequest{KeyId: d.key, NumberOfBytes: d.bytes, EncryptionContext: d.bound})
	if err != nil {
		return err
	}
	plaintext := out.Plaintext
	defer clear(plaintext)
	out.Plaintext = nil
	if err := sh.writeResult(d.to, d.format, kmsapi.GenerateDataKey.Op, out, out.CiphertextBlob); err != nil {
		return err
	}
	if err := sh.writeOutput(secret, plaintext); err != nil {
		return fmt.Errorf("write the data key: %w", err)
	}
	return nil
}

// sealedDataKey writes a data key that nobody has seen.
func (sh *shell) sealedDataKey(d *dataKey) error {
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := call(c, kmsapi.GenerateDataKeyWithoutPlaintext,
		&kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: d.key, NumberOfBytes: d.bytes, EncryptionContext: d.bound})
	if err != nil {
		return err
	}
	return sh.writeResult(d.to, d.format, kmsapi.GenerateDataKeyWithoutPlaintext.Op, out, out.CiphertextBlob)
}

// randomFlags declares the flags and acts.
func randomFlags(fs *flag.FlagSet) action {
	n := bytesFlag(fs, "random data")
	to := outFlag(fs, "the bytes")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if err := countable("random", *n); err != nil {
			return err
		}
		if err := sh.secretOutput("--out", *to); err != nil {
			return err
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		out, err := call(c, kmsapi.GenerateRandom, &kmsapi.GenerateRandomRequest{NumberOfBytes: *n})
		if err != nil {
			return err
		}
		defer clear(out.Plaintext)
		return sh.writeResult(*to, format, kmsapi.GenerateRandom.Op, out, out.Plaintext)
	})
}

// secretOutput refuses to show a key to whoever looks at a terminal, in its
// scrollback too, or to lose it in a device. It asks before a key is made.
func (sh *shell) secretOutput(name, path string) error {
	if info := sh.outputInfo(path); info == nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return misused("give it a file or a pipe, as in: keyrack random | base64", "%s is a terminal or a device, and secret bytes are not for it", name)
}

// sameOutput reports whether two outputs are one: by name, or because both are
// there and are the same file.
func (sh *shell) sameOutput(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	left, right := sh.outputInfo(a), sh.outputInfo(b)
	return left != nil && right != nil && os.SameFile(left, right)
}

// outputInfo returns what stands where an output would go, nil for nothing and
// where that cannot be known.
func (sh *shell) outputInfo(path string) fs.FileInfo {
	stat := func() (fs.FileInfo, error) { return os.Stat(path) }
	if path == "-" {
		f, ok := sh.out.(*os.File)
		if !ok {
			return nil
		}
		stat = f.Stat
	}
	info, err := stat()
	if err != nil {
		return nil
	}
	return info
}
