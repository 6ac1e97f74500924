package kmsapi

import "github.com/keyrack/keyrack/api"

// EnableKeyRotationRequest asks that a key get new material every 90 to 2560 days, 365
// if absent (AWS KMS API Reference, EnableKeyRotation).
type EnableKeyRotationRequest struct {
	KeyId                api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	RotationPeriodInDays int64      `n:"2" rule:"range=90:2560" audit:"show" cond:"kms:RotationPeriodInDays"`
}

// EnableKeyRotationResponse is the answer to EnableKeyRotationRequest. It has no members.
type EnableKeyRotationResponse struct{}

// DisableKeyRotationRequest asks that a key keep its material until it is rotated on
// demand (AWS KMS API Reference, DisableKeyRotation).
type DisableKeyRotationRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// DisableKeyRotationResponse is the answer to DisableKeyRotationRequest. It has no members.
type DisableKeyRotationResponse struct{}

// GetKeyRotationStatusRequest asks whether and when a key is rotated (AWS KMS API
// Reference, GetKeyRotationStatus).
type GetKeyRotationStatusRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// GetKeyRotationStatusResponse is the answer to GetKeyRotationStatusRequest. KeyId is the
// key's ARN. OnDemandRotationStartDate is there only while such a rotation is under way.
type GetKeyRotationStatusResponse struct {
	KeyRotationEnabled        bool     `n:"1" rule:"always"`
	KeyId                     string   `n:"2"`
	RotationPeriodInDays      int64    `n:"3"`
	NextRotationDate          api.Time `n:"4"`
	OnDemandRotationStartDate api.Time `n:"5"`
}

// RotateKeyOnDemandRequest asks for new material now (AWS KMS API Reference,
// RotateKeyOnDemand).
type RotateKeyOnDemandRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// RotateKeyOnDemandResponse is the answer to RotateKeyOnDemandRequest. KeyId is the key's ARN.
// The record alone has the ids, of 64 hex digits, of the material that is current now and of the one before it.
type RotateKeyOnDemandResponse struct {
	KeyId              string `n:"1"`
	KeyMaterialId      string `n:"2" audit:"only"`
	PreviousMaterialId string `n:"3" audit:"only"`
}

// ListKeyRotationsRequest asks for the materials that a key has had, a page at a time
// (AWS KMS API Reference, ListKeyRotations).
type ListKeyRotationsRequest struct {
	KeyId              api.KeyRef         `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	IncludeKeyMaterial IncludeKeyMaterial `n:"2" audit:"show" default:"ROTATIONS_ONLY"`
	Limit              int64              `n:"3" rule:"range=1:1000"`           // absent = 100
	Marker             string             `n:"4" rule:"len=1:1024,like=marker"` // NextMarker of the page before
}

// ListKeyRotationsResponse is a page, the oldest first. NextMarker is there only if it
// is Truncated.
type ListKeyRotationsResponse struct {
	Rotations  []RotationsListEntry `n:"1"`
	NextMarker string               `n:"2"`
	Truncated  bool                 `n:"3" rule:"always"`
}

// RotationsListEntry is one material of a key (AWS KMS API Reference,
// RotationsListEntry). KeyId is the key's ARN, KeyMaterialId 64 hex digits. RotationDate
// and RotationType are absent for a first or pending material; what only imported
// material has is absent for others.
type RotationsListEntry struct {
	KeyId                  string           `n:"1"`
	KeyMaterialId          string           `n:"2"`
	KeyMaterialDescription string           `n:"3"`
	ImportState            ImportState      `n:"4"`
	KeyMaterialState       KeyMaterialState `n:"5"`
	ExpirationModel        ExpirationModel  `n:"6"`
	ValidTo                api.Time         `n:"7"`
	RotationDate           api.Time         `n:"8"`
	RotationType           RotationType     `n:"9"`
}
