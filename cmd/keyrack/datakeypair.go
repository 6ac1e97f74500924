package main

import (
	"encoding/pem"
	"flag"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

// dataKeyPairCommand is kms:GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext.
var dataKeyPairCommand = command{
	name: "datakey-pair", args: "--key KEY --spec KEYPAIRSPEC --out-public FILE [--context K=V]… [--out FILE] [--out-plaintext FILE]", short: "make a key pair for use outside",
	long: `
Makes a key pair for a program that signs, decrypts or agrees itself. It writes the
private key encrypted under KEY, as encrypt would, and the public key in PEM. decrypt,
given the same context, turns the first back into the private key: DER, PKCS #8.
--out-plaintext has that itself, to be used now and then removed; without it nobody
sees it yet.`,
	examples: []string{"keyrack datakey-pair --key alias/backup --spec RSA_3072 --out private.enc --out-public rsa.pem"},
	flags:    dataKeyPairFlags,
}

// dataKeyPairFlags declares the flags and acts.
func dataKeyPairFlags(fs *flag.FlagSet) action {
	p := &keyPairTask{}
	key := fs.String("key", "", "encrypt the private key under `KEY`: a key id, an ARN or an alias such as alias/backup")
	declareEnum(fs, &p.spec, "spec", "make a pair of `KEYPAIRSPEC`, AWS's name such as ECC_NIST_P256")
	bound := contextFlag(fs, "context", "bind to `K=V`, a pair of the encryption context; may be given several times")
	out := outFlag(fs, "the encrypted private key")
	public := placeFlag(fs, "out-public", "the public key", "write the public key to `FILE`; - is standard output")
	secret := placeFlag(fs, "out-plaintext", "the private key", "write the private key to `FILE` as --out does, but to no terminal; - is standard output")
	p.format = outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		p.to, p.public, p.secret = *out, *public, *secret
		switch {
		case *key == "":
			return usagef("keyrack help datakey-pair", "datakey-pair: --key is missing")
		case p.spec == 0:
			return usagef("keyrack help datakey-pair", "datakey-pair: --spec is missing")
		case p.public == "":
			return usagef("keyrack help datakey-pair", "datakey-pair: --out-public is missing")
		}
		if err := p.places(sh); err != nil {
			return err
		}
		c, err := sh.remote()
		if err != nil {
			return err
		}
		defer c.Close()
		return p.run(sh, c, api.ParseKeyRef([]byte(*key)), bound.encode())
	})
}

// keyPairTask is what the flags of datakey-pair ask for.
type keyPairTask struct {
	spec               kmsapi.DataKeyPairSpec
	to, public, secret string
	format             *format
}

// places refuses those for the three results that are one, or that show the private key.
// It is asked before a pair is made.
func (p *keyPairTask) places(sh *shell) error {
	if err := sh.binaryOutput(p.to, p.format); err != nil {
		return err
	}
	all := []struct{ flag, path string }{{"--out", p.to}, {"--out-public", p.public}, {"--out-plaintext", p.secret}}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.path != "" && sh.sameOutput(a.path, b.path) {
				return usagef("keyrack help datakey-pair", "datakey-pair: %s and %s are the same; each needs a place of its own", b.flag, a.flag)
			}
		}
	}
	if p.secret == "" {
		return nil
	}
	return sh.secretOutput("--out-plaintext", p.secret)
}

// run makes the pair and writes the encrypted private key first: what was encrypted or
// signed with a pair whose private half is not kept would be of no use. JSON has the answer
// without the private key in clear.
func (p *keyPairTask) run(sh *shell, c *client.Client, key api.KeyRef, bound api.EncryptionContext) error {
	got := &kmsapi.GenerateDataKeyPairResponse{}
	if p.secret == "" {
		mute, err := call(c, kmsapi.GenerateDataKeyPairWithoutPlaintext,
			&kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{KeyId: key, KeyPairSpec: p.spec, EncryptionContext: bound})
		if err != nil {
			return err
		}
		got.PrivateKeyCiphertextBlob, got.PublicKey = mute.PrivateKeyCiphertextBlob, mute.PublicKey
		got.KeyId, got.KeyPairSpec, got.KeyMaterialId = mute.KeyId, mute.KeyPairSpec, mute.KeyMaterialId
	} else {
		var err error
		if got, err = call(c, kmsapi.GenerateDataKeyPair, &kmsapi.GenerateDataKeyPairRequest{KeyId: key, KeyPairSpec: p.spec, EncryptionContext: bound}); err != nil {
			return err
		}
	}
	return p.write(sh, got)
}

func (p *keyPairTask) write(sh *shell, got *kmsapi.GenerateDataKeyPairResponse) error {
	private := got.PrivateKeyPlaintext
	defer clear(private)
	got.PrivateKeyPlaintext = nil
	if err := sh.writeResult(p.to, p.format, kmsapi.GenerateDataKeyPair.Op, got, got.PrivateKeyCiphertextBlob); err != nil {
		return err
	}
	if err := sh.writeOutput(p.public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: got.PublicKey})); err != nil {
		return fmt.Errorf("write the public key: %w", err)
	}
	if p.secret == "" {
		return nil
	}
	if err := sh.writeOutput(p.secret, private); err != nil {
		return fmt.Errorf("write the private key: %w", err)
	}
	return nil
}
