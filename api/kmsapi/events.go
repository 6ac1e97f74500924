package kmsapi

import "github.com/keyrack/keyrack/api"

// What the appliance does to keys by itself when the time for it has come: AWS's
// service events. They are rows of the table so that audit records can name them; nobody
// can ask for one, so they have no request, and none is among [Operations]. Their
// response is what the record shows.
var (
	RotateKey                = api.Define[struct{}, RotateKeyEvent](api.KMS, "RotateKey", 240, 0)
	DeleteKey                = api.Define[struct{}, DeleteKeyEvent](api.KMS, "DeleteKey", 241, 0)
	DeleteExpiredKeyMaterial = api.Define[struct{}, DeleteExpiredKeyMaterialEvent](api.KMS, "DeleteExpiredKeyMaterial", 242, 0)
)

// Events returns the rows of service events.
func Events() []*api.Op {
	return []*api.Op{RotateKey.Op, DeleteKey.Op, DeleteExpiredKeyMaterial.Op}
}

// RotateKeyEvent says that a key got another current material.
type RotateKeyEvent struct {
	KeyId              string `n:"1" audit:"show"` // bare id
	RotationType       string `n:"2" audit:"show"` // AUTOMATIC or ON_DEMAND
	KeyMaterialId      string `n:"3" audit:"show"` // 64 hex digits, of the new one
	PreviousMaterialId string `n:"4" audit:"show"`
}

// DeleteKeyEvent says that a key and its materials are destroyed.
type DeleteKeyEvent struct {
	KeyId          string   `n:"1" audit:"show"` // bare id
	KeyMaterialIds []string `n:"2" audit:"show"` // 64 hex digits each, the newest last, at most 100
	Materials      int64    `n:"3" audit:"show"` // how many there were
	ScheduledBy    string   `n:"4" audit:"show"` // ARN of who asked for the deletion
	ScheduledDate  api.Time `n:"5" audit:"show"` // when
	DeletionDate   api.Time `n:"6" audit:"show"` // the date that was promised
	Aliases        int64    `n:"7" audit:"show"` // aliases that went with it
}

// DeleteExpiredKeyMaterialEvent says that imported material is destroyed because its time was over.
type DeleteExpiredKeyMaterialEvent struct {
	KeyId         string   `n:"1" audit:"show"` // bare id
	KeyMaterialId string   `n:"2" audit:"show"` // 64 hex digits
	ValidTo       api.Time `n:"3" audit:"show"`
}
