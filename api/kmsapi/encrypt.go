package kmsapi

import "github.com/keyrack/keyrack/api"

// EncryptRequest asks for at most 4096 bytes to be encrypted under a key
// (AWS KMS API Reference, Encrypt).
type EncryptRequest struct {
	KeyId               api.KeyRef            `n:"1" rule:"required,len=1:2048" audit:"show"`
	Plaintext           api.Secret            `n:"2" rule:"required,len=1:4096"`
	EncryptionContext   api.EncryptionContext `n:"3" audit:"show" cond:"kms:EncryptionContext"`
	GrantTokens         []string              `n:"4" rule:"items=0:10,each=1:8192"`
	EncryptionAlgorithm EncryptionAlgorithm   `n:"5" audit:"show" cond:"kms:EncryptionAlgorithm" default:"SYMMETRIC_DEFAULT"`
	DryRun              bool                  `n:"6" audit:"show"`
}

// EncryptResponse is the answer to EncryptRequest. KeyId is the key's ARN in
// whatever form it was asked for. CiphertextBlob is 105 bytes longer than the
// plaintext (protocol/PROTOCOL.md, "Ciphertext").
type EncryptResponse struct {
	CiphertextBlob      api.Blob            `n:"1"`
	KeyId               string              `n:"2"`
	EncryptionAlgorithm EncryptionAlgorithm `n:"3"`
}

// DecryptRequest asks for the plaintext of what Encrypt answered, given the
// same encryption context (AWS KMS API Reference, Decrypt). KeyId is optional:
// a ciphertext names its key. CiphertextBlob may be absent only in a dry run
// with the modifier IGNORE_CIPHERTEXT, and then KeyId is required.
type DecryptRequest struct {
	CiphertextBlob      api.Blob              `n:"1" rule:"len=1:6144"`
	EncryptionContext   api.EncryptionContext `n:"2" audit:"show" cond:"kms:EncryptionContext"`
	GrantTokens         []string              `n:"3" rule:"items=0:10,each=1:8192"`
	KeyId               api.KeyRef            `n:"4" rule:"len=1:2048" audit:"show"`
	EncryptionAlgorithm EncryptionAlgorithm   `n:"5" audit:"show" cond:"kms:EncryptionAlgorithm" default:"SYMMETRIC_DEFAULT"`
	Recipient           RecipientInfo         `n:"6"`
	DryRun              bool                  `n:"7" audit:"show"`
	DryRunModifiers     []DryRunModifier      `n:"8" rule:"items=0:1" audit:"show"`
}

// Check holds the rules that span members: what may stand in for a ciphertext, and
// which ciphertexts name no key.
func (r *DecryptRequest) Check() error {
	if err := keyOfAsymmetric(r.EncryptionAlgorithm, "KeyId", &r.KeyId); err != nil {
		return err
	}
	return ciphertextOrModifier(r.CiphertextBlob, r.DryRun, r.DryRunModifiers, "KeyId", &r.KeyId)
}

// keyOfAsymmetric refuses a request that does not say by the member called name which
// asymmetric key is meant: a ciphertext of one does not.
func keyOfAsymmetric(a EncryptionAlgorithm, name string, key *api.KeyRef) error {
	if a == SymmetricDefault || key.Form != api.RefAbsent {
		return nil
	}
	return api.Errorf(api.KindValidation, "%s is required with algorithm %s: a ciphertext of an asymmetric key does not name its key.", name, a)
}

// ciphertextOrModifier refuses a request without a ciphertext unless it is a dry
// run that looks at none; then the member called name must say which key is meant.
func ciphertextOrModifier(blob api.Blob, dryRun bool, modifiers []DryRunModifier, name string, key *api.KeyRef) error {
	switch {
	case len(modifiers) == 0 && blob == nil:
		return api.Errorf(api.KindValidation, "1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null")
	case len(modifiers) == 0:
		return nil
	case !dryRun:
		return api.Errorf(api.KindValidation, "DryRunModifiers are allowed only with DryRun")
	case key.Form == api.RefAbsent:
		return api.Errorf(api.KindValidation, "%s is required with the modifier IGNORE_CIPHERTEXT", name)
	}
	return nil
}

// DecryptResponse is the answer to DecryptRequest. KeyId is the key's ARN;
// KeyMaterialId says which material of the key was used, 64 hex digits.
type DecryptResponse struct {
	KeyId               string              `n:"1"`
	Plaintext           api.Secret          `n:"2"`
	EncryptionAlgorithm EncryptionAlgorithm `n:"3"`
	KeyMaterialId       string              `n:"4"`
}

// RecipientInfo asks for the answer to be encrypted for an attested recipient.
// No operation of this appliance does so: whoever sends it is refused. The
// document is required, which AWS does not say, because an empty structure could
// not be told from an absent one and would be ignored.
type RecipientInfo struct {
	KeyEncryptionAlgorithm string   `n:"1"`
	AttestationDocument    api.Blob `n:"2" rule:"required,len=1:262144"`
}
