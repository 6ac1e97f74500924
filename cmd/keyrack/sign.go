package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol/client"
)

var (
	// signCommand is kms:Sign on files.
	signCommand = command{
		name: "sign", args: "--key KEY [--algorithm ALGORITHM] [--in FILE] [--out FILE]", short: "sign a file",
		long: `
Signs a file with a key for SIGN_VERIFY and writes the signature and nothing else.
The file is hashed here, so it may be of any length; ED25519_SHA_512 alone takes the
message itself, of at most 4096 bytes. For ML_DSA_SHAKE_256 a longer file is hashed to
its mu, with the public key, which the caller must be allowed to get. Without
--algorithm it is the first one that key describe shows.`,
		examples: []string{
			"keyrack sign --key alias/release --in release.tar --out release.sig",
			"keyrack sign --key alias/release --algorithm RSASSA_PSS_SHA_512 < a.tar > a.sig",
			"keyrack sign --key alias/firmware --algorithm ML_DSA_SHAKE_256 --in fw.bin --out fw.sig",
		},
		flags: signFlags,
	}
	// verifyCommand is kms:Verify on files.
	verifyCommand = command{
		name: "verify", args: "--key KEY --signature FILE [--algorithm ALGORITHM] [--in FILE]", short: "check what keyrack sign wrote",
		long: `
Checks a signature of a file. It says nothing and ends with status 0 if it is one,
and with 1 if it is not. The algorithm must be the one that sign was given.`,
		examples: []string{"keyrack verify --key alias/release --signature release.sig --in release.tar && echo genuine"},
		flags:    verifyFlags,
	}
	// keyPublicCommand is kms:GetPublicKey.
	keyPublicCommand = command{
		name: "key public", args: "KEY [--out FILE]", short: "the public half of an asymmetric key",
		long: `
Writes the public key in PEM, as openssl and others read it, so that anybody can
verify or encapsulate without the appliance (openssl from 3.5 on for ML-DSA and ML-KEM).
KEY is a key id, an ARN or an alias.`,
		examples: []string{
			"keyrack key public alias/release --out release.pem",
			"keyrack key public alias/release | openssl pkey -pubin -noout -text",
		},
		flags: keyPublicFlags,
	}
)

// signFlags declares the flags and acts.
func signFlags(fs *flag.FlagSet) action {
	t := newSignTask(fs, "sign with `KEY`: a key id, an ARN or an alias such as alias/release")
	out := outFlag(fs, "the signature")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		return t.run(sh, func(c *client.Client, m *signable) error {
			got, err := call(c, kmsapi.Sign, &kmsapi.SignRequest{KeyId: m.key, Message: m.message, MessageType: m.is, SigningAlgorithm: m.a})
			if err != nil {
				return err
			}
			return sh.writeResult(*out, format, kmsapi.Sign.Op, got, got.Signature)
		})
	})
}

// verifyFlags declares the flags and acts.
func verifyFlags(fs *flag.FlagSet) action {
	t := newSignTask(fs, "verify with `KEY`: a key id, an ARN or an alias such as alias/release")
	from := fs.String("signature", "", "read the signature from `FILE`")
	format := outputFlag(fs)
	return noWords(fs, func(sh *shell) error {
		if *from == "" {
			return usagef("keyrack help verify", "verify: --signature is missing")
		}
		signature, err := sh.readProof("signature", *from)
		if err != nil {
			return err
		}
		return t.run(sh, func(c *client.Client, m *signable) error {
			got, err := call(c, kmsapi.Verify, &kmsapi.VerifyRequest{
				KeyId: m.key, Message: m.message, MessageType: m.is, SigningAlgorithm: m.a, Signature: signature})
			if err != nil {
				return err
			}
			return format.print(sh.out, responseJSON(kmsapi.Verify.Op, got), "")
		})
	})
}

// readProof reads the file of a signature or MAC, of 1 to 6144 bytes.
func (sh *shell) readProof(what, from string) ([]byte, error) {
	b, err := sh.readInput(from, api.MaxMac)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the %s: %w", what, err)
	case len(b) == 0 || len(b) > api.MaxMac:
		return nil, hinted("give the "+what+" exactly as it was written, and the message as --in", "%s holds no %s: it is empty or has more than %d bytes", from, what, api.MaxMac)
	}
	return b, nil
}

// signTask is what the flags of sign and verify have in common.
type signTask struct {
	name    string
	key, in *string
	a       kmsapi.SigningAlgorithm
}

func newSignTask(fs *flag.FlagSet, key string) *signTask {
	t := &signTask{name: fs.Name(), key: fs.String("key", "", key), in: inFlag(fs, "the message")}
	declareEnum(fs, &t.a, "algorithm", "use `ALGORITHM`, one of those that key describe shows, instead of the first")
	return t
}

// signable is what the appliance is sent of a file.
type signable struct {
	key     api.KeyRef
	a       kmsapi.SigningAlgorithm
	is      kmsapi.MessageType
	message []byte
}

// run connects, finds the algorithm, reads the file and hands all of it to use.
func (t *signTask) run(sh *shell, use func(*client.Client, *signable) error) error {
	if *t.key == "" {
		return usagef("keyrack help "+t.name, "%s: --key is missing", t.name)
	}
	c, err := sh.remote()
	if err != nil {
		return err
	}
	defer c.Close()
	m := &signable{key: api.ParseKeyRef([]byte(*t.key)), a: t.a}
	if m.a == 0 {
		if m.a, err = signingAlgorithm(c, m.key); err != nil {
			return err
		}
	}
	if err := m.read(sh, c, *t.in); err != nil {
		return err
	}
	return use(c, m)
}

// signingAlgorithm returns the first algorithm of a key. For a key that signs
// nothing any one will do: the appliance refuses it, and says why.
func signingAlgorithm(c *client.Client, key api.KeyRef) (kmsapi.SigningAlgorithm, error) {
	out, err := call(c, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: key})
	if err != nil {
		return 0, err
	}
	if all := out.KeyMetadata.SigningAlgorithms; len(all) > 0 {
		return all[0], nil
	}
	return kmsapi.ECDSASHA256, nil
}

// read reads the digest of a file, or the file where the algorithm takes it itself.
func (m *signable) read(sh *shell, c *client.Client, from string) (err error) {
	switch m.a {
	case kmsapi.MLDSASHAKE256:
		return m.readForMLDSA(sh, c, from)
	case kmsapi.ED25519SHA512:
		m.is = kmsapi.MessageRaw
		if m.message, err = sh.readInput(from, api.MaxMessage); err != nil {
			return fmt.Errorf("read the message: %w", err)
		}
		return signableItself(m.a, m.message)
	}
	m.is = kmsapi.MessageDigest
	h := hashFor(m.a)
	if err := sh.copyInput(h, from); err != nil {
		return fmt.Errorf("read the message: %w", err)
	}
	m.message = h.Sum(nil)
	return nil
}

// signableItself says before anything is sent what the appliance would refuse.
func signableItself(a kmsapi.SigningAlgorithm, message []byte) error {
	switch n := len(message); {
	case n == 0:
		return hinted(a.String()+" signs no empty message; was --in or the pipe meant to hold some?", "there is no message: the input is empty")
	case n > api.MaxMessage:
		return hinted("use --algorithm ED25519_PH_SHA_512, which takes a hash, or sign a hash of the file", "the input is larger than %d bytes", api.MaxMessage)
	}
	return nil
}

// copyInput copies a file, or standard input for "-".
func (sh *shell) copyInput(to io.Writer, path string) error {
	r := sh.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	_, err := io.Copy(to, r)
	return err
}

// hashFor returns the hash function of an algorithm, which ends its name.
func hashFor(a kmsapi.SigningAlgorithm) hash.Hash {
	switch name := a.String(); {
	case strings.HasSuffix(name, "256"):
		return sha256.New()
	case strings.HasSuffix(name, "384"):
		return sha512.New384()
	}
	return sha512.New()
}

// keyPublicFlags declares the flags and acts.
func keyPublicFlags(fs *flag.FlagSet) action {
	out := outFlag(fs, "the public key")
	format := outputFlag(fs)
	return oneWord(fs, "KEY", func(sh *shell, c *client.Client, key string) error {
		got, err := call(c, kmsapi.GetPublicKey, &kmsapi.GetPublicKeyRequest{KeyId: api.ParseKeyRef([]byte(key))})
		if err != nil {
			return err
		}
		return sh.writeResult(*out, format, kmsapi.GetPublicKey.Op, got, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: got.PublicKey}))
	})
}
