package kmsapi

import "github.com/keyrack/keyrack/api"

// CreateKeyRequest asks for a new key (AWS KMS API Reference, CreateKey).
type CreateKeyRequest struct {
	Policy                         string    `n:"1" rule:"len=1:131072,like=policy"`
	Description                    string    `n:"2" rule:"len=0:8192" audit:"show"`
	KeyUsage                       KeyUsage  `n:"3" audit:"show" cond:"kms:KeyUsage"`
	CustomerMasterKeySpec          KeySpec   `n:"4" audit:"show"`
	KeySpec                        KeySpec   `n:"5" audit:"show" cond:"kms:KeySpec"`
	Origin                         KeyOrigin `n:"6" audit:"show" cond:"kms:KeyOrigin" default:"AWS_KMS"`
	CustomKeyStoreId               string    `n:"7" rule:"len=1:64" audit:"show"`
	BypassPolicyLockoutSafetyCheck bool      `n:"8" audit:"show" cond:"kms:BypassPolicyLockoutSafetyCheck"`
	Tags                           []Tag     `n:"9" rule:"items=0:100" audit:"show"` // more than 50 are TagException
	MultiRegion                    bool      `n:"10" audit:"show" cond:"kms:MultiRegion"`
	XksKeyId                       string    `n:"11" rule:"len=1:128,like=xks-key" audit:"show"`
}

// Check refuses the deprecated twin beside the member that replaced it.
func (r *CreateKeyRequest) Check() error {
	if r.KeySpec != 0 && r.CustomerMasterKeySpec != 0 {
		return api.Errorf(api.KindValidation, "KeySpec and CustomerMasterKeySpec cannot both be given: CustomerMasterKeySpec is the deprecated name of KeySpec")
	}
	return nil
}

// CreateKeyResponse is the answer to CreateKeyRequest.
type CreateKeyResponse struct {
	KeyMetadata KeyMetadata `n:"1" audit:"show"`
}

// KeyMetadata describes a key (AWS KMS API Reference, KeyMetadata). KeyId is
// the bare id, Arn the whole ARN; CurrentKeyMaterialId is 64 hex digits, and only
// symmetric encryption keys have it. Of the lists of algorithms there is the one of the key's usage.
// DeletionDate is there while the key is PendingDeletion, ExpirationModel and ValidTo for imported material, PendingDeletionWindowInDays never:
// only keys with replicas have it.
type KeyMetadata struct {
	AWSAccountId                string                   `n:"1"`
	KeyId                       string                   `n:"2" audit:"show"`
	Arn                         string                   `n:"3"`
	CreationDate                api.Time                 `n:"4"`
	Enabled                     bool                     `n:"5" rule:"always"`
	Description                 string                   `n:"6" rule:"always"`
	KeyUsage                    KeyUsage                 `n:"7"`
	KeyState                    KeyState                 `n:"8"`
	Origin                      KeyOrigin                `n:"9"`
	KeyManager                  KeyManager               `n:"10"`
	CustomerMasterKeySpec       KeySpec                  `n:"11"`
	KeySpec                     KeySpec                  `n:"12"`
	EncryptionAlgorithms        []EncryptionAlgorithm    `n:"13"`
	MultiRegion                 bool                     `n:"14" rule:"always"`
	CurrentKeyMaterialId        string                   `n:"15" audit:"show"`
	MacAlgorithms               []MacAlgorithm           `n:"16"`
	SigningAlgorithms           []SigningAlgorithm       `n:"17"`
	KeyAgreementAlgorithms      []KeyAgreementAlgorithm  `n:"18"`
	DeletionDate                api.Time                 `n:"19"`
	ValidTo                     api.Time                 `n:"20"`
	ExpirationModel             ExpirationModel          `n:"21"`
	EncapsulationAlgorithms     []EncapsulationAlgorithm `n:"22"`
	MultiRegionConfiguration    MultiRegionConfiguration `n:"23"`
	PendingDeletionWindowInDays int64                    `n:"24"`
}
