package kms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/pq"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// Serve makes one call of any operation as a connection and a worker would.
func (d *desk) serve(tb testing.TB, who *identity.Principal, op *api.Op, in any) error {
	tb.Helper()
	s := d.Gate().Session(tb.Context(), identity.Always(who), "test")
	defer s.Close()
	body := op.In.AppendCBOR(nil, in)
	for c := s.Call(1); d.routes[op].Serve(c, protocol.Native{}, body) != work.None; {
		c = s.Again(tb.Context(), c.Ticket())
	}
	held := s.Flush(true)
	defer held.Release()
	b, err := held.Bytes(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	frame, _, _, err := protocol.Split(b, api.MaxReplyFrame)
	if err != nil {
		tb.Fatal(err)
	}
	reply, err := protocol.ParseReply(frame)
	if err != nil {
		tb.Fatal(err)
	}
	return reply.Err()
}

// tried is a key that an operation is tried on, and what the request needs besides.
type tried struct {
	tb         testing.TB
	d          *desk
	arn, other string // the key, and one of the same kind that is enabled
	name       string // an alias of it; that with a 2 behind it is one of the other
	secret     []byte // what the operation is to find right: a ciphertext, a code, a signature
	token      []byte // of an import
	imported   bool   // it has material
}

// try is how an operation that works on a key is tried.
type try struct {
	in      kmsapi.CreateKeyRequest // the key
	prepare func(*tried)            // before its state changes; nil = nothing
	request func(*tried) (*api.Op, any)
}

// ofImported returns the try for a key whose material was imported, as it is in all other things.
func (t try) ofImported(in kmsapi.ImportKeyMaterialRequest) try {
	if t.in.Origin == kmsapi.OriginExternal {
		return t // it imports by itself
	}
	prepare := t.prepare
	t.in.Origin = kmsapi.OriginExternal
	t.prepare = func(f *tried) {
		f.bring(in)
		if prepare != nil {
			prepare(f)
		}
	}
	return t
}

// bring imports material into the key, of whatever spec it is.
func (f *tried) bring(in kmsapi.ImportKeyMaterialRequest) {
	f.tb.Helper()
	material := randomBytes(32)
	switch found(f, kmsapi.DescribeKey, &kmsapi.DescribeKeyRequest{KeyId: ref(f.arn)}).KeyMetadata.KeySpec {
	case kmsapi.KeySpecECCNISTP256:
		material = fromOpenSSL(f.tb, "ec_P-256")
	case kmsapi.KeySpecMLKEM512:
		var err error
		if material, err = pq.AppendPKCS8(nil, pq.MLKEM512, randomBytes(pq.MLKEM512.SeedSize())); err != nil {
			f.tb.Fatal(err)
		}
	}
	p := found(f, kmsapi.GetParametersForImport, &kmsapi.GetParametersForImportRequest{
		KeyId: ref(f.arn), WrappingAlgorithm: kmsapi.WrapAESKeyWrapSHA256, WrappingKeySpec: kmsapi.WrappingRSA2048})
	in.KeyId, in.ImportToken, in.EncryptedKeyMaterial = ref(f.arn), p.ImportToken, wrap(f.tb, kmsapi.WrapAESKeyWrapSHA256, p.PublicKey, material)
	f.must(kmsapi.ImportKeyMaterial.Op, &in)
}

// newTried makes a key of the kind that a try needs. Tries may go on beside each other.
func newTried(tb testing.TB, d *desk, name string, t *try) *tried {
	tb.Helper()
	f := &tried{tb: tb, d: d, name: "alias/" + name}
	for i, arn := range []*string{&f.arn, &f.other} {
		in := t.in
		if i == 1 {
			in.Origin = 0
		}
		out, err := ask(tb, d, rootOf(racktest.Account), kmsapi.CreateKey, &in)
		if err != nil {
			tb.Fatal(err)
		}
		*arn = out.KeyMetadata.Arn
		f.must(kmsapi.CreateAlias.Op, &kmsapi.CreateAliasRequest{AliasName: f.name + []string{"", "2"}[i], TargetKeyId: ref(*arn)})
	}
	if t.prepare != nil {
		t.prepare(f)
	}
	return f
}

func (f *tried) must(op *api.Op, in any) {
	f.tb.Helper()
	if err := f.d.serve(f.tb, rootOf(racktest.Account), op, in); err != nil {
		f.tb.Fatalf("%s: %v", op, err)
	}
}

var (
	cipherKey = kmsapi.CreateKeyRequest{}
	multiKey  = kmsapi.CreateKeyRequest{MultiRegion: true}
	importKey = kmsapi.CreateKeyRequest{Origin: kmsapi.OriginExternal}
	signKey   = kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCNISTP256, KeyUsage: kmsapi.UsageSignVerify}
	macKey    = kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecHMAC256, KeyUsage: kmsapi.UsageGenerateVerifyMac}
	ecdhKey   = kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecECCNISTP256, KeyUsage: kmsapi.UsageKeyAgreement}
	kemKey    = kmsapi.CreateKeyRequest{KeySpec: kmsapi.KeySpecMLKEM512, KeyUsage: kmsapi.UsageEncapsulateDecapsulate}
)

// found returns what an operation answered.
func found[In, Out any](f *tried, op api.OpOf[In, Out], in *In) *Out {
	f.tb.Helper()
	out, err := ask(f.tb, f.d, rootOf(racktest.Account), op, in)
	if err != nil {
		f.tb.Fatal(err)
	}
	return out
}

func encrypted(f *tried) {
	f.secret = found(f, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(f.arn), Plaintext: []byte("x"), EncryptionAlgorithm: kmsapi.SymmetricDefault}).CiphertextBlob
}

func encryptedByOther(f *tried) {
	f.secret = found(f, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(f.other), Plaintext: []byte("x"), EncryptionAlgorithm: kmsapi.SymmetricDefault}).CiphertextBlob
}

func coded(f *tried) {
	f.secret = found(f, kmsapi.GenerateMac, &kmsapi.GenerateMacRequest{KeyId: ref(f.arn), Message: []byte("x"), MacAlgorithm: kmsapi.HMACSHA256}).Mac
}

func signed(f *tried) {
	f.secret = found(f, kmsapi.Sign, &kmsapi.SignRequest{KeyId: ref(f.arn), Message: []byte("x"), MessageType: kmsapi.MessageRaw, SigningAlgorithm: kmsapi.ECDSASHA256}).Signature
}

func encapsulated(f *tried) {
	f.secret = found(f, kmsapi.Encapsulate, &kmsapi.EncapsulateRequest{KeyId: ref(f.arn), EncapsulationAlgorithm: kmsapi.MLKEM}).SharedSecretCiphertextBlob
}

// brought imports key material, and prepares to import it again.
func brought(f *tried) {
	material := randomBytes(32)
	for range 2 {
		p := found(f, kmsapi.GetParametersForImport, &kmsapi.GetParametersForImportRequest{
			KeyId: ref(f.arn), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingRSA2048})
		f.secret, f.token = wrap(f.tb, kmsapi.WrapOAEPSHA256, p.PublicKey, material), p.ImportToken
		if op, in := importsAgain(f); !f.imported {
			f.must(op, in)
			f.imported = true
		}
	}
}

func importsAgain(f *tried) (*api.Op, any) {
	return kmsapi.ImportKeyMaterial.Op, &kmsapi.ImportKeyMaterialRequest{
		KeyId: ref(f.arn), ImportToken: f.token, EncryptedKeyMaterial: f.secret, ExpirationModel: kmsapi.MaterialDoesNotExpire}
}

// met makes the public key of somebody to agree on a secret with.
func met(f *tried) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		f.secret, err = x509.MarshalPKIXPublicKey(&private.PublicKey)
	}
	if err != nil {
		f.tb.Fatal(err)
	}
}

// tries are the operations that work on a key, each with a request that an enabled key
// serves. The name of an operation may have a word behind it that says which key is meant.
var tries = map[string]try{
	"Encrypt": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.Encrypt.Op, &kmsapi.EncryptRequest{KeyId: ref(f.arn), Plaintext: []byte("x"), EncryptionAlgorithm: kmsapi.SymmetricDefault}
	}},
	"Decrypt": {cipherKey, encrypted, func(f *tried) (*api.Op, any) {
		return kmsapi.Decrypt.Op, &kmsapi.DecryptRequest{KeyId: ref(f.arn), CiphertextBlob: f.secret, EncryptionAlgorithm: kmsapi.SymmetricDefault}
	}},
	"ReEncrypt from": {cipherKey, encrypted, func(f *tried) (*api.Op, any) {
		return kmsapi.ReEncrypt.Op, &kmsapi.ReEncryptRequest{SourceKeyId: ref(f.arn), DestinationKeyId: ref(f.other), CiphertextBlob: f.secret,
			SourceEncryptionAlgorithm: kmsapi.SymmetricDefault, DestinationEncryptionAlgorithm: kmsapi.SymmetricDefault}
	}},
	"ReEncrypt to": {cipherKey, encryptedByOther, func(f *tried) (*api.Op, any) {
		return kmsapi.ReEncrypt.Op, &kmsapi.ReEncryptRequest{SourceKeyId: ref(f.other), DestinationKeyId: ref(f.arn), CiphertextBlob: f.secret,
			SourceEncryptionAlgorithm: kmsapi.SymmetricDefault, DestinationEncryptionAlgorithm: kmsapi.SymmetricDefault}
	}},
	"GenerateDataKey": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GenerateDataKey.Op, &kmsapi.GenerateDataKeyRequest{KeyId: ref(f.arn), KeySpec: kmsapi.AES256}
	}},
	"GenerateDataKeyWithoutPlaintext": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GenerateDataKeyWithoutPlaintext.Op, &kmsapi.GenerateDataKeyWithoutPlaintextRequest{KeyId: ref(f.arn), KeySpec: kmsapi.AES256}
	}},
	"GenerateDataKeyPair": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GenerateDataKeyPair.Op, &kmsapi.GenerateDataKeyPairRequest{KeyId: ref(f.arn), KeyPairSpec: pairSpec("ECC_NIST_P256")}
	}},
	"GenerateDataKeyPairWithoutPlaintext": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GenerateDataKeyPairWithoutPlaintext.Op, &kmsapi.GenerateDataKeyPairWithoutPlaintextRequest{KeyId: ref(f.arn), KeyPairSpec: pairSpec("ECC_NIST_P256")}
	}},
	"Sign": {signKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.Sign.Op, &kmsapi.SignRequest{KeyId: ref(f.arn), Message: []byte("x"), MessageType: kmsapi.MessageRaw, SigningAlgorithm: kmsapi.ECDSASHA256}
	}},
	"Verify": {signKey, signed, func(f *tried) (*api.Op, any) {
		return kmsapi.Verify.Op, &kmsapi.VerifyRequest{KeyId: ref(f.arn), Message: []byte("x"), MessageType: kmsapi.MessageRaw, Signature: f.secret, SigningAlgorithm: kmsapi.ECDSASHA256}
	}},
	"GetPublicKey": {signKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GetPublicKey.Op, &kmsapi.GetPublicKeyRequest{KeyId: ref(f.arn)}
	}},
	"GenerateMac": {macKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GenerateMac.Op, &kmsapi.GenerateMacRequest{KeyId: ref(f.arn), Message: []byte("x"), MacAlgorithm: kmsapi.HMACSHA256}
	}},
	"VerifyMac": {macKey, coded, func(f *tried) (*api.Op, any) {
		return kmsapi.VerifyMac.Op, &kmsapi.VerifyMacRequest{KeyId: ref(f.arn), Message: []byte("x"), Mac: f.secret, MacAlgorithm: kmsapi.HMACSHA256}
	}},
	"DeriveSharedSecret": {ecdhKey, met, func(f *tried) (*api.Op, any) {
		return kmsapi.DeriveSharedSecret.Op, &kmsapi.DeriveSharedSecretRequest{KeyId: ref(f.arn), KeyAgreementAlgorithm: 1, PublicKey: f.secret}
	}},
	"Encapsulate": {kemKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.Encapsulate.Op, &kmsapi.EncapsulateRequest{KeyId: ref(f.arn), EncapsulationAlgorithm: kmsapi.MLKEM}
	}},
	"Decapsulate": {kemKey, encapsulated, func(f *tried) (*api.Op, any) {
		return kmsapi.Decapsulate.Op, &kmsapi.DecapsulateRequest{KeyId: ref(f.arn), EncapsulationAlgorithm: kmsapi.MLKEM, SharedSecretCiphertextBlob: f.secret}
	}},
	"CreateAlias": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.CreateAlias.Op, &kmsapi.CreateAliasRequest{AliasName: f.name + "3", TargetKeyId: ref(f.arn)}
	}},
	"UpdateAlias to": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.UpdateAlias.Op, &kmsapi.UpdateAliasRequest{AliasName: f.name + "2", TargetKeyId: ref(f.arn)}
	}},
	"UpdateAlias from": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.UpdateAlias.Op, &kmsapi.UpdateAliasRequest{AliasName: f.name, TargetKeyId: ref(f.other)}
	}},
	"DeleteAlias": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.DeleteAlias.Op, &kmsapi.DeleteAliasRequest{AliasName: f.name}
	}},
	"ListAliases": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.ListAliases.Op, &kmsapi.ListAliasesRequest{KeyId: ref(f.arn)}
	}},
	"DescribeKey": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.DescribeKey.Op, &kmsapi.DescribeKeyRequest{KeyId: ref(f.arn)}
	}},
	"ListResourceTags": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.ListResourceTags.Op, &kmsapi.ListResourceTagsRequest{KeyId: ref(f.arn)}
	}},
	"UpdateKeyDescription": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.UpdateKeyDescription.Op, &kmsapi.UpdateKeyDescriptionRequest{KeyId: ref(f.arn), Description: "x"}
	}},
	"TagResource": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.TagResource.Op, &kmsapi.TagResourceRequest{KeyId: ref(f.arn), Tags: tags("a", "1")}
	}},
	"UntagResource": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.UntagResource.Op, &kmsapi.UntagResourceRequest{KeyId: ref(f.arn), TagKeys: []string{"a"}}
	}},
	"EnableKey": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.EnableKey.Op, &kmsapi.EnableKeyRequest{KeyId: ref(f.arn)}
	}},
	"DisableKey": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.DisableKey.Op, &kmsapi.DisableKeyRequest{KeyId: ref(f.arn)}
	}},
	"ScheduleKeyDeletion": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.ScheduleKeyDeletion.Op, &kmsapi.ScheduleKeyDeletionRequest{KeyId: ref(f.arn), PendingWindowInDays: 7}
	}},
	"CancelKeyDeletion": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.CancelKeyDeletion.Op, &kmsapi.CancelKeyDeletionRequest{KeyId: ref(f.arn)}
	}},
	"EnableKeyRotation": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.EnableKeyRotation.Op, &kmsapi.EnableKeyRotationRequest{KeyId: ref(f.arn), RotationPeriodInDays: 90}
	}},
	"DisableKeyRotation": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.DisableKeyRotation.Op, &kmsapi.DisableKeyRotationRequest{KeyId: ref(f.arn)}
	}},
	"GetKeyRotationStatus": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GetKeyRotationStatus.Op, &kmsapi.GetKeyRotationStatusRequest{KeyId: ref(f.arn)}
	}},
	"RotateKeyOnDemand": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.RotateKeyOnDemand.Op, &kmsapi.RotateKeyOnDemandRequest{KeyId: ref(f.arn)}
	}},
	"ListKeyRotations": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.ListKeyRotations.Op, &kmsapi.ListKeyRotationsRequest{KeyId: ref(f.arn), IncludeKeyMaterial: kmsapi.RotationsOnly}
	}},
	"GetKeyLastUsage": {cipherKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.GetKeyLastUsage.Op, &kmsapi.GetKeyLastUsageRequest{KeyId: ref(f.arn)}
	}},
	"GetParametersForImport": {importKey, brought, func(f *tried) (*api.Op, any) {
		return kmsapi.GetParametersForImport.Op, &kmsapi.GetParametersForImportRequest{
			KeyId: ref(f.arn), WrappingAlgorithm: kmsapi.WrapOAEPSHA256, WrappingKeySpec: kmsapi.WrappingRSA2048}
	}},
	"ImportKeyMaterial": {importKey, brought, importsAgain},
	"DeleteImportedKeyMaterial": {importKey, brought, func(f *tried) (*api.Op, any) {
		return kmsapi.DeleteImportedKeyMaterial.Op, &kmsapi.DeleteImportedKeyMaterialRequest{KeyId: ref(f.arn)}
	}},
	"ReplicateKey": {multiKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.ReplicateKey.Op, &kmsapi.ReplicateKeyRequest{KeyId: ref(f.arn), ReplicaRegion: "rack-2"}
	}},
	"UpdatePrimaryRegion": {multiKey, nil, func(f *tried) (*api.Op, any) {
		return kmsapi.UpdatePrimaryRegion.Op, &kmsapi.UpdatePrimaryRegionRequest{KeyId: ref(f.arn), PrimaryRegion: "rack-2"}
	}},
}

// pairSpec returns the spec of a data key pair by AWS's name.
func pairSpec(name string) kmsapi.DataKeyPairSpec {
	return kmsapi.DataKeyPairSpec(kmsapi.DataKeyPairSpec(0).Names().Value(name))
}
