package kmsapi

import "github.com/keyrack/keyrack/api"

// The actions of ReEncrypt, which has none of its own name: the first is asked
// for on the key that decrypts, the second on the one that encrypts.
var (
	ReEncryptFrom = &api.Op{Service: api.KMS, Name: "ReEncryptFrom", Action: "kms:ReEncryptFrom"}
	ReEncryptTo   = &api.Op{Service: api.KMS, Name: "ReEncryptTo", Action: "kms:ReEncryptTo"}
)

// ReEncryptRequest asks for a ciphertext to be decrypted and its plaintext to be
// encrypted anew without leaving the appliance, under another key, material or
// context (AWS KMS API Reference, ReEncrypt). SourceKeyId is optional: a
// ciphertext names its key. CiphertextBlob may be absent only in a dry run with
// the modifier IGNORE_CIPHERTEXT, and then SourceKeyId is required.
type ReEncryptRequest struct {
	CiphertextBlob                 api.Blob              `n:"1" rule:"len=1:6144"`
	SourceEncryptionContext        api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	SourceKeyId                    api.KeyRef            `n:"3" rule:"len=1:2048" audit:"show"`
	DestinationKeyId               api.KeyRef            `n:"4" rule:"required,len=1:2048" audit:"show"`
	DestinationEncryptionContext   api.EncryptionContext `n:"5" audit:"show" cond:"kms:EncryptionContext"`
	SourceEncryptionAlgorithm      EncryptionAlgorithm   `n:"6" audit:"show" cond:"kms:EncryptionAlgorithm" default:"SYMMETRIC_DEFAULT"`
	DestinationEncryptionAlgorithm EncryptionAlgorithm   `n:"7" audit:"show" cond:"kms:EncryptionAlgorithm" default:"SYMMETRIC_DEFAULT"`
	GrantTokens                    []string              `n:"8" rule:"items=0:10,each=1:8192"`
	DryRun                         bool                  `n:"9" audit:"show"`
	DryRunModifiers                []DryRunModifier      `n:"10" rule:"items=0:1" audit:"show"`
}

// Check holds the rules that span members: what may stand in for a ciphertext, and
// which ciphertexts name no key.
func (r *ReEncryptRequest) Check() error {
	if err := keyOfAsymmetric(r.SourceEncryptionAlgorithm, "SourceKeyId", &r.SourceKeyId); err != nil {
		return err
	}
	return ciphertextOrModifier(r.CiphertextBlob, r.DryRun, r.DryRunModifiers, "SourceKeyId", &r.SourceKeyId)
}

// ReEncryptResponse is the answer to ReEncryptRequest. SourceKeyId and KeyId are
// the ARNs of the key that decrypted and of the one that encrypted; the material
// ids are 64 hex digits. CiphertextBlob is as long as the one that was sent.
type ReEncryptResponse struct {
	CiphertextBlob                 api.Blob            `n:"1"`
	SourceKeyId                    string              `n:"2"`
	KeyId                          string              `n:"3"`
	SourceEncryptionAlgorithm      EncryptionAlgorithm `n:"4"`
	DestinationEncryptionAlgorithm EncryptionAlgorithm `n:"5"`
	SourceKeyMaterialId            string              `n:"6"`
	DestinationKeyMaterialId       string              `n:"7"`
}
