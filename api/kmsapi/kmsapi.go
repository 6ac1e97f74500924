// Package kmsapi is the vocabulary of AWS KMS, API version 2014-11-01, as far
// as this appliance speaks it: the rows of the table of operations, and their
// requests and responses.
//
// Read first: [Operations]; [EncryptRequest] for what the tags say; package
// service/kms for the methods behind the rows.
//
// Names, limits and meanings are AWS's (AWS KMS API Reference). A member that
// AWS has and this appliance does not act on is listed all the same, so that a
// caller who sends it is refused and never ignored.
package kmsapi

import "github.com/keyrack/keyrack/api"

// A row, a request, a response, a method: that is an operation.
var (
	CreateKey   = api.Define[CreateKeyRequest, CreateKeyResponse](api.KMS, "CreateKey", 1, 0)
	Encrypt     = api.Define[EncryptRequest, EncryptResponse](api.KMS, "Encrypt", 2, api.ReadOnly|api.Idempotent)
	Decrypt     = api.Define[DecryptRequest, DecryptResponse](api.KMS, "Decrypt", 3, api.ReadOnly|api.Idempotent)
	DescribeKey = api.Define[DescribeKeyRequest, DescribeKeyResponse](api.KMS, "DescribeKey", 4, api.ReadOnly|api.Idempotent)
	ListKeys    = api.Define[ListKeysRequest, ListKeysResponse](api.KMS, "ListKeys", 5, api.ReadOnly|api.Idempotent)
	EnableKey   = api.Define[EnableKeyRequest, EnableKeyResponse](api.KMS, "EnableKey", 6, api.Idempotent)
	DisableKey  = api.Define[DisableKeyRequest, DisableKeyResponse](api.KMS, "DisableKey", 7, api.Idempotent)
	CreateAlias = api.Define[CreateAliasRequest, CreateAliasResponse](api.KMS, "CreateAlias", 8, 0)
	UpdateAlias = api.Define[UpdateAliasRequest, UpdateAliasResponse](api.KMS, "UpdateAlias", 9, api.Idempotent)
	DeleteAlias = api.Define[DeleteAliasRequest, DeleteAliasResponse](api.KMS, "DeleteAlias", 10, 0)
	ListAliases = api.Define[ListAliasesRequest, ListAliasesResponse](api.KMS, "ListAliases", 11, api.ReadOnly|api.Idempotent)
)

// Keys for data, and ciphertexts that move to another key.
var (
	GenerateDataKey                 = api.Define[GenerateDataKeyRequest, GenerateDataKeyResponse](api.KMS, "GenerateDataKey", 12, api.ReadOnly|api.Idempotent)
	GenerateDataKeyWithoutPlaintext = api.Define[GenerateDataKeyWithoutPlaintextRequest, GenerateDataKeyWithoutPlaintextResponse](
		api.KMS, "GenerateDataKeyWithoutPlaintext", 13, api.ReadOnly|api.Idempotent)
	GenerateRandom = api.Define[GenerateRandomRequest, GenerateRandomResponse](api.KMS, "GenerateRandom", 14, api.ReadOnly|api.Idempotent)
	ReEncrypt      = api.Define[ReEncryptRequest, ReEncryptResponse](api.KMS, "ReEncrypt", 15, api.ReadOnly|api.Idempotent)
)

// Message authentication codes.
var (
	GenerateMac = api.Define[GenerateMacRequest, GenerateMacResponse](api.KMS, "GenerateMac", 20, api.ReadOnly|api.Idempotent)
	VerifyMac   = api.Define[VerifyMacRequest, VerifyMacResponse](api.KMS, "VerifyMac", 21, api.ReadOnly|api.Idempotent)
)

// Signatures.
var (
	Sign         = api.Define[SignRequest, SignResponse](api.KMS, "Sign", 22, api.ReadOnly|api.Idempotent)
	Verify       = api.Define[VerifyRequest, VerifyResponse](api.KMS, "Verify", 23, api.ReadOnly|api.Idempotent)
	GetPublicKey = api.Define[GetPublicKeyRequest, GetPublicKeyResponse](api.KMS, "GetPublicKey", 24, api.ReadOnly|api.Idempotent)
)

// What people note of a key.
var (
	UpdateKeyDescription = api.Define[UpdateKeyDescriptionRequest, UpdateKeyDescriptionResponse](api.KMS, "UpdateKeyDescription", 16, api.Idempotent)
	TagResource          = api.Define[TagResourceRequest, TagResourceResponse](api.KMS, "TagResource", 17, api.Idempotent)
	UntagResource        = api.Define[UntagResourceRequest, UntagResourceResponse](api.KMS, "UntagResource", 18, api.Idempotent)
	ListResourceTags     = api.Define[ListResourceTagsRequest, ListResourceTagsResponse](api.KMS, "ListResourceTags", 19, api.ReadOnly|api.Idempotent)
)

// Secrets agreed on with others.
var (
	DeriveSharedSecret                  = api.Define[DeriveSharedSecretRequest, DeriveSharedSecretResponse](api.KMS, "DeriveSharedSecret", 25, api.ReadOnly|api.Idempotent)
	Encapsulate                         = api.Define[EncapsulateRequest, EncapsulateResponse](api.KMS, "Encapsulate", 26, api.ReadOnly|api.Idempotent)
	Decapsulate                         = api.Define[DecapsulateRequest, DecapsulateResponse](api.KMS, "Decapsulate", 27, api.ReadOnly|api.Idempotent)
	GenerateDataKeyPair                 = api.Define[GenerateDataKeyPairRequest, GenerateDataKeyPairResponse](api.KMS, "GenerateDataKeyPair", 28, api.ReadOnly|api.Idempotent)
	GenerateDataKeyPairWithoutPlaintext = api.Define[GenerateDataKeyPairWithoutPlaintextRequest, GenerateDataKeyPairWithoutPlaintextResponse](api.KMS, "GenerateDataKeyPairWithoutPlaintext", 29, api.ReadOnly|api.Idempotent)
)

// The life of a key and of its materials.
var (
	ScheduleKeyDeletion       = api.Define[ScheduleKeyDeletionRequest, ScheduleKeyDeletionResponse](api.KMS, "ScheduleKeyDeletion", 30, 0)
	CancelKeyDeletion         = api.Define[CancelKeyDeletionRequest, CancelKeyDeletionResponse](api.KMS, "CancelKeyDeletion", 31, 0)
	EnableKeyRotation         = api.Define[EnableKeyRotationRequest, EnableKeyRotationResponse](api.KMS, "EnableKeyRotation", 32, api.Idempotent)
	DisableKeyRotation        = api.Define[DisableKeyRotationRequest, DisableKeyRotationResponse](api.KMS, "DisableKeyRotation", 33, api.Idempotent)
	GetKeyRotationStatus      = api.Define[GetKeyRotationStatusRequest, GetKeyRotationStatusResponse](api.KMS, "GetKeyRotationStatus", 34, api.ReadOnly|api.Idempotent)
	RotateKeyOnDemand         = api.Define[RotateKeyOnDemandRequest, RotateKeyOnDemandResponse](api.KMS, "RotateKeyOnDemand", 35, 0)
	ListKeyRotations          = api.Define[ListKeyRotationsRequest, ListKeyRotationsResponse](api.KMS, "ListKeyRotations", 36, api.ReadOnly|api.Idempotent)
	GetParametersForImport    = api.Define[GetParametersForImportRequest, GetParametersForImportResponse](api.KMS, "GetParametersForImport", 37, 0)
	ImportKeyMaterial         = api.Define[ImportKeyMaterialRequest, ImportKeyMaterialResponse](api.KMS, "ImportKeyMaterial", 38, 0)
	DeleteImportedKeyMaterial = api.Define[DeleteImportedKeyMaterialRequest, DeleteImportedKeyMaterialResponse](api.KMS, "DeleteImportedKeyMaterial", 39, api.Idempotent)
	GetKeyLastUsage           = api.Define[GetKeyLastUsageRequest, GetKeyLastUsageResponse](api.KMS, "GetKeyLastUsage", 40, api.ReadOnly|api.Idempotent)
)

// What only several regions and stores of the customer's own have.
var (
	ReplicateKey             = api.Define[ReplicateKeyRequest, ReplicateKeyResponse](api.KMS, "ReplicateKey", 41, 0)
	UpdatePrimaryRegion      = api.Define[UpdatePrimaryRegionRequest, UpdatePrimaryRegionResponse](api.KMS, "UpdatePrimaryRegion", 42, 0)
	CreateCustomKeyStore     = api.Define[CreateCustomKeyStoreRequest, CreateCustomKeyStoreResponse](api.KMS, "CreateCustomKeyStore", 43, 0)
	UpdateCustomKeyStore     = api.Define[UpdateCustomKeyStoreRequest, UpdateCustomKeyStoreResponse](api.KMS, "UpdateCustomKeyStore", 44, 0)
	DeleteCustomKeyStore     = api.Define[DeleteCustomKeyStoreRequest, DeleteCustomKeyStoreResponse](api.KMS, "DeleteCustomKeyStore", 45, 0)
	ConnectCustomKeyStore    = api.Define[ConnectCustomKeyStoreRequest, ConnectCustomKeyStoreResponse](api.KMS, "ConnectCustomKeyStore", 46, 0)
	DisconnectCustomKeyStore = api.Define[DisconnectCustomKeyStoreRequest, DisconnectCustomKeyStoreResponse](api.KMS, "DisconnectCustomKeyStore", 47, 0)
	DescribeCustomKeyStores  = api.Define[DescribeCustomKeyStoresRequest, DescribeCustomKeyStoresResponse](api.KMS, "DescribeCustomKeyStores", 48, api.ReadOnly|api.Idempotent)
)

// Operations returns the rows of this package.
func Operations() []*api.Op {
	return []*api.Op{
		CreateKey.Op, Encrypt.Op, Decrypt.Op, DescribeKey.Op, ListKeys.Op, EnableKey.Op, DisableKey.Op,
		CreateAlias.Op, UpdateAlias.Op, DeleteAlias.Op, ListAliases.Op,
		GenerateDataKey.Op, GenerateDataKeyWithoutPlaintext.Op, GenerateRandom.Op, ReEncrypt.Op,
		UpdateKeyDescription.Op, TagResource.Op, UntagResource.Op, ListResourceTags.Op,
		GenerateMac.Op, VerifyMac.Op, Sign.Op, Verify.Op, GetPublicKey.Op,
		DeriveSharedSecret.Op,
		Encapsulate.Op,
		Decapsulate.Op,
		GenerateDataKeyPair.Op,
		GenerateDataKeyPairWithoutPlaintext.Op,
		ScheduleKeyDeletion.Op,
		CancelKeyDeletion.Op,
		EnableKeyRotation.Op,
		DisableKeyRotation.Op,
		GetKeyRotationStatus.Op,
		RotateKeyOnDemand.Op,
		ListKeyRotations.Op,
		GetParametersForImport.Op,
		ImportKeyMaterial.Op,
		DeleteImportedKeyMaterial.Op,
		GetKeyLastUsage.Op,
		ReplicateKey.Op,
		UpdatePrimaryRegion.Op,
		CreateCustomKeyStore.Op,
		UpdateCustomKeyStore.Op,
		DeleteCustomKeyStore.Op,
		ConnectCustomKeyStore.Op,
		DisconnectCustomKeyStore.Op,
		DescribeCustomKeyStores.Op,
	}
}
