package kmsapi

import "github.com/keyrack/keyrack/api"

// The enums of a key's materials: rotation, import, deletion and last use.

// WrappingAlgorithm is how material is encrypted for its way here (AlgorithmSpec).
type WrappingAlgorithm uint8

// The algorithms. RSA_AES_KEY_WRAP is an AES-256 key under RSAES-OAEP, and the material
// under that key with AES-KWP (RFC 5649). AWS refuses RSAES_PKCS1_V1_5 since 2023-10-10.
const (
	WrapPKCS1V15 WrappingAlgorithm = iota + 1
	WrapOAEPSHA1
	WrapOAEPSHA256
	WrapAESKeyWrapSHA1
	WrapAESKeyWrapSHA256
	WrapSM2PKE
)

var wrappingAlgorithms = api.Names{"RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256", "SM2PKE"}

// Names returns the closed list.
func (WrappingAlgorithm) Names() api.Names { return wrappingAlgorithms }

// String returns AWS's name.
func (a WrappingAlgorithm) String() string { return wrappingAlgorithms.Name(uint8(a)) }

// WrappingKeySpec is the type of the key that material is encrypted under (WrappingKeySpec).
type WrappingKeySpec uint8

// The types.
const (
	WrappingRSA2048 WrappingKeySpec = iota + 1
	WrappingRSA3072
	WrappingRSA4096
	WrappingSM2
)

var wrappingKeySpecs = api.Names{"RSA_2048", "RSA_3072", "RSA_4096", "SM2"}

// Names returns the closed list.
func (WrappingKeySpec) Names() api.Names { return wrappingKeySpecs }

// String returns AWS's name.
func (s WrappingKeySpec) String() string { return wrappingKeySpecs.Name(uint8(s)) }

// ExpirationModel is whether imported material ends by itself (ExpirationModelType).
type ExpirationModel uint8

// The models: with a ValidTo, and without.
const (
	MaterialExpires ExpirationModel = iota + 1
	MaterialDoesNotExpire
)

var expirationModels = api.Names{"KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"}

// Names returns the closed list.
func (ExpirationModel) Names() api.Names { return expirationModels }

// String returns AWS's name.
func (m ExpirationModel) String() string { return expirationModels.Name(uint8(m)) }

// ImportType is which material is imported (ImportType).
type ImportType uint8

// The types: one that the key never had, or one that it had.
const (
	NewKeyMaterial ImportType = iota + 1
	ExistingKeyMaterial
)

var importTypes = api.Names{"NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"}

// Names returns the closed list.
func (ImportType) Names() api.Names { return importTypes }

// String returns AWS's name.
func (t ImportType) String() string { return importTypes.Name(uint8(t)) }

// ImportState is whether imported material is there (ImportState).
type ImportState uint8

// The states.
const (
	Imported ImportState = iota + 1
	PendingImport
)

var importStates = api.Names{"IMPORTED", "PENDING_IMPORT"}

// Names returns the closed list.
func (ImportState) Names() api.Names { return importStates }

// String returns AWS's name.
func (s ImportState) String() string { return importStates.Name(uint8(s)) }

// KeyMaterialState is which part a material has in its key (KeyMaterialState).
type KeyMaterialState uint8

// The states: it encrypts; it decrypts what it encrypted once; it waits for a rotation; it
// waits for replicas, of which there are none here.
const (
	MaterialCurrent KeyMaterialState = iota + 1
	MaterialNonCurrent
	MaterialPendingRotation
	MaterialPendingMultiRegion
)

var keyMaterialStates = api.Names{"CURRENT", "NON_CURRENT", "PENDING_ROTATION", "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"}

// Names returns the closed list.
func (KeyMaterialState) Names() api.Names { return keyMaterialStates }

// String returns AWS's name.
func (s KeyMaterialState) String() string { return keyMaterialStates.Name(uint8(s)) }

// RotationType is what made a material current (RotationType).
type RotationType uint8

// The types.
const (
	RotationAutomatic RotationType = iota + 1
	RotationOnDemand
)

var rotationTypes = api.Names{"AUTOMATIC", "ON_DEMAND"}

// Names returns the closed list.
func (RotationType) Names() api.Names { return rotationTypes }

// String returns AWS's name.
func (t RotationType) String() string { return rotationTypes.Name(uint8(t)) }

// IncludeKeyMaterial is what ListKeyRotations lists (IncludeKeyMaterial).
type IncludeKeyMaterial uint8

// Also the first material and those that are pending, or completed rotations only.
const (
	AllKeyMaterial IncludeKeyMaterial = iota + 1
	RotationsOnly
)

var includeKeyMaterials = api.Names{"ALL_KEY_MATERIAL", "ROTATIONS_ONLY"}

// Names returns the closed list.
func (IncludeKeyMaterial) Names() api.Names { return includeKeyMaterials }

// String returns AWS's name.
func (i IncludeKeyMaterial) String() string { return includeKeyMaterials.Name(uint8(i)) }

// MultiRegionKeyType is which of several keys with one id a key is (MultiRegionKeyType).
type MultiRegionKeyType uint8

// The types.
const (
	MultiRegionPrimary MultiRegionKeyType = iota + 1
	MultiRegionReplica
)

var multiRegionKeyTypes = api.Names{"PRIMARY", "REPLICA"}

// Names returns the closed list.
func (MultiRegionKeyType) Names() api.Names { return multiRegionKeyTypes }

// String returns AWS's name.
func (t MultiRegionKeyType) String() string { return multiRegionKeyTypes.Name(uint8(t)) }

// UsageOperation is an operation that GetKeyLastUsage tells of (KeyLastUsageData.Operation).
type UsageOperation uint8

// The operations.
const (
	UsedDecrypt UsageOperation = iota + 1
	UsedDeriveSharedSecret
	UsedEncrypt
	UsedGenerateDataKey
	UsedGenerateDataKeyPair
	UsedGenerateDataKeyPairWithoutPlaintext
	UsedGenerateDataKeyWithoutPlaintext
	UsedGenerateMac
	UsedReEncrypt
	UsedSign
	UsedVerify
	UsedVerifyMac
	UsedEncapsulate
	UsedDecapsulate
)

var usageOperations = api.Names{"Decrypt", "DeriveSharedSecret", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateMac", "ReEncrypt", "Sign", "Verify", "VerifyMac", "Encapsulate", "Decapsulate"}

// Names returns the closed list.
func (UsageOperation) Names() api.Names { return usageOperations }

// String returns AWS's name.
func (o UsageOperation) String() string { return usageOperations.Name(uint8(o)) }
