package kmsapi

import "github.com/keyrack/keyrack/api"

// GetKeyLastUsageRequest asks when a key was last used (AWS KMS API Reference,
// GetKeyLastUsage).
type GetKeyLastUsageRequest struct {
	KeyId api.KeyRef `n:"1" rule:"required,len=1:2048,key" audit:"show"`
}

// GetKeyLastUsageResponse is the answer to GetKeyLastUsageRequest. KeyLastUsage is absent
// where nothing was done with the key since TrackingStartDate. KeyId is the key's ARN.
// UsageCounts, which AWS has not, says how often each operation succeeded since then.
type GetKeyLastUsageResponse struct {
	KeyId             string           `n:"1"`
	KeyLastUsage      KeyLastUsageData `n:"2"`
	TrackingStartDate api.Time         `n:"3"`
	KeyCreationDate   api.Time         `n:"4"`
	UsageCounts       []UsageCount     `n:"5"`
}

// UsageCount is how often an operation succeeded with a key.
type UsageCount struct {
	Operation UsageOperation `n:"1"`
	Count     int64          `n:"2"`
}

// KeyLastUsageData is the last successful use of a key (AWS KMS API Reference,
// KeyLastUsageData). Both ids are that of the audit record's event, in the form of a UUID.
type KeyLastUsageData struct {
	Operation         UsageOperation `n:"1"`
	Timestamp         api.Time       `n:"2"`
	CloudTrailEventId string         `n:"3"`
	KmsRequestId      string         `n:"4"`
}
