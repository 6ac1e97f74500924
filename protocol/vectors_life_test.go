package protocol_test

import (
	"strings"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
)

// exampleTime is 2027-01-15T08:00:00Z.
const exampleTime api.Time = 1_800_000_000_000_000

// makeLifeRequests makes requests that agree on secrets, change the life of a key and
// bring material, and those of what there is only one of here.
func makeLifeRequests(m *maker, key api.KeyRef) {
	const rule = api.KindValidation
	id := api.ParseKeyRef([]byte("21a51eb1-c28d-d89c-e293-7ed0a8ceb2b3"))
	for i, good := range []struct {
		name string
		op   *api.Op
		in   any
	}{
		{"derive-shared-secret", kmsapi.DeriveSharedSecret.Op, &kmsapi.DeriveSharedSecretRequest{KeyId: key, KeyAgreementAlgorithm: kmsapi.ECDH, PublicKey: exampleMac}},
		{"encapsulate", kmsapi.Encapsulate.Op, &kmsapi.EncapsulateRequest{KeyId: key, EncapsulationAlgorithm: kmsapi.MLKEM}},
		{"decapsulate", kmsapi.Decapsulate.Op, &kmsapi.DecapsulateRequest{KeyId: key, EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecretCiphertextBlob: make([]byte, 768)}},
		{"data-key-pair", kmsapi.GenerateDataKeyPair.Op, &kmsapi.GenerateDataKeyPairRequest{KeyId: key, KeyPairSpec: kmsapi.PairECCNISTP256}},
		{"data-key-pair-without-plaintext", kmsapi.GenerateDataKeyPairWithoutPlaintext.Op, &kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{KeyId: key, KeyPairSpec: kmsapi.PairMLKEM1024, DryRun: true}},
		{"schedule-deletion", kmsapi.ScheduleKeyDeletion.Op, &kmsapi.ScheduleKeyDeletionRequest{KeyId: id, PendingWindowInDays: 7}},
		{"cancel-deletion", kmsapi.CancelKeyDeletion.Op, &kmsapi.CancelKeyDeletionRequest{KeyId: id}},
		{"enable-rotation", kmsapi.EnableKeyRotation.Op, &kmsapi.EnableKeyRotationRequest{KeyId: id, RotationPeriodInDays: 2560}},
		{"disable-rotation", kmsapi.DisableKeyRotation.Op, &kmsapi.DisableKeyRotationRequest{KeyId: id}},
		{"rotation-status", kmsapi.GetKeyRotationStatus.Op, &kmsapi.GetKeyRotationStatusRequest{KeyId: id}},
		{"rotate-on-demand", kmsapi.RotateKeyOnDemand.Op, &kmsapi.RotateKeyOnDemandRequest{KeyId: id}},
		{"list-rotations", kmsapi.ListKeyRotations.Op, &kmsapi.ListKeyRotationsRequest{KeyId: id, IncludeKeyMaterial: kmsapi.AllKeyMaterial, Limit: 10, Marker: "m"}},
		{"parameters-for-import", kmsapi.GetParametersForImport.Op, &kmsapi.GetParametersForImportRequest{KeyId: id, WrappingAlgorithm: kmsapi.WrapAESKeyWrapSHA256, WrappingKeySpec: kmsapi.WrappingRSA4096}},
		{"import-material", kmsapi.ImportKeyMaterial.Op, &kmsapi.ImportKeyMaterialRequest{KeyId: id, ImportToken: exampleMac, EncryptedKeyMaterial: exampleMac, ValidTo: exampleTime,
			ExpirationModel: kmsapi.MaterialExpires, ImportType: kmsapi.ExistingKeyMaterial, KeyMaterialDescription: "from the safe", KeyMaterialId: strings.Repeat("ab", 32)}},
		{"delete-material", kmsapi.DeleteImportedKeyMaterial.Op, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: id}},
		{"last-usage", kmsapi.GetKeyLastUsage.Op, &kmsapi.GetKeyLastUsageRequest{KeyId: id}},
		{"replicate", kmsapi.ReplicateKey.Op, &kmsapi.ReplicateKeyRequest{KeyId: id, ReplicaRegion: "rack-2"}},
		{"update-primary-region", kmsapi.UpdatePrimaryRegion.Op, &kmsapi.UpdatePrimaryRegionRequest{KeyId: id, PrimaryRegion: "rack-2"}},
		{"create-custom-key-store", kmsapi.CreateCustomKeyStore.Op, &kmsapi.CreateCustomKeyStoreRequest{CustomKeyStoreName: "hsm"}},
		{"update-custom-key-store", kmsapi.UpdateCustomKeyStore.Op, &kmsapi.UpdateCustomKeyStoreRequest{CustomKeyStoreId: "cks-1", NewCustomKeyStoreName: "hsm"}},
		{"delete-custom-key-store", kmsapi.DeleteCustomKeyStore.Op, &kmsapi.DeleteCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"}},
		{"connect-custom-key-store", kmsapi.ConnectCustomKeyStore.Op, &kmsapi.ConnectCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"}},
		{"disconnect-custom-key-store", kmsapi.DisconnectCustomKeyStore.Op, &kmsapi.DisconnectCustomKeyStoreRequest{CustomKeyStoreId: "cks-1"}},
		{"describe-custom-key-stores", kmsapi.DescribeCustomKeyStores.Op, &kmsapi.DescribeCustomKeyStoresRequest{Limit: 1}},
	} {
		m.add(requestVector(good.name, api.RequestID(i+90), good.op, good.in))
	}
	for _, bad := range []badRequest{
		{"derive-from-no-public-key", kmsapi.DeriveSharedSecret.Op, map[int]any{1: "alias/a", 2: 1}, rule},
		{"decapsulate-nothing", kmsapi.Decapsulate.Op, map[int]any{1: "alias/a", 2: 1}, rule},
		{"data-key-pair-of-no-spec", kmsapi.GenerateDataKeyPair.Op, map[int]any{1: "alias/a"}, rule},
		{"rotate-after-89-days", kmsapi.EnableKeyRotation.Op, map[int]any{1: id.String(), 2: 89}, rule},
		{"rotate-after-2561-days", kmsapi.EnableKeyRotation.Op, map[int]any{1: id.String(), 2: 2561}, rule},
		{"delete-after-0-days", kmsapi.ScheduleKeyDeletion.Op, map[int]any{1: id.String(), 2: 0}, rule},
		{"import-without-token", kmsapi.ImportKeyMaterial.Op, map[int]any{1: id.String(), 3: []byte{0}}, rule},
	} {
		m.add(rawVector(bad.name, bad.op, 1, rawRequest(bad.op.Number, bad.members)).with("expect", bad.expect))
	}
}

// makeLifeReplies makes replies to them.
func makeLifeReplies(m *maker, arn, materialID string) {
	secret := api.Secret("0123456789abcdef0123456789abcdef")
	for _, good := range []struct {
		name string
		op   *api.Op
		out  any
	}{
		{"derive-shared-secret", kmsapi.DeriveSharedSecret.Op, &kmsapi.DeriveSharedSecretResponse{KeyId: arn, SharedSecret: secret, KeyAgreementAlgorithm: kmsapi.ECDH, KeyOrigin: kmsapi.OriginAWSKMS}},
		{"encapsulate", kmsapi.Encapsulate.Op, &kmsapi.EncapsulateResponse{KeyId: arn, EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecret: secret, SharedSecretCiphertextBlob: make([]byte, 768)}},
		{"decapsulate", kmsapi.Decapsulate.Op, &kmsapi.DecapsulateResponse{KeyId: arn, EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecret: secret}},
		{"data-key-pair", kmsapi.GenerateDataKeyPair.Op, &kmsapi.GenerateDataKeyPairResponse{PrivateKeyCiphertextBlob: exampleMac, PrivateKeyPlaintext: secret, PublicKey: exampleMac,
			KeyId: arn, KeyPairSpec: kmsapi.PairECCNISTP256, KeyMaterialId: materialID}},
		{"data-key-pair-without-plaintext", kmsapi.GenerateDataKeyPairWithoutPlaintext.Op, &kmsapi.GenerateDataKeyPairWithoutPlaintextResponse{PrivateKeyCiphertextBlob: exampleMac,
			PublicKey: exampleMac, KeyId: arn, KeyPairSpec: kmsapi.PairRSA2048, KeyMaterialId: materialID}},
		{"schedule-deletion", kmsapi.ScheduleKeyDeletion.Op, &kmsapi.ScheduleKeyDeletionResponse{KeyId: arn, DeletionDate: exampleTime, KeyState: kmsapi.StatePendingDeletion, PendingWindowInDays: 7}},
		{"cancel-deletion", kmsapi.CancelKeyDeletion.Op, &kmsapi.CancelKeyDeletionResponse{KeyId: arn}},
		{"enable-rotation", kmsapi.EnableKeyRotation.Op, &kmsapi.EnableKeyRotationResponse{}},
		{"disable-rotation", kmsapi.DisableKeyRotation.Op, &kmsapi.DisableKeyRotationResponse{}},
		{"rotation-status", kmsapi.GetKeyRotationStatus.Op, &kmsapi.GetKeyRotationStatusResponse{KeyRotationEnabled: true, KeyId: arn, RotationPeriodInDays: 365, NextRotationDate: exampleTime}},
		{"rotation-status-off", kmsapi.GetKeyRotationStatus.Op, &kmsapi.GetKeyRotationStatusResponse{KeyId: arn}},
		{"rotate-on-demand", kmsapi.RotateKeyOnDemand.Op, &kmsapi.RotateKeyOnDemandResponse{KeyId: arn}},
		{"list-rotations", kmsapi.ListKeyRotations.Op, &kmsapi.ListKeyRotationsResponse{Rotations: []kmsapi.RotationsListEntry{{KeyId: arn, KeyMaterialId: materialID,
			KeyMaterialState: kmsapi.MaterialCurrent, RotationDate: exampleTime, RotationType: kmsapi.RotationOnDemand}}, NextMarker: "n", Truncated: true}},
		{"parameters-for-import", kmsapi.GetParametersForImport.Op, &kmsapi.GetParametersForImportResponse{KeyId: arn, ImportToken: exampleMac, PublicKey: exampleMac, ParametersValidTo: exampleTime}},
		{"import-material", kmsapi.ImportKeyMaterial.Op, &kmsapi.ImportKeyMaterialResponse{KeyId: arn, KeyMaterialId: materialID}},
		{"delete-material", kmsapi.DeleteImportedKeyMaterial.Op, &kmsapi.DeleteImportedKeyMaterialResponse{KeyId: arn, KeyMaterialId: materialID}},
		{"last-usage", kmsapi.GetKeyLastUsage.Op, &kmsapi.GetKeyLastUsageResponse{KeyId: arn, TrackingStartDate: exampleTime, KeyCreationDate: exampleTime,
			KeyLastUsage: kmsapi.KeyLastUsageData{Operation: kmsapi.UsedSign, Timestamp: exampleTime, CloudTrailEventId: strings.Repeat("0f", 16), KmsRequestId: strings.Repeat("0f", 16)}}},
		{"last-usage-never", kmsapi.GetKeyLastUsage.Op, &kmsapi.GetKeyLastUsageResponse{KeyId: arn, TrackingStartDate: exampleTime, KeyCreationDate: exampleTime}},
		{"replicate", kmsapi.ReplicateKey.Op, &kmsapi.ReplicateKeyResponse{ReplicaKeyMetadata: kmsapi.KeyMetadata{Arn: arn, MultiRegion: true,
			MultiRegionConfiguration: kmsapi.MultiRegionConfiguration{MultiRegionKeyType: kmsapi.MultiRegionReplica, PrimaryKey: kmsapi.MultiRegionKey{Arn: arn, Region: "rack-1"}}}}},
		{"update-primary-region", kmsapi.UpdatePrimaryRegion.Op, &kmsapi.UpdatePrimaryRegionResponse{}},
		{"create-custom-key-store", kmsapi.CreateCustomKeyStore.Op, &kmsapi.CreateCustomKeyStoreResponse{CustomKeyStoreId: "cks-1"}},
		{"update-custom-key-store", kmsapi.UpdateCustomKeyStore.Op, &kmsapi.UpdateCustomKeyStoreResponse{}},
		{"delete-custom-key-store", kmsapi.DeleteCustomKeyStore.Op, &kmsapi.DeleteCustomKeyStoreResponse{}},
		{"connect-custom-key-store", kmsapi.ConnectCustomKeyStore.Op, &kmsapi.ConnectCustomKeyStoreResponse{}},
		{"disconnect-custom-key-store", kmsapi.DisconnectCustomKeyStore.Op, &kmsapi.DisconnectCustomKeyStoreResponse{}},
		{"describe-custom-key-stores", kmsapi.DescribeCustomKeyStores.Op, &kmsapi.DescribeCustomKeyStoresResponse{}},
	} {
		m.add(replyVector(good.name, good.op.Number, 90, protocol.Native{}.AppendReply(nil, good.op, 90, good.out, nil)).with("expect", "ok"))
	}
}
