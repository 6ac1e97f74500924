package api_test

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
)

// unhex decodes hex digits with spaces between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newOf returns a pointer to a zero value of the request or response that s is
// the table of.
func newOf(s *api.Struct) any {
	for _, op := range table.All() {
		switch s {
		case op.In:
			return op.NewIn()
		case op.Out:
			return op.NewOut()
		}
	}
	panic("no operation has the structure " + s.Name)
}

// messages ranges over every request and response of the table.
func messages(yield func(s *api.Struct, v any) bool) {
	for _, op := range table.All() {
		if !yield(op.In, op.NewIn()) || !yield(op.Out, op.NewOut()) {
			return
		}
	}
}

// fresh returns a pointer to a zero value of what v points to.
func fresh(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

// isRequest reports whether s is the table of a request.
func isRequest(s *api.Struct) bool {
	for _, op := range table.All() {
		if op.In == s {
			return true
		}
	}
	return false
}
