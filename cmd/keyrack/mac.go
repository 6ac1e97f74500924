package main

import (
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

var (
	// macCommand is kms:GenerateMac on files.
	macCommand = command{
		name: "mac", args: "--key KEY [--in FILE] [--out FILE]", short: "the HMAC of at most 4096 bytes",
		long: `
Writes the message authentication code of 1 to 4096 bytes under a key of HMAC and
nothing else: 28, 32, 48 or 64 bytes. Whoever may use the key can check it with verify-mac.`,
		examples: []string{
			"keyrack mac --key alias/cookies --in cookie --out cookie.mac",
			"keyrack mac --key alias/cookies < cookie | base64",
		},
		flags: macFlags,
	}
	// verifyMacCommand is kms:VerifyMac on files.
	verifyMacCommand = command{
		name: "verify-mac", args: "--key KEY --mac FILE [--in FILE]", short: "check what keyrack mac wrote",
		long: `
Checks the message authentication code of 1 to 4096 bytes. It says nothing and ends
with status 0 if the code is the message's under that key, and with 1 if it is not.`,
		examples: []string{"keyrack verify-mac --key alias/cookies --mac cookie.mac --in cookie && echo genuine"},
		flags:    verifyMacFlags,
	}
)

// macFlags declares the flags and acts.
func macFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "make the code with `KEY`: a key id, an ARN or an alias such as alias/cookies")
	in, out := inFlag(fs, "the message"), outFlag(fs, "the code")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		return sh.withMessage("mac", *key, *in, func(c *client.Client, ref api.KeyRef, message []byte) error {
			a, err := macAlgorithm(c, ref)
			if err != nil {
				return err
			}
			got, err := call(c, kmsapi.GenerateMac, &kmsapi.GenerateMacRequest{KeyId: ref, Message: message, MacAlgorithm: a})
			if err != nil {
				return err
			}
			return sh.writeResult(*out, format, kmsapi.GenerateMac.Op, got, got.Mac)
		})
	})
}

// verifyMacFlags declares the flags and acts.
func verifyMacFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "check the code with `KEY`: a key id, an ARN or an alias such as alias/cookies")
	mac := fs.String("mac", "", "read the code from `FILE`")
	in := inFlag(fs, "the message")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *mac == "" {
			return usagef("keyrack help verify-mac", "verify-mac: --mac is missing")
		}
		code, err := sh.readProof("MAC", *mac)
		if err != nil {
			return err
		}
		return sh.withMessage("verify-mac", *key, *in, func(c *client.Client, ref api.KeyRef, message []byte) error {
			a, err := macAlgorithm(c, ref)
			if err != nil {
				return err
			}
			got, err := call(c, kmsapi.VerifyMac, &kmsapi.VerifyMacRequest{KeyId: ref, Message: message, Mac: code, MacAlgorithm: a})
			if err != nil {
				return err
			}
			return format.print(sh.out, responseJSON(kmsapi.VerifyMac.Op, got), "")
		})
	})
}

// withMessage reads a message and connects, for the command called name. What was
// read is wiped.
func (sh *shell) withMessage(name, key, from string, use func(*client.Client, api.KeyRef, []byte) error) error {
	if key == "" {
		return usagef("keyrack help "+name, "%s: --key is missing", name)
	}
	message, err := sh.readInput(from, api.MaxMessage)
	if err != nil {
		return fmt.Errorf("read the message: %w", err)
	}
	defer clear(message)
	switch n := len(message); {
	case n == 0:
		return hinted(name+" takes 1 to 4096 bytes; was --in or the pipe meant to hold some?", "there is no message: the input is empty")
	case n > api.MaxMessage:
		return hinted(fmt.Sprintf("%s takes at most %d bytes; give it a hash of more, made with sha256sum or the like", name, api.MaxMessage),
			"the input is larger than %d bytes", api.MaxMessage)
	}
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	return use(c, api.ParseKeyRef([]byte(key)), message)
}

// macAlgorithm returns the one algorithm of a key of HMAC. For another key any one
// will do: the appliance refuses it, and says why.
func macAlgorithm(c *client.Client, key api.KeyRef) (kmsapi.MacAlgorithm, error) {
	out, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: key})
	if err != nil {
		return 0, err
	}
	if all := out.KeyMetadata.MacAlgorithms; len(all) > 0 {
		return all[0], nil
	}
	return kmsapi.HMACSHA256, nil
}
