package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"

	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/kwp"
	"github.com/keyrack/keyrack/internal/pkcs8"
)

// maxMaterialFile bounds a file of key material in bytes: PEM is a third longer than what is in it.
const maxMaterialFile = 2 * pkcs8.MaxSize

// rawMaterial is how many bytes of key material a spec has that is no private key.
var rawMaterial = map[kmsapi.KeySpec]int{
	kmsapi.KeySpecSymmetricDefault: 32,
	kmsapi.KeySpecHMAC224:          28,
	kmsapi.KeySpecHMAC256:          32,
	kmsapi.KeySpecHMAC384:          48,
	kmsapi.KeySpecHMAC512:          64,
}

// materialIn returns the key material for a key of a spec in a file: the bytes
// themselves, or the DER of a private key. It looks at it as the appliance will, so that
// a wrong file is told apart before it is sent, when it can still be said what is wrong.
func materialIn(text []byte, spec kmsapi.KeySpec) ([]byte, error) {
	if want := rawMaterial[spec]; want > 0 {
		if len(text) > maxMaterialFile { // readInput reads no more
			return nil, hinted(rawHint(nil, want), "the file has more than %d bytes: the key material of KeySpec %s is %d bytes, and nothing else", maxMaterialFile, spec, want)
		}
		if len(text) != want {
			return nil, hinted(rawHint(text, want), "the file has %d bytes: the key material of KeySpec %s is %d bytes, and nothing else", len(text), spec, want)
		}
		return bytes.Clone(text), nil
	}
	der, err := privateIn(text)
	if err != nil {
		return nil, err
	}
	k, err := pkcs8.Parse(der)
	switch {
	case errors.Is(err, pkcs8.ErrForm):
		return nil, hinted(fileHint, "the file is no private key in PKCS#8")
	case err != nil:
		return nil, hinted("make another key pair with openssl genpkey", "%w", err)
	}
	clear(k.Secret)
	if k.Spec != spec.String() {
		return nil, hinted("give the private key for this key, or make a key with keyrack key create --origin EXTERNAL --spec "+k.Spec, "the file holds a private key of KeySpec %s, and the key is of %s", k.Spec, spec)
	}
	return der, nil
}

const fileHint = "a private key is a PEM block, -----BEGIN PRIVATE KEY-----, or its DER: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW writes it"

// rawHint says what a file of the wrong length may be.
func rawHint(text []byte, want int) string {
	trimmed := bytes.TrimSpace(text)
	switch {
	case len(trimmed) == want:
		return "there is white space around the key material: give the file without it"
	case len(trimmed) == 2*want:
		return "if it is written as hex digits, xxd -r -p FILE NEW makes the bytes of it"
	case len(trimmed) == (want+2)/3*4:
		return "if it is written as base64, base64 -d FILE >NEW makes the bytes of it"
	}
	return fmt.Sprintf("openssl rand -out FILE %d makes such a file", want)
}

// privateIn returns the DER of a private key in a file. Of PEM it takes the first block
// that is one; parameters of a curve stand before it in files of openssl ecparam.
func privateIn(text []byte) ([]byte, error) {
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return bytes.Clone(text), nil
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			return block.Bytes, nil
		case "ENCRYPTED PRIVATE KEY":
			return nil, hinted("openssl pkcs8 -in FILE -out NEW asks for the passphrase and writes the key in clear; destroy it afterwards", "the private key is encrypted with a passphrase")
		case "EC PRIVATE KEY", "RSA PRIVATE KEY", "DSA PRIVATE KEY":
			return nil, hinted(fileHint, "the file holds %s, and not PKCS#8", block.Type)
		case "PUBLIC KEY", "CERTIFICATE":
			return nil, hinted("give the private key: a public key alone cannot be imported", "the file holds a %s", block.Type)
		}
	}
	return nil, hinted(fileHint, "the file holds no private key")
}

// wrapMaterial encrypts key material for a wrapping key, DER: OAEP of RFC 8017, section 7.1, or that of an
// AES key under which the material stands behind it (RFC 5649).
func wrapMaterial(a kmsapi.WrappingAlgorithm, public, material []byte) ([]byte, error) {
	parsed, err := x509.ParsePKIXPublicKey(public)
	to, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, errors.New("the appliance answered with a public key that is none of RSA")
	}
	h := hash.Hash(sha256.New())
	if a == kmsapi.WrapOAEPSHA1 || a == kmsapi.WrapAESKeyWrapSHA1 {
		h = sha1.New()
	}
	if a == kmsapi.WrapOAEPSHA1 || a == kmsapi.WrapOAEPSHA256 {
		return rsa.EncryptOAEP(h, rand.Reader, to, material, nil)
	}
	kek := make([]byte, 32)
	rand.Read(kek)
	defer clear(kek)
	behind, err := kwp.Wrap(kek, material)
	if err != nil {
		return nil, err
	}
	wrapped, err := rsa.EncryptOAEP(h, rand.Reader, to, kek, nil)
	return append(wrapped, behind...), err
}
