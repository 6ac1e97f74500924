package api_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/fuzz"
	"github.com/keyrack/keyrack/internal/cbor"
)

// TestAuditShowsTaggedMembersOnly clears every member without the tag in random
// values: the audit selection must not change, and must be all that is left.
func TestAuditShowsTaggedMembersOnly(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(9, 10))
	check := func(s *api.Struct, v any) {
		for range rounds {
			fuzz.Fill(rng, s, v)
			before := s.AppendAudit(nil, v)
			clearHidden(s, reflect.ValueOf(v).Elem())
			if after := s.AppendAudit(nil, v); !bytes.Equal(before, after) {
				t.Fatalf("%s: a member that is not shown changed %x to %x", s.Name, before, after)
			}
			r := cbor.NewReader(before)
			if _, err := r.Raw(); err != nil || r.Done() != nil {
				t.Fatalf("%s: %x: %v", s.Name, before, err)
			}
		}
	}
	for s, v := range messages {
		check(s, v)
	}
	check(shapes, &everyShape{})
}

// clearHidden clears the members of v that are not shown.
func clearHidden(s *api.Struct, v reflect.Value) {
	for i := range s.Fields {
		f := &s.Fields[i]
		m := v.FieldByName(f.Name)
		switch {
		case !f.Shown:
			m.SetZero()
		case f.Shape == api.ShapeStruct:
			clearHidden(f.Struct, m)
		case f.Shape == api.ShapeList && f.Elem.Shape == api.ShapeStruct:
			for i := range m.Len() {
				clearHidden(f.Elem.Struct, m.Index(i))
			}
		}
	}
}

func TestAuditOfEncrypt(t *testing.T) {
	t.Parallel()
	in := kmsapi.EncryptRequest{
		KeyId: api.ParseKeyRef([]byte("alias/a")), Plaintext: api.Secret("secret"), GrantTokens: []string{"token"},
		EncryptionContext: api.NewEncryptionContext(map[string]string{"k": "v"}), EncryptionAlgorithm: kmsapi.SymmetricDefault,
	}
	if got, want := kmsapi.Encrypt.In.AppendAudit(nil, &in), unhex(t, "a3 01 67616c6961732f61 03 a1616b6176 05 01"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := kmsapi.Encrypt.Out.AppendAudit(nil, &kmsapi.EncryptResponse{CiphertextBlob: api.Blob("c"), KeyId: "k"}), []byte{0xa0}; !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestShownMembersAreBounded checks that every member of a request which an
// audit record repeats has a bound of its own: a record must not grow with what
// somebody sends.
func TestShownMembersAreBounded(t *testing.T) {
	t.Parallel()
	var check func(path string, f *api.Field)
	check = func(path string, f *api.Field) {
		path += "." + f.Name
		switch f.Shape {
		case api.ShapeText, api.ShapeKeyRef, api.ShapeBlob:
			if f.Max > 1<<13 {
				t.Errorf("%s has no bound below 8 KiB", path)
			}
		case api.ShapeList:
			if f.Items[1] > 100 {
				t.Errorf("%s has no bound below 100 items", path)
			}
			check(path, f.Elem)
		case api.ShapeStruct:
			for i := range f.Struct.Fields {
				if g := &f.Struct.Fields[i]; g.Shown {
					check(path, g)
				}
			}
		}
	}
	for s := range messages {
		for i := range s.Fields {
			if f := &s.Fields[i]; f.Shown && isRequest(s) {
				check(s.Name, f)
			}
		}
	}
}

// TestStructuresOfRequestsCannotVanish checks that a structure in a request has
// a required member: an empty one would be read as if it were absent.
func TestStructuresOfRequestsCannotVanish(t *testing.T) {
	t.Parallel()
	for s := range messages {
		for i := range s.Fields {
			if f := &s.Fields[i]; f.Shape == api.ShapeStruct && isRequest(s) && !hasRequired(f.Struct) {
				t.Errorf("%s.%s has no required member", s.Name, f.Name)
			}
		}
	}
}

func hasRequired(s *api.Struct) bool {
	for i := range s.Fields {
		if s.Fields[i].Required {
			return true
		}
	}
	return false
}
