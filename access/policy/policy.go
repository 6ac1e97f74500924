// Package policy decides: may this principal do this to that resource?
//
// Read first: [Rules], an immutable compiled policy; [Query], what is asked;
// [Parse], which refuses every document it cannot honour in full.
//
// The language it understands is AWS's default key policy and nothing more:
// the account's root may do everything in its account. It reads no store and
// no clock.
package policy

import (
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/jsonwire"
)

// Query is one question.
type Query struct {
	Action   string // "kms:Encrypt"
	Account  api.AccountID
	Root     bool // the caller is the root of Account
	Operator bool // the caller is the local operator
}

// Decision is the answer.
type Decision uint8

// The decisions. Nothing but Allow allows.
const (
	Deny Decision = iota
	Allow
)

// Rules is a compiled policy. Immutable; replaced as a whole when the document
// changes, and with it whatever was computed from it. Safe for concurrent use.
type Rules struct {
	root     api.AccountID // whose root is allowed everything
	operator bool          // the operator is allowed everything
	everyone bool          // the operator and every root are allowed everything
}

// Decide answers q. A nil Rules denies.
func (r *Rules) Decide(q *Query) Decision {
	switch {
	case r == nil:
		return Deny
	case q.Operator && (r.operator || r.everyone), q.Root && r.everyone:
		return Allow
	case q.Root && r.root != (api.AccountID{}) && q.Account == r.root:
		return Allow
	}
	return Deny
}

// AccountRoot returns the rules of AWS's default key policy in an account: its
// root may do everything (AWS KMS developer guide, "Default key policy").
func AccountRoot(a api.AccountID) *Rules { return &Rules{root: a} }

// OperatorOnly returns the rules of the appliance itself: nobody but the
// local operator.
func OperatorOnly() *Rules { return &Rules{operator: true} }

// Everyone returns the rules of what every principal may know, whatever its
// account: that the audit log only grows.
func Everyone() *Rules { return &Rules{everyone: true} }

// document is a policy document; statement one of its statements. Names are
// matched exactly, unknown and doubled members are refused by jsonwire.
type document struct {
	Version   string
	Id        string
	Statement []statement
}

type statement struct {
	Sid       string
	Effect    string
	Principal struct{ AWS string }
	Action    string
	Resource  string
}

// ErrTooLarge is wrapped by [Parse] for a document beyond api.MaxKeyPolicy.
var ErrTooLarge = errors.New("policy is too large")

// ErrUnsupported is wrapped by [Parse] for a document that is well formed and
// says something that the rules here cannot honour.
var ErrUnsupported = errors.New("only the default key policy is supported")

// Parse compiles the JSON text of a key policy of account in a partition. It
// accepts the default key policy and nothing else, whatever its Id and Sid.
func Parse(text []byte, partition string, account api.AccountID) (*Rules, error) {
	if len(text) > api.MaxKeyPolicy {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrTooLarge, len(text), api.MaxKeyPolicy)
	}
	var d document
	if err := jsonwire.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	want := statement{Effect: "Allow", Action: "kms:*", Resource: "*"}
	want.Principal.AWS = api.Realm{Partition: partition}.RootARN(account)
	if d.Version != "2012-10-17" || len(d.Statement) != 1 {
		return nil, fmt.Errorf("%w: want Version 2012-10-17 and one statement", ErrUnsupported)
	}
	if want.Sid = d.Statement[0].Sid; d.Statement[0] != want {
		return nil, fmt.Errorf("%w: want Allow kms:* on * for %s", ErrUnsupported, want.Principal.AWS)
	}
	return AccountRoot(account), nil
}
