// Package kmsapi is the vocabulary of AWS KMS, API version 2014-11-01, as far
// as this appliance speaks it: the rows of the table of operations, and their
// requests and responses.
//
// Read first: [Operations]; [EncryptRequest] for what the tags say; package
// service/kms for the methods behind the rows.
//
// Names, limits and meanings are AWS's (AWS KMS API Reference). A member that
// AWS has and this appliance does not act on is listed all the same, so that a
// caller who sends it is refused and never ignored.
package kmsapi

import "github.com/keyrack/keyrack/api"

// A row, a request, a response, a method: that is an operation.
var (
	CreateKey = api.Define[CreateKeyRequest, CreateKeyResponse](api.KMS, "CreateKey", 1, 0)
	Encrypt   = api.Define[EncryptRequest, EncryptResponse](api.KMS, "Encrypt", 2, api.ReadOnly|api.Idempotent)
	Decrypt   = api.Define[DecryptRequest, DecryptResponse](api.KMS, "Decrypt", 3, api.ReadOnly|api.Idempotent)
)

// Operations returns the rows of this package.
func Operations() []*api.Op { return []*api.Op{CreateKey.Op, Encrypt.Op, Decrypt.Op} }
