package applianceapi

import "github.com/keyrack/keyrack/api"

// Principal is somebody who may call: a client, known by its key, that is the
// root of an account.
type Principal struct {
	Name         string   `n:"1" audit:"show"` // unique in the appliance
	Account      string   `n:"2" audit:"show"` // 12 digits
	KeyHash      string   `n:"3" audit:"show"` // sha256:<64 hex digits> of the client's public key
	Arn          string   `n:"4" audit:"show"` // arn:<partition>:iam::<account>:root
	CreationDate api.Time `n:"5"`
}

// AddPrincipalRequest registers a client's key as the root of an account. Name
// is of letters, digits and +=,.@_- (AWS IAM, "IAM identifiers"); KeyHash is the
// SHA-256 of the key's DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), written as
// sha256: and 64 lower-case hex digits. An account begins with its first client.
type AddPrincipalRequest struct {
	Name    string `n:"1" rule:"required,len=1:64" audit:"show"`
	Account string `n:"2" rule:"required,len=12:12" audit:"show"`
	KeyHash string `n:"3" rule:"required,len=71:71" audit:"show"`
}

// AddPrincipalResponse holds the new principal. It may call from then on.
type AddPrincipalResponse struct {
	Principal Principal `n:"1"`
}

// ListPrincipalsRequest asks for principals in the byte order of their names:
// those behind Marker, which is a NextMarker or empty.
type ListPrincipalsRequest struct {
	Limit  int64  `n:"1" rule:"range=0:1000" audit:"show"` // 0 = 100
	Marker string `n:"2" rule:"len=0:64" audit:"show"`
}

// ListPrincipalsResponse holds a page of principals. NextMarker is absent on the last.
type ListPrincipalsResponse struct {
	Principals []Principal `n:"1"`
	NextMarker string      `n:"2"`
}

// RemovePrincipalRequest takes from a client's key the right to call.
type RemovePrincipalRequest struct {
	Name string `n:"1" rule:"required,len=1:64" audit:"show"`
}

// RemovePrincipalResponse says who was removed. The next request of each of its
// open connections is refused.
type RemovePrincipalResponse struct {
	Principal Principal `n:"1" audit:"show"`
}
