package protocol_test

import (
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
)

// exampleMac is a code that no key made.
var exampleMac = api.Blob("0123456789abcdef0123456789abcdef")

// makeSignRequests makes requests for keys of other specs, and for what they make.
func makeSignRequests(m *maker, key api.KeyRef) {
	const rule = api.KindValidation
	message := api.Secret("attack at dawn")
	for i, good := range []struct {
		name string
		op   *api.Op
		in   any
	}{
		{"create-key-hmac", kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC256, KeyUsage: kmsapi.UsageGenerateVerifyMac}},
		{"generate-mac", kmsapi.GenerateMac.Op, &kmsapi.GenerateMacRequest{KeyId: key, Message: message, MacAlgorithm: kmsapi.HMACSHA256}},
		{"generate-mac-dry-run", kmsapi.GenerateMac.Op, &kmsapi.GenerateMacRequest{KeyId: key, Message: message, MacAlgorithm: kmsapi.HMACSHA512, DryRun: true}},
		{"verify-mac", kmsapi.VerifyMac.Op, &kmsapi.VerifyMacRequest{KeyId: key, Message: message, MacAlgorithm: kmsapi.HMACSHA256, Mac: exampleMac}},
		{"create-key-rsa", kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecRSA4096, KeyUsage: kmsapi.UsageSignVerify}},
		{"sign", kmsapi.Sign.Op, &kmsapi.SignRequest{KeyId: key, Message: message, SigningAlgorithm: kmsapi.ECDSASHA256}},
		{"sign-digest", kmsapi.Sign.Op, &kmsapi.SignRequest{KeyId: key, Message: make([]byte, 64), MessageType: kmsapi.MessageDigest, SigningAlgorithm: kmsapi.ED25519PHSHA512, DryRun: true}},
		{"verify", kmsapi.Verify.Op, &kmsapi.VerifyRequest{KeyId: key, Message: message, MessageType: kmsapi.MessageRaw, Signature: exampleMac, SigningAlgorithm: kmsapi.RSASSAPSSSHA384}},
		{"get-public-key", kmsapi.GetPublicKey.Op, &kmsapi.GetPublicKeyRequest{KeyId: key}},
	} {
		m.add(requestVector(good.name, api.RequestID(i+70), good.op, good.in))
	}
	for _, bad := range []badRequest{
		{"mac-of-nothing", kmsapi.GenerateMac.Op, map[int]any{2: "alias/a", 3: 1}, rule},
		{"mac-of-4097-bytes", kmsapi.GenerateMac.Op, map[int]any{1: make([]byte, api.MaxMessage+1), 2: "alias/a", 3: 1}, rule},
		{"mac-of-no-algorithm", kmsapi.GenerateMac.Op, map[int]any{1: []byte{0}, 2: "alias/a"}, rule},
		{"mac-of-an-unknown-algorithm", kmsapi.GenerateMac.Op, map[int]any{1: []byte{0}, 2: "alias/a", 3: 5}, rule},
		{"verify-no-mac", kmsapi.VerifyMac.Op, map[int]any{1: []byte{0}, 2: "alias/a", 3: 1}, rule},
		{"verify-mac-of-6145-bytes", kmsapi.VerifyMac.Op, map[int]any{1: []byte{0}, 2: "alias/a", 3: 1, 4: make([]byte, api.MaxMac+1)}, rule},
		{"sign-nothing", kmsapi.Sign.Op, map[int]any{1: "alias/a", 5: 1}, rule},
		{"sign-4097-bytes", kmsapi.Sign.Op, map[int]any{1: "alias/a", 2: make([]byte, api.MaxMessage+1), 5: 1}, rule},
		{"sign-by-no-algorithm", kmsapi.Sign.Op, map[int]any{1: "alias/a", 2: []byte{0}}, rule},
		{"sign-by-an-unknown-algorithm", kmsapi.Sign.Op, map[int]any{1: "alias/a", 2: []byte{0}, 5: 14}, rule},
		{"sign-an-unknown-type", kmsapi.Sign.Op, map[int]any{1: "alias/a", 2: []byte{0}, 3: 4, 5: 1}, rule},
		{"verify-no-signature", kmsapi.Verify.Op, map[int]any{1: "alias/a", 2: []byte{0}, 5: 1}, rule},
		{"public-key-of-no-key", kmsapi.GetPublicKey.Op, nil, rule},
	} {
		m.add(rawVector(bad.name, bad.op, 1, rawRequest(bad.op.Number, bad.members)).with("expect", bad.expect))
	}
}

// makeSignReplies makes replies to them.
func makeSignReplies(m *maker, arn string) {
	for _, good := range []struct {
		name string
		op   *api.Op
		out  any
	}{
		{"create-key-hmac", kmsapi.CreateKey.Op, &kmsapi.CreateKeyResponse{KeyMetadata: kmsapi.KeyMetadata{Arn: arn, Enabled: true,
			KeyUsage: kmsapi.UsageGenerateVerifyMac, KeySpec: kmsapi.KeySpecHMAC256, MacAlgorithms: []kmsapi.MacAlgorithm{kmsapi.HMACSHA256}}}},
		{"generate-mac", kmsapi.GenerateMac.Op, &kmsapi.GenerateMacResponse{Mac: exampleMac, MacAlgorithm: kmsapi.HMACSHA256, KeyId: arn}},
		{"verify-mac", kmsapi.VerifyMac.Op, &kmsapi.VerifyMacResponse{MacValid: true, MacAlgorithm: kmsapi.HMACSHA256, KeyId: arn}},
		{"sign", kmsapi.Sign.Op, &kmsapi.SignResponse{KeyId: arn, Signature: exampleMac, SigningAlgorithm: kmsapi.ECDSASHA256}},
		{"verify", kmsapi.Verify.Op, &kmsapi.VerifyResponse{KeyId: arn, SignatureValid: true, SigningAlgorithm: kmsapi.ECDSASHA256}},
		{"get-public-key", kmsapi.GetPublicKey.Op, &kmsapi.GetPublicKeyResponse{KeyId: arn, PublicKey: exampleMac, CustomerMasterKeySpec: kmsapi.KeySpecECCNISTEdwards25519,
			KeySpec: kmsapi.KeySpecECCNISTEdwards25519, KeyUsage: kmsapi.UsageSignVerify, SigningAlgorithms: []kmsapi.SigningAlgorithm{kmsapi.ED25519SHA512, kmsapi.ED25519PHSHA512}}},
	} {
		m.add(replyVector(good.name, good.op.Number, 70, protocol.Native{}.AppendReply(nil, good.op, 70, good.out, nil)).with("expect", "ok"))
	}
}
