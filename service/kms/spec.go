package kms

import (
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/secp256k1"
	"github.com/keyrack/keyrack/internal/work"
)

// spec is all that a KeySpec means: a row of specs.
type spec struct {
	secret int                       // bytes of a material's secret
	draw   func(secret []byte) error // fills the secret of a new key
	waits  work.Class                // what draw waits for
	expand func([]byte) (any, error) // what the secret is used as, see expanded; nil = only ever the key of the KDF
	offers offers
}

// offers is what a key can do, by the usage it was made for.
type offers map[kmsapi.KeyUsage]algorithms

// algorithms is what a key of one usage offers: one of the lists.
type algorithms struct {
	encryption []kmsapi.EncryptionAlgorithm
	mac        []kmsapi.MacAlgorithm
	signing    []kmsapi.SigningAlgorithm
	kem        []kmsapi.EncapsulationAlgorithm
	agreement  []kmsapi.KeyAgreementAlgorithm
}

// none reports whether there is nothing: no key has that usage.
func (a algorithms) none() bool {
	return len(a.encryption)+len(a.mac)+len(a.signing)+len(a.kem)+len(a.agreement) == 0
}

// specs is the table of the kinds of keys (AWS KMS developer guide, "Key spec
// reference"), by their number. The first byte of a material's row is that number.
var specs = [...]spec{
	kmsapi.KeySpecSymmetricDefault: {32, random, work.Store, nil, encrypts(kmsapi.SymmetricDefault)},

	kmsapi.KeySpecHMAC224: {28, random, work.Store, hmacWith(sha256.New224), macs(kmsapi.HMACSHA224)},
	kmsapi.KeySpecHMAC256: {32, random, work.Store, hmacWith(sha256.New), macs(kmsapi.HMACSHA256)},
	kmsapi.KeySpecHMAC384: {48, random, work.Store, hmacWith(sha512.New384), macs(kmsapi.HMACSHA384)},
	kmsapi.KeySpecHMAC512: {64, random, work.Store, hmacWith(sha512.New), macs(kmsapi.HMACSHA512)},

	kmsapi.KeySpecRSA2048: {256, drawPrimes, work.Generate, rsaKey, rsaOffers},
	kmsapi.KeySpecRSA3072: {384, drawPrimes, work.Generate, rsaKey, rsaOffers},
	kmsapi.KeySpecRSA4096: {512, drawPrimes, work.Generate, rsaKey, rsaOffers},

	kmsapi.KeySpecECCNISTP256: {32, drawScalar(elliptic.P256()), work.Compute, ecdsaKey(elliptic.P256()), agrees(kmsapi.ECDSASHA256)},
	kmsapi.KeySpecECCNISTP384: {48, drawScalar(elliptic.P384()), work.Compute, ecdsaKey(elliptic.P384()), agrees(kmsapi.ECDSASHA384)},
	kmsapi.KeySpecECCNISTP521: {66, drawScalar(elliptic.P521()), work.Compute, ecdsaKey(elliptic.P521()), agrees(kmsapi.ECDSASHA512)},

	kmsapi.KeySpecECCSECGP256K1:       {secp256k1.Size, secp256k1.Draw, work.Compute, secp256k1Key, signs(kmsapi.ECDSASHA256)},
	kmsapi.KeySpecECCNISTEdwards25519: {32, random, work.Compute, ed25519Key, signs(kmsapi.ED25519SHA512, kmsapi.ED25519PHSHA512)},

	kmsapi.KeySpecMLDSA44: {pq.SigningSeed, random, work.Compute, mldsaKey(pq.MLDSA44), signs(kmsapi.MLDSASHAKE256)},
	kmsapi.KeySpecMLDSA65: {pq.SigningSeed, random, work.Compute, mldsaKey(pq.MLDSA65), signs(kmsapi.MLDSASHAKE256)},
	kmsapi.KeySpecMLDSA87: {pq.SigningSeed, random, work.Compute, mldsaKey(pq.MLDSA87), signs(kmsapi.MLDSASHAKE256)},

	kmsapi.KeySpecMLKEM512:  {pq.DecapsulationSeed, random, work.Compute, mlkemKey(pq.MLKEM512), encapsulates(kmsapi.MLKEM)},
	kmsapi.KeySpecMLKEM768:  {pq.DecapsulationSeed, random, work.Compute, mlkemKey(pq.MLKEM768), encapsulates(kmsapi.MLKEM)},
	kmsapi.KeySpecMLKEM1024: {pq.DecapsulationSeed, random, work.Compute, mlkemKey(pq.MLKEM1024), encapsulates(kmsapi.MLKEM)},
}

var rsaOffers = offers{
	kmsapi.UsageEncryptDecrypt: {encryption: []kmsapi.EncryptionAlgorithm{kmsapi.RSAESOAEPSHA1, kmsapi.RSAESOAEPSHA256}},
	kmsapi.UsageSignVerify: {signing: []kmsapi.SigningAlgorithm{
		kmsapi.RSASSAPSSSHA256, kmsapi.RSASSAPSSSHA384, kmsapi.RSASSAPSSSHA512,
		kmsapi.RSASSAPKCS1V15SHA256, kmsapi.RSASSAPKCS1V15SHA384, kmsapi.RSASSAPKCS1V15SHA512,
	}},
}

func encrypts(all ...kmsapi.EncryptionAlgorithm) offers {
	return offers{kmsapi.UsageEncryptDecrypt: {encryption: all}}
}

func macs(all ...kmsapi.MacAlgorithm) offers {
	return offers{kmsapi.UsageGenerateVerifyMac: {mac: all}}
}

func signs(all ...kmsapi.SigningAlgorithm) offers {
	return offers{kmsapi.UsageSignVerify: {signing: all}}
}

func encapsulates(all ...kmsapi.EncapsulationAlgorithm) offers {
	return offers{kmsapi.UsageEncapsulateDecapsulate: {kem: all}}
}

// agrees is what a key on a curve of NIST can do, which signs in one way.
func agrees(a kmsapi.SigningAlgorithm) offers {
	o := signs(a)
	o[kmsapi.UsageKeyAgreement] = algorithms{agreement: []kmsapi.KeyAgreementAlgorithm{kmsapi.ECDH}}
	return o
}

// specOf returns the row of a spec that keys are made of, or nil.
func specOf(s kmsapi.KeySpec) *spec {
	if int(s) >= len(specs) || specs[s].secret == 0 {
		return nil
	}
	return &specs[s]
}

// madeFor returns the spec and usage that a request asks for, or AWS's refusal:
// what this appliance has not is UnsupportedOperation, a usage that no such key has
// is ValidationException. The text for a missing usage is AWS's (localstack's recordings,
// tests/aws/services/kms/test_kms.snapshot.json), that for a wrong one what emulators of AWS say: no record of AWS's own was found.
func madeFor(in *kmsapi.CreateKeyRequest) (kmsapi.KeySpec, kmsapi.KeyUsage, error) {
	name, usage := in.KeySpec|in.CustomerMasterKeySpec, in.KeyUsage // Check allows one of the specs
	if name == 0 {
		name = kmsapi.KeySpecSymmetricDefault
	}
	if name == kmsapi.KeySpecSymmetricDefault && usage == 0 {
		usage = kmsapi.UsageEncryptDecrypt
	}
	row := specOf(name)
	switch {
	case row == nil:
		return 0, 0, unsupported("KeySpec %s", name)
	case usage == 0:
		return 0, 0, api.Errorf(api.KindValidation, "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	case row.offers[usage].none():
		return 0, 0, api.Errorf(api.KindValidation, "KeyUsage %s is not compatible with KeySpec %s", usage, name)
	}
	return name, usage, nil
}

// serves refuses an operation that the key's usage does not have, in AWS's words (the recordings that
// madeFor names; github.com/jonathankeebler/jwt-kms, issue 4).
func (k *key) serves(op *api.Op, usage kmsapi.KeyUsage) error {
	if k.row.Usage == usage {
		return nil
	}
	return api.Errorf(api.KindInvalidKeyUsage, "%s key usage is %s which is not valid for %s.", k.arn, k.row.Usage, op.Name)
}

// offers returns what the key can do.
func (k *key) offers() algorithms { return specs[k.row.Spec].offers[k.row.Usage] }

// offered refuses an algorithm that is not among those of a key, in AWS's words (the recordings that
// madeFor names; github.com/JackOfMostTrades/aws-kms-pkcs11, issue 18).
func offered[A interface {
	comparable
	String() string
}](k *key, all []A, a A) error {
	if slices.Contains(all, a) {
		return nil
	}
	return api.Errorf(api.KindInvalidKeyUsage, "Algorithm %s is incompatible with key spec %s.", a, k.row.Spec)
}
