package kmsapi

import "github.com/keyrack/keyrack/api"

// What AWS calls custom key stores is a token of the customer's, or a proxy before one,
// that keys live in (AWS KMS API Reference). Secrets of requests are never shown.

// CreateCustomKeyStoreRequest asks for a custom key store.
type CreateCustomKeyStoreRequest struct {
	CustomKeyStoreName               string                           `n:"1" rule:"required,len=1:256" audit:"show"`
	CloudHsmClusterId                string                           `n:"2" rule:"len=19:24,like=cluster" audit:"show"`
	TrustAnchorCertificate           string                           `n:"3" rule:"len=1:5000"`
	KeyStorePassword                 string                           `n:"4" rule:"len=7:32"`
	CustomKeyStoreType               CustomKeyStoreType               `n:"5" audit:"show"`
	XksProxyUriEndpoint              string                           `n:"6" rule:"len=10:128,like=xks-endpoint" audit:"show"`
	XksProxyUriPath                  string                           `n:"7" rule:"len=10:128,like=xks-path" audit:"show"`
	XksProxyVpcEndpointServiceName   string                           `n:"8" rule:"len=20:64,like=xks-service" audit:"show"`
	XksProxyVpcEndpointServiceOwner  string                           `n:"9" rule:"len=12:12,like=account" audit:"show"`
	XksProxyAuthenticationCredential XksProxyAuthenticationCredential `n:"10"`
	XksProxyConnectivity             XksProxyConnectivity             `n:"11" audit:"show"`
}

// CreateCustomKeyStoreResponse is the answer to CreateCustomKeyStoreRequest.
type CreateCustomKeyStoreResponse struct {
	CustomKeyStoreId string `n:"1"`
}

// XksProxyAuthenticationCredential is what a proxy knows the appliance by (AWS KMS API
// Reference, XksProxyAuthenticationCredentialType).
type XksProxyAuthenticationCredential struct {
	AccessKeyId        string `n:"1" rule:"required,len=20:30,like=xks-id"`
	RawSecretAccessKey string `n:"2" rule:"required,len=43:64,like=xks-secret"`
}

// UpdateCustomKeyStoreRequest asks for a custom key store to be changed.
type UpdateCustomKeyStoreRequest struct {
	CustomKeyStoreId                 string                           `n:"1" rule:"required,len=1:64" audit:"show"`
	NewCustomKeyStoreName            string                           `n:"2" rule:"len=1:256" audit:"show"`
	KeyStorePassword                 string                           `n:"3" rule:"len=7:32"`
	CloudHsmClusterId                string                           `n:"4" rule:"len=19:24,like=cluster" audit:"show"`
	XksProxyUriEndpoint              string                           `n:"5" rule:"len=10:128,like=xks-endpoint" audit:"show"`
	XksProxyUriPath                  string                           `n:"6" rule:"len=10:128,like=xks-path" audit:"show"`
	XksProxyVpcEndpointServiceName   string                           `n:"7" rule:"len=20:64,like=xks-service" audit:"show"`
	XksProxyVpcEndpointServiceOwner  string                           `n:"8" rule:"len=12:12,like=account" audit:"show"`
	XksProxyAuthenticationCredential XksProxyAuthenticationCredential `n:"9"`
	XksProxyConnectivity             XksProxyConnectivity             `n:"10" audit:"show"`
}

// UpdateCustomKeyStoreResponse is the answer to UpdateCustomKeyStoreRequest. It has no members.
type UpdateCustomKeyStoreResponse struct{}

// DeleteCustomKeyStoreRequest asks for a custom key store to be deleted.
type DeleteCustomKeyStoreRequest struct {
	CustomKeyStoreId string `n:"1" rule:"required,len=1:64" audit:"show"`
}

// DeleteCustomKeyStoreResponse is the answer to DeleteCustomKeyStoreRequest. It has no members.
type DeleteCustomKeyStoreResponse struct{}

// ConnectCustomKeyStoreRequest asks for a custom key store to be connected.
type ConnectCustomKeyStoreRequest struct {
	CustomKeyStoreId string `n:"1" rule:"required,len=1:64" audit:"show"`
}

// ConnectCustomKeyStoreResponse is the answer to ConnectCustomKeyStoreRequest. It has no members.
type ConnectCustomKeyStoreResponse struct{}

// DisconnectCustomKeyStoreRequest asks for a custom key store to be disconnected.
type DisconnectCustomKeyStoreRequest struct {
	CustomKeyStoreId string `n:"1" rule:"required,len=1:64" audit:"show"`
}

// DisconnectCustomKeyStoreResponse is the answer to DisconnectCustomKeyStoreRequest. It has no members.
type DisconnectCustomKeyStoreResponse struct{}

// DescribeCustomKeyStoresRequest asks for the custom key stores, or for one of them.
type DescribeCustomKeyStoresRequest struct {
	CustomKeyStoreId   string `n:"1" rule:"len=1:64" audit:"show"`
	CustomKeyStoreName string `n:"2" rule:"len=1:256" audit:"show"`
	Limit              int64  `n:"3" rule:"range=1:1000"`           // absent = 100
	Marker             string `n:"4" rule:"len=1:1024,like=marker"` // NextMarker of the page before
}

// Check refuses two names of one store.
func (r *DescribeCustomKeyStoresRequest) Check() error {
	if r.CustomKeyStoreId != "" && r.CustomKeyStoreName != "" {
		return api.Errorf(api.KindValidation, "CustomKeyStoreId and CustomKeyStoreName cannot both be given")
	}
	return nil
}

// DescribeCustomKeyStoresResponse is a page of custom key stores. There are none.
type DescribeCustomKeyStoresResponse struct {
	CustomKeyStores []CustomKeyStoresListEntry `n:"1" rule:"always"`
	NextMarker      string                     `n:"2"`
	Truncated       bool                       `n:"3" rule:"always"`
}

// CustomKeyStoresListEntry is a custom key store (AWS KMS API Reference,
// CustomKeyStoresListEntry).
type CustomKeyStoresListEntry struct {
	CustomKeyStoreId   string             `n:"1"`
	CustomKeyStoreName string             `n:"2"`
	CustomKeyStoreType CustomKeyStoreType `n:"3"`
	CreationDate       api.Time           `n:"4"`
}

// CustomKeyStoreType is what a custom key store is (CustomKeyStoreType).
type CustomKeyStoreType uint8

var customKeyStoreTypes = api.Names{"AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"}

// Names returns the closed list.
func (CustomKeyStoreType) Names() api.Names { return customKeyStoreTypes }

// String returns AWS's name.
func (t CustomKeyStoreType) String() string { return customKeyStoreTypes.Name(uint8(t)) }

// XksProxyConnectivity is how a proxy is reached (XksProxyConnectivityType).
type XksProxyConnectivity uint8

var xksProxyConnectivitys = api.Names{"PUBLIC_ENDPOINT", "VPC_ENDPOINT_SERVICE"}

// Names returns the closed list.
func (XksProxyConnectivity) Names() api.Names { return xksProxyConnectivitys }

// String returns AWS's name.
func (c XksProxyConnectivity) String() string { return xksProxyConnectivitys.Name(uint8(c)) }
