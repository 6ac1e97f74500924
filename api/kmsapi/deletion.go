package kmsapi

import "github.com/keyrack/keyrack/api"

// ScheduleKeyDeletionRequest asks that a key be destroyed after a window of 7 to 30
// days, 30 if absent (AWS KMS API Reference, ScheduleKeyDeletion, whose model allows 1
// to 365).
type ScheduleKeyDeletionRequest struct {
	KeyId               api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
	PendingWindowInDays int64      `n:"2" rule:"range=1:365" audit:"show" cond:"kms:ScheduleKeyDeletionPendingWindowInDays"`
}

// ScheduleKeyDeletionResponse is the answer to ScheduleKeyDeletionRequest. KeyId is the
// key's ARN; it is destroyed after DeletionDate.
type ScheduleKeyDeletionResponse struct {
	KeyId               string   `n:"1" audit:"show"`
	DeletionDate        api.Time `n:"2" audit:"show"`
	KeyState            KeyState `n:"3"`
	PendingWindowInDays int64    `n:"4"`
}

// CancelKeyDeletionRequest asks that a key be kept: it is Disabled then (AWS KMS API
// Reference, CancelKeyDeletion).
type CancelKeyDeletionRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// CancelKeyDeletionResponse is the answer to CancelKeyDeletionRequest. KeyId is the key's ARN.
type CancelKeyDeletionResponse struct {
	KeyId string `n:"1"`
}
