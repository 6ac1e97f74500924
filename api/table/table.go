// Package table is the whole table of operations, gathered from api/kmsapi
// and its siblings. Whoever must know every operation ranges over [All]:
// fronts, the command line, documents, fuzz seeds and the test of the door.
package table

import (
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// All returns every operation, ordered by service and wire number.
func All() []*api.Op {
	return append(kmsapi.Operations(), applianceapi.Operations()...)
}

// Events returns what the appliance does by itself: rows that stand in audit
// records and that nobody can ask for. Their numbers and actions are theirs alone.
func Events() []*api.Op { return kmsapi.Events() }

// Recorded returns every row that an audit record may name.
func Recorded() []*api.Op { return append(All(), Events()...) }

// ByNumber returns the operation or event with a wire number, or nil.
func ByNumber(n uint16) *api.Op {
	for _, op := range Recorded() {
		if op.Number == n {
			return op
		}
	}
	return nil
}

// ByName returns the operation called name of the service called service, or nil.
func ByName(service, name string) *api.Op {
	for _, op := range All() {
		if op.Service.Name == service && op.Name == name {
			return op
		}
	}
	return nil
}
