package main

import (
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// maxPublicKey bounds a file with a public key, in bytes: PEM of the longest that the
// appliance takes.
const maxPublicKey = 12 << 10

// deriveCommand is kms:DeriveSharedSecret on files.
var deriveCommand = command{
	name: "derive", args: "--key KEY --peer FILE [--out FILE]", short: "the secret that a key shares with another one",
	long: `
Writes the secret that a key for KEY_AGREEMENT shares with the owner of the public key
in --peer, in PEM or DER, on the same curve: the x coordinate of ECDH, 32, 48 or 66
bytes, and nothing else. The other side has the same secret from its private key and
the public half of KEY (key public). It is no key yet: derive one from it, with HKDF.`,
	examples: []string{"keyrack derive --key alias/door --peer theirs.pem --out /run/secret"},
	flags:    deriveFlags,
}

// deriveFlags declares the flags and acts.
func deriveFlags(fs *flag.FlagSet) action {
	key := fs.String("key", "", "agree with `KEY`: a key id, an ARN or an alias such as alias/door")
	peer := fs.String("peer", "", "the other side's public key is in `FILE`, in PEM or DER; - is standard input")
	out := outFlag(fs, "the secret")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		switch {
		case *key == "":
			return usagef("keyrack help derive", "derive: --key is missing")
		case *peer == "":
			return usagef("keyrack help derive", "derive: --peer is missing")
		}
		if err := sh.secretOutput("--out", *out); err != nil {
			return err
		}
		public, err := sh.readPublicKey(*peer)
		if err != nil {
			return err
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		got, err := call(c, kmsapi.DeriveSharedSecret, &kmsapi.DeriveSharedSecretRequest{
			KeyId: api.ParseKeyRef([]byte(*key)), KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: public})
		if err != nil {
			return err
		}
		defer clear(got.SharedSecret)
		return sh.writeResult(*out, format, kmsapi.DeriveSharedSecret.Op, got, got.SharedSecret)
	})
}

// readPublicKey reads a public key in PEM, or takes the file for DER.
func (sh *shell) readPublicKey(from string) ([]byte, error) {
	b, err := sh.readInput(from, maxPublicKey)
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	const hint = "a public key is a PEM block, -----BEGIN PUBLIC KEY-----, or its DER: openssl pkey -pubout writes both"
	switch n := len(b); {
	case n == 0:
		return nil, hinted(hint, "there is no public key: the input is empty")
	case n > maxPublicKey:
		return nil, hinted(hint, "the input is larger than any public key, %d bytes", maxPublicKey)
	}
	block, _ := pem.Decode(b)
	switch {
	case block == nil && isPrivateKey(b):
		return nil, hinted(hint, "the file holds a private key, which was not sent")
	case block == nil:
		return b, nil
	case block.Type != "PUBLIC KEY":
		return nil, hinted(hint, "the file holds no public key, but a PEM block of type %s", block.Type)
	}
	return block.Bytes, nil
}

// isPrivateKey reports whether DER is a private key, of PKCS #8 or of RFC 5915: one that
// was taken for its public half by mistake does not leave this machine.
func isPrivateKey(der []byte) bool {
	_, pkcs8 := x509.ParsePKCS8PrivateKey(der)
	_, ec := x509.ParseECPrivateKey(der)
	return pkcs8 == nil || ec == nil
}
