package kmsapi

import "github.com/keyrack/keyrack/api"

// GetParametersForImportRequest asks for a public key to encrypt material with, and the
// token that is sent with it (AWS KMS API Reference, GetParametersForImport).
type GetParametersForImportRequest struct {
	KeyId             api.KeyRef        `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	WrappingAlgorithm WrappingAlgorithm `n:"2" rule:"required" audit:"show" cond:"kms:WrappingAlgorithm"`
	WrappingKeySpec   WrappingKeySpec   `n:"3" rule:"required" audit:"show" cond:"kms:WrappingKeySpec"`
}

// GetParametersForImportResponse is the answer to GetParametersForImportRequest: a pair
// that is good for one import until ParametersValidTo, in 24 hours. PublicKey is a DER
// SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7), KeyId the key's ARN.
type GetParametersForImportResponse struct {
	KeyId             string   `n:"1"`
	ImportToken       api.Blob `n:"2"`
	PublicKey         api.Blob `n:"3"`
	ParametersValidTo api.Time `n:"4"`
}

// ImportKeyMaterialRequest brings material for a key of origin EXTERNAL, encrypted for
// an import token (AWS KMS API Reference, ImportKeyMaterial). ValidTo is required
// exactly when the material expires, which is the model if ExpirationModel is absent.
type ImportKeyMaterialRequest struct {
	KeyId                  api.KeyRef      `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	ImportToken            api.Blob        `n:"2" rule:"required,len=1:6144"`
	EncryptedKeyMaterial   api.Blob        `n:"3" rule:"required,len=1:6144"`
	ValidTo                api.Time        `n:"4" audit:"show" cond:"kms:ValidTo"`
	ExpirationModel        ExpirationModel `n:"5" audit:"show" cond:"kms:ExpirationModel" default:"KEY_MATERIAL_EXPIRES"`
	ImportType             ImportType      `n:"6" audit:"show"`
	KeyMaterialDescription string          `n:"7" rule:"len=0:256,like=label" audit:"show"`
	KeyMaterialId          string          `n:"8" rule:"len=64:64,like=hex" audit:"show"`
}

// Check refuses members that contradict each other.
func (r *ImportKeyMaterialRequest) Check() error {
	switch {
	case r.ExpirationModel == MaterialDoesNotExpire && r.ValidTo != 0:
		return api.Errorf(api.KindValidation, "ValidTo must not be given with ExpirationModel KEY_MATERIAL_DOES_NOT_EXPIRE")
	case r.ExpirationModel != MaterialDoesNotExpire && r.ValidTo == 0:
		return api.Errorf(api.KindValidation, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
	case r.ImportType == NewKeyMaterial && r.KeyMaterialId != "":
		return api.Errorf(api.KindValidation, "KeyMaterialId must not be given with ImportType NEW_KEY_MATERIAL: the key material gives it")
	}
	return nil
}

// ImportKeyMaterialResponse is the answer to ImportKeyMaterialRequest. KeyId is the key's
// ARN; KeyMaterialId, 64 hex digits, is there for symmetric encryption keys.
type ImportKeyMaterialResponse struct {
	KeyId         string `n:"1"`
	KeyMaterialId string `n:"2" audit:"show"`
}

// DeleteImportedKeyMaterialRequest asks that imported material be destroyed: the current
// one if KeyMaterialId is absent (AWS KMS API Reference, DeleteImportedKeyMaterial).
type DeleteImportedKeyMaterialRequest struct {
	KeyId         api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	KeyMaterialId string     `n:"2" rule:"len=64:64,like=hex" audit:"show"`
}

// DeleteImportedKeyMaterialResponse is the answer to DeleteImportedKeyMaterialRequest.
// KeyId is the key's ARN; KeyMaterialId, 64 hex digits, is there for symmetric encryption keys.
type DeleteImportedKeyMaterialResponse struct {
	KeyId         string `n:"1"`
	KeyMaterialId string `n:"2" audit:"show"`
}
