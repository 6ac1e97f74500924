package kms

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// spec is all that a KeySpec means: a row of specs.
type spec struct {
	secret int                              // bytes of a material's secret
	draw   func(secret []byte) error        // fills the secret of a new key
	offers map[kmsapi.KeyUsage]algorithms   // what a key can do, by the usage it was made for
	expand func(secret []byte) (any, error) // what the secret is used as, see expanded; nil = only ever the key of the KDF
}

// algorithms is what a key of one usage offers: one of the lists.
type algorithms struct {
	encryption []kmsapi.EncryptionAlgorithm
	mac        []kmsapi.MacAlgorithm
}

// none reports whether there is nothing: no key has that usage.
func (a algorithms) none() bool { return len(a.encryption) == 0 && len(a.mac) == 0 }

// specs is the table of the kinds of keys (AWS KMS developer guide, "Key spec
// reference"), by their number. The first byte of a material's row is that number.
var specs = [...]spec{
	kmsapi.KeySpecSymmetricDefault: {32, random, encrypts(kmsapi.SymmetricDefault), nil},

	kmsapi.KeySpecHMAC224: {28, random, macs(kmsapi.HMACSHA224), hmacWith(sha256.New224)},
	kmsapi.KeySpecHMAC256: {32, random, macs(kmsapi.HMACSHA256), hmacWith(sha256.New)},
	kmsapi.KeySpecHMAC384: {48, random, macs(kmsapi.HMACSHA384), hmacWith(sha512.New384)},
	kmsapi.KeySpecHMAC512: {64, random, macs(kmsapi.HMACSHA512), hmacWith(sha512.New)},
}

func encrypts(all ...kmsapi.EncryptionAlgorithm) map[kmsapi.KeyUsage]algorithms {
	return map[kmsapi.KeyUsage]algorithms{kmsapi.UsageEncryptDecrypt: {encryption: all}}
}

func macs(all ...kmsapi.MacAlgorithm) map[kmsapi.KeyUsage]algorithms {
	return map[kmsapi.KeyUsage]algorithms{kmsapi.UsageGenerateVerifyMac: {mac: all}}
}

// random draws a secret of which any value will do.
func random(secret []byte) error {
	_, err := rand.Read(secret)
	return err
}

// hmacWith expands a secret to the HMAC of one hash function that is ready for a
// message: a template that is cloned.
func hmacWith(h func() hash.Hash) func([]byte) (any, error) {
	return func(secret []byte) (any, error) { return hmac.New(h, secret), nil }
}

// specOf returns the row of a spec that keys are made of, or nil.
func specOf(s kmsapi.KeySpec) *spec {
	if int(s) >= len(specs) || specs[s].secret == 0 {
		return nil
	}
	return &specs[s]
}

// madeFor returns the spec and usage that a request asks for, or AWS's refusal:
// a spec that there is not is UnsupportedOperation, a usage that no such key has
// is ValidationException. The texts are those that clients and emulators of AWS quote.
func madeFor(in *kmsapi.CreateKeyRequest) (kmsapi.KeySpec, kmsapi.KeyUsage, error) {
	name, usage := in.KeySpec|in.CustomerMasterKeySpec, in.KeyUsage // Check allows one of the specs
	if name == 0 {
		name = kmsapi.KeySpecSymmetricDefault
	}
	if name == kmsapi.KeySpecSymmetricDefault && usage == 0 {
		usage = kmsapi.UsageEncryptDecrypt
	}
	row := specOf(name)
	if row == nil {
		return 0, 0, unsupported("KeySpec %s", name)
	}
	if usage == 0 {
		return 0, 0, api.Errorf(api.KindValidation, "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	}
	if row.offers[usage].none() {
		return 0, 0, api.Errorf(api.KindValidation, "KeyUsage %s is not compatible with KeySpec %s", usage, name)
	}
	return name, usage, nil
}

// serves refuses an operation that the key's usage does not have, in AWS's words.
func (k *key) serves(op *api.Op, usage kmsapi.KeyUsage) error {
	if k.row.Usage == usage {
		return nil
	}
	return api.Errorf(api.KindInvalidKeyUsage, "%s key usage is %s which is not valid for %s.", k.arn, k.row.Usage, op.Name)
}

// offers returns what the key can do.
func (k *key) offers() algorithms { return specs[k.row.Spec].offers[k.row.Usage] }

// offered refuses an algorithm that is not among those of a key.
func offered[A interface {
	comparable
	String() string
}](k *key, all []A, a A) error {
	if slices.Contains(all, a) {
		return nil
	}
	return api.Errorf(api.KindInvalidKeyUsage, "Algorithm %s is incompatible with key spec %s.", a, k.row.Spec)
}
