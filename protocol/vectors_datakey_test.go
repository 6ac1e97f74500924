package protocol_test

import (
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
)

// makeDataKeyRequests makes requests for data keys, for random bytes and for
// ciphertexts under another key.
func makeDataKeyRequests(m *maker, key api.KeyRef, blob api.Blob, context api.EncryptionContext) {
	const rule = api.KindValidation
	re, to := kmsapi.ReEncrypt.Op, api.ParseKeyRef([]byte("alias/billing"))
	for i, good := range []struct {
		name string
		op   *api.Op
		in   any
	}{
		{"data-key-by-spec", kmsapi.GenerateDataKey.Op, &kmsapi.GenerateDataKeyRequest{KeyId: key, EncryptionContext: context, KeySpec: kmsapi.AES256}},
		{"data-key-by-length", kmsapi.GenerateDataKey.Op, &kmsapi.GenerateDataKeyRequest{KeyId: to, NumberOfBytes: api.MaxDataKey}},
		{"data-key-without-plaintext", kmsapi.GenerateDataKeyWithoutPlaintext.Op, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: to, KeySpec: kmsapi.AES128}},
		{"random", kmsapi.GenerateRandom.Op, &kmsapi.GenerateRandomRequest{NumberOfBytes: 32}},
		{"re-encrypt", re, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: context, DestinationKeyId: to}},
		{"re-encrypt-with-key", re, &kmsapi.ReEncryptRequest{CiphertextBlob: blob, SourceEncryptionContext: context, SourceKeyId: key, DestinationKeyId: to, DestinationEncryptionContext: context}},
		{"re-encrypt-dry-run", re, &kmsapi.ReEncryptRequest{SourceKeyId: key, DestinationKeyId: to, DryRun: true, DryRunModifiers: []kmsapi.DryRunModifier{kmsapi.IgnoreCiphertext}}},
	} {
		m.add(requestVector(good.name, api.RequestID(i+50), good.op, good.in))
	}
	for _, bad := range []badRequest{
		{"data-key-of-no-length", kmsapi.GenerateDataKey.Op, map[int]any{1: "alias/a"}, rule},
		{"data-key-of-two-lengths", kmsapi.GenerateDataKey.Op, map[int]any{1: "alias/a", 3: 32, 4: 1}, rule},
		{"data-key-of-0-bytes", kmsapi.GenerateDataKeyWithoutPlaintext.Op, map[int]any{1: "alias/a", 4: 0}, rule},
		{"data-key-of-1025-bytes", kmsapi.GenerateDataKeyWithoutPlaintext.Op, map[int]any{1: "alias/a", 4: api.MaxDataKey + 1}, rule},
		{"random-of-no-length", kmsapi.GenerateRandom.Op, nil, rule},
		{"re-encrypt-to-no-key", re, map[int]any{1: []byte(blob)}, rule},
		{"re-encrypt-of-nothing", re, map[int]any{4: "alias/a"}, rule},
	} {
		m.add(rawVector(bad.name, bad.op, 1, rawRequest(bad.op.Number, bad.members)).with("expect", bad.expect))
	}
}

// makeDataKeyReplies makes replies with data keys, random bytes and ciphertexts
// under another key.
func makeDataKeyReplies(m *maker, arn, materialID string, blob api.Blob, plaintext api.Secret) {
	for _, good := range []struct {
		name string
		op   *api.Op
		out  any
	}{
		{"data-key", kmsapi.GenerateDataKey.Op, &kmsapi.GenerateDataKeyResponse{CiphertextBlob: blob, Plaintext: plaintext, KeyId: arn, KeyMaterialId: materialID}},
		{"data-key-without-plaintext", kmsapi.GenerateDataKeyWithoutPlaintext.Op,
			&kmsapi.GenerateDataKeyWithoutPlaintextResponse{CiphertextBlob: blob, KeyId: arn, KeyMaterialId: materialID}},
		{"random", kmsapi.GenerateRandom.Op, &kmsapi.GenerateRandomResponse{Plaintext: plaintext}},
		{"re-encrypt", kmsapi.ReEncrypt.Op, &kmsapi.ReEncryptResponse{CiphertextBlob: blob, SourceKeyId: arn, KeyId: arn,
			SourceEncryptionAlgorithm: 1, DestinationEncryptionAlgorithm: 1, SourceKeyMaterialId: materialID, DestinationKeyMaterialId: materialID}},
	} {
		m.add(replyVector(good.name, good.op.Number, 50, protocol.Native{}.AppendReply(nil, good.op, 50, good.out, nil)).with("expect", "ok"))
	}
}

// makeKeyReplies makes replies to the requests that manage a key and its names.
func makeKeyReplies(m *maker, id api.KeyID, arn string, at api.Time) {
	aliases := []kmsapi.AliasListEntry{{AliasName: "alias/billing", AliasArn: "arn:aws:kms:rack-1:000000000042:alias/billing",
		TargetKeyId: id.String(), CreationDate: at, LastUpdatedDate: at}}
	for _, good := range []struct {
		name string
		op   *api.Op
		out  any
	}{
		{"describe-key", kmsapi.DescribeKey.Op, &kmsapi.DescribeKeyResponse{KeyMetadata: kmsapi.KeyMetadata{KeyId: id.String(), Arn: arn, CreationDate: at, KeyState: 2}}},
		{"list-keys", kmsapi.ListKeys.Op, &kmsapi.ListKeysResponse{Keys: []kmsapi.KeyListEntry{{KeyId: id.String(), KeyArn: arn}}, NextMarker: "AQ", Truncated: true}},
		{"list-keys-none", kmsapi.ListKeys.Op, &kmsapi.ListKeysResponse{}},
		{"enable-key", kmsapi.EnableKey.Op, &kmsapi.EnableKeyResponse{}},
		{"disable-key", kmsapi.DisableKey.Op, &kmsapi.DisableKeyResponse{}},
		{"create-alias", kmsapi.CreateAlias.Op, &kmsapi.CreateAliasResponse{}},
		{"update-alias", kmsapi.UpdateAlias.Op, &kmsapi.UpdateAliasResponse{}},
		{"delete-alias", kmsapi.DeleteAlias.Op, &kmsapi.DeleteAliasResponse{}},
		{"list-aliases", kmsapi.ListAliases.Op, &kmsapi.ListAliasesResponse{Aliases: aliases}},
		{"update-key-description", kmsapi.UpdateKeyDescription.Op, &kmsapi.UpdateKeyDescriptionResponse{}},
		{"tag-resource", kmsapi.TagResource.Op, &kmsapi.TagResourceResponse{}},
		{"untag-resource", kmsapi.UntagResource.Op, &kmsapi.UntagResourceResponse{}},
		{"list-resource-tags", kmsapi.ListResourceTags.Op, &kmsapi.ListResourceTagsResponse{Tags: []kmsapi.Tag{{TagKey: "old"}, {TagKey: "team", TagValue: "billing"}}, NextMarker: "AQ", Truncated: true}},
	} {
		m.add(replyVector(good.name, good.op.Number, 30, protocol.Native{}.AppendReply(nil, good.op, 30, good.out, nil)).with("expect", "ok"))
	}
}
