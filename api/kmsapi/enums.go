package kmsapi

import "github.com/keyrack/keyrack/api"

// The enums of AWS KMS. A value is its place in the list, from 1; 0 is absent.
// The lists are closed, and their numbers frozen by the golden file of api/table.

// EncryptionAlgorithm is how a key encrypts (EncryptionAlgorithmSpec).
type EncryptionAlgorithm uint8

// SymmetricDefault is AES-256-GCM under a message key, the others are RSAES-OAEP (RFC
// 8017, section 7.1) with each hash function.
const (
	SymmetricDefault EncryptionAlgorithm = iota + 1
	RSAESOAEPSHA1
	RSAESOAEPSHA256
)

var encryptionAlgorithms = api.Names{"SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"}

// Names returns the closed list.
func (EncryptionAlgorithm) Names() api.Names { return encryptionAlgorithms }

// String returns AWS's name.
func (a EncryptionAlgorithm) String() string { return encryptionAlgorithms.Name(uint8(a)) }

// MacAlgorithm is how a key makes message authentication codes (MacAlgorithmSpec).
type MacAlgorithm uint8

// HMAC with each hash function (FIPS 198-1).
const (
	HMACSHA224 MacAlgorithm = iota + 1
	HMACSHA256
	HMACSHA384
	HMACSHA512
)

var macAlgorithms = api.Names{"HMAC_SHA_224", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512"}

// Names returns the closed list.
func (MacAlgorithm) Names() api.Names { return macAlgorithms }

// String returns AWS's name.
func (a MacAlgorithm) String() string { return macAlgorithms.Name(uint8(a)) }

// SigningAlgorithm is how a key signs (SigningAlgorithmSpec).
type SigningAlgorithm uint8

// The algorithms.
const (
	RSASSAPSSSHA256 SigningAlgorithm = iota + 1
	RSASSAPSSSHA384
	RSASSAPSSSHA512
	RSASSAPKCS1V15SHA256
	RSASSAPKCS1V15SHA384
	RSASSAPKCS1V15SHA512
	ECDSASHA256
	ECDSASHA384
	ECDSASHA512
	SM2DSA
	MLDSASHAKE256
	ED25519SHA512
	ED25519PHSHA512
)

var signingAlgorithms = api.Names{"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512",
	"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
	"ECDSA_SHA_256", "ECDSA_SHA_384", "ECDSA_SHA_512", "SM2DSA", "ML_DSA_SHAKE_256", "ED25519_SHA_512", "ED25519_PH_SHA_512"}

// Names returns the closed list.
func (SigningAlgorithm) Names() api.Names { return signingAlgorithms }

// String returns AWS's name.
func (a SigningAlgorithm) String() string { return signingAlgorithms.Name(uint8(a)) }

// MessageType is what the Message of a Sign or Verify is (MessageType).
type MessageType uint8

// A message, its digest, or the mu of FIPS 204.
const (
	MessageRaw MessageType = iota + 1
	MessageDigest
	MessageExternalMu
)

var messageTypes = api.Names{"RAW", "DIGEST", "EXTERNAL_MU"}

// Names returns the closed list.
func (MessageType) Names() api.Names { return messageTypes }

// String returns AWS's name.
func (t MessageType) String() string { return messageTypes.Name(uint8(t)) }

// KeyAgreementAlgorithm is how a key agrees on a secret (KeyAgreementAlgorithmSpec).
type KeyAgreementAlgorithm uint8

// ECDH is the Diffie-Hellman primitive of elliptic curves (SP 800-56A Rev. 3, section
// 5.7.1.2), without a key derivation.
const ECDH KeyAgreementAlgorithm = 1

var keyAgreementAlgorithms = api.Names{"ECDH"}

// Names returns the closed list.
func (KeyAgreementAlgorithm) Names() api.Names { return keyAgreementAlgorithms }

// String returns AWS's name.
func (a KeyAgreementAlgorithm) String() string { return keyAgreementAlgorithms.Name(uint8(a)) }

// KeySpec is the type of a key's material.
type KeySpec uint8

// The specs. KeySpecSymmetricDefault is a 256-bit symmetric encryption key; the keys
// of HMAC follow it, and all others are asymmetric.
const (
	KeySpecSymmetricDefault KeySpec = iota + 1
	KeySpecHMAC224
	KeySpecHMAC256
	KeySpecHMAC384
	KeySpecHMAC512
	KeySpecRSA2048
	KeySpecRSA3072
	KeySpecRSA4096
	KeySpecECCNISTP256
	KeySpecECCNISTP384
	KeySpecECCNISTP521
	KeySpecECCSECGP256K1
	KeySpecECCNISTEdwards25519
	KeySpecMLDSA44
	KeySpecMLDSA65
	KeySpecMLDSA87
	KeySpecMLKEM512
	KeySpecMLKEM768
	KeySpecMLKEM1024
)

var keySpecs = api.Names{"SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512",
	"RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1",
	"ECC_NIST_EDWARDS25519", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024", "SM2"}

// Names returns the closed list.
func (KeySpec) Names() api.Names { return keySpecs }

// String returns AWS's name.
func (s KeySpec) String() string { return keySpecs.Name(uint8(s)) }

// KeyUsage is the one job of a key (KeyUsageType).
type KeyUsage uint8

// The usages.
const (
	UsageEncryptDecrypt KeyUsage = iota + 1
	UsageSignVerify
	UsageGenerateVerifyMac
	UsageKeyAgreement
	UsageEncapsulateDecapsulate
)

var keyUsages = api.Names{"ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT", "ENCAPSULATE_DECAPSULATE"}

// Names returns the closed list.
func (KeyUsage) Names() api.Names { return keyUsages }

// String returns AWS's name.
func (u KeyUsage) String() string { return keyUsages.Name(uint8(u)) }

// KeyOrigin is where a key's material comes from (OriginType).
type KeyOrigin uint8

// OriginAWSKMS is material made here, OriginExternal material that its owner imports.
const (
	OriginAWSKMS KeyOrigin = iota + 1
	OriginExternal
)

var keyOrigins = api.Names{"AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"}

// Names returns the closed list.
func (KeyOrigin) Names() api.Names { return keyOrigins }

// String returns AWS's name.
func (o KeyOrigin) String() string { return keyOrigins.Name(uint8(o)) }

// KeyState is whether a key can be used.
type KeyState uint8

// The states. A key is usable while it is Enabled or Updating.
const (
	StateEnabled KeyState = iota + 1
	StateDisabled
	StatePendingDeletion
	StatePendingImport
	StatePendingReplicaDeletion
	StateCreating
	StateUnavailable
	StateUpdating
)

var keyStates = api.Names{"Enabled", "Disabled", "PendingDeletion", "PendingImport", "PendingReplicaDeletion", "Creating", "Unavailable", "Updating"}

// Names returns the closed list.
func (KeyState) Names() api.Names { return keyStates }

// String returns AWS's name.
func (s KeyState) String() string { return keyStates.Name(uint8(s)) }

// KeyManager is who manages a key (KeyManagerType).
type KeyManager uint8

// ManagerCustomer is the manager of every key that a caller created.
const ManagerCustomer KeyManager = 2

var keyManagers = api.Names{"AWS", "CUSTOMER"}

// Names returns the closed list.
func (KeyManager) Names() api.Names { return keyManagers }

// String returns AWS's name.
func (m KeyManager) String() string { return keyManagers.Name(uint8(m)) }

// DryRunModifier changes what a dry run looks at (DryRunModifierType).
type DryRunModifier uint8

// IgnoreCiphertext makes a dry run of Decrypt or ReEncrypt check the access only.
const IgnoreCiphertext DryRunModifier = 1

var dryRunModifiers = api.Names{"IGNORE_CIPHERTEXT"}

// Names returns the closed list.
func (DryRunModifier) Names() api.Names { return dryRunModifiers }

// String returns AWS's name.
func (m DryRunModifier) String() string { return dryRunModifiers.Name(uint8(m)) }

// DataKeySpec is the length of a data key (DataKeySpec).
type DataKeySpec uint8

// AES256 is a data key of 32 bytes, AES128 one of 16.
const (
	AES256 DataKeySpec = iota + 1
	AES128
)

var dataKeySpecs = api.Names{"AES_256", "AES_128"}

// Names returns the closed list.
func (DataKeySpec) Names() api.Names { return dataKeySpecs }

// String returns AWS's name.
func (s DataKeySpec) String() string { return dataKeySpecs.Name(uint8(s)) }

// EncapsulationAlgorithm is how a key encapsulates (EncapsulationAlgorithmSpec).
type EncapsulationAlgorithm uint8

// MLKEM is ML-KEM (FIPS 203) of the key's parameter set.
const (
	MLKEM EncapsulationAlgorithm = iota + 1
)

var encapsulationAlgorithms = api.Names{"ML_KEM"}

// Names returns the closed list.
func (EncapsulationAlgorithm) Names() api.Names { return encapsulationAlgorithms }

// String returns AWS's name.
func (a EncapsulationAlgorithm) String() string { return encapsulationAlgorithms.Name(uint8(a)) }

// DataKeyPairSpec is the type of a data key pair (DataKeyPairSpec).
type DataKeyPairSpec uint8

// The types. Nothing here makes pairs of SM2.
const (
	PairRSA2048 DataKeyPairSpec = iota + 1
	PairRSA3072
	PairRSA4096
	PairECCNISTP256
	PairECCNISTP384
	PairECCNISTP521
	PairECCSECGP256K1
	PairSM2
	PairECCNISTEdwards25519
	PairMLKEM512
	PairMLKEM768
	PairMLKEM1024
)

var dataKeyPairSpecs = api.Names{"RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "SM2", "ECC_NIST_EDWARDS25519", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"}

// Names returns the closed list.
func (DataKeyPairSpec) Names() api.Names { return dataKeyPairSpecs }

// String returns AWS's name.
func (s DataKeyPairSpec) String() string { return dataKeyPairSpecs.Name(uint8(s)) }
