package table_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/cbor"
)

// Bad input for every member of every operation on every wire, made from the field table.

// blob, named and object are values that wires write in ways of their own.
type (
	blob  []byte
	named struct { // a value of an enum
		n    uint64
		name string
	}
	object []member
	member struct {
		f *api.Field
		v any
	}
)

// wires are how a request is written and read.
var wires = map[string]struct {
	write func(any) any // a value as its encoder takes it
	bytes func(any) ([]byte, error)
	read  func(s *api.Struct, body []byte, in any) error
}{
	"native": {native, cbor.Marshal, func(s *api.Struct, body []byte, in any) error { return s.DecodeCBOR(body, in) }},
	"JSON": {asJSON, json.Marshal, func(s *api.Struct, body []byte, in any) error {
		return s.DecodeAWSJSON(body, in, heap{})
	}},
	"rpc-v2-cbor": {asRPC, cbor.Marshal, func(s *api.Struct, body []byte, in any) error { return s.DecodeRPC(body, in, heap{}) }},
}

// heap is memory that nobody wipes.
type heap struct{}

func (heap) Bytes(n int) []byte { return make([]byte, n) }

func native(v any) any {
	switch v := v.(type) {
	case blob:
		return []byte(v)
	case named:
		return v.n
	case object:
		m := map[uint64]any{}
		for _, each := range v {
			m[each.f.N] = native(each.v)
		}
		return m
	case []any:
		return list(v, native)
	}
	return v
}

func asRPC(v any) any { return byName(v, func(b blob) any { return []byte(b) }) }

func asJSON(v any) any {
	return byName(v, func(b blob) any { return base64.StdEncoding.EncodeToString(b) })
}

// byName writes what AWS's wires have in common: names of members and of values.
func byName(v any, bytes func(blob) any) any {
	same := func(v any) any { return byName(v, bytes) }
	switch v := v.(type) {
	case blob:
		return bytes(v)
	case named:
		return v.name
	case object:
		m := map[string]any{}
		for _, each := range v {
			m[each.f.Name] = same(each.v)
		}
		return m
	case []any:
		return list(v, same)
	}
	return v
}

func list(all []any, each func(any) any) []any {
	out := make([]any, len(all))
	for i, v := range all {
		out[i] = each(v)
	}
	return out
}

// good returns a value that f takes.
func good(f *api.Field) any {
	switch f.Shape {
	case api.ShapeText:
		if f.Pattern != nil {
			return f.Pattern.Example
		}
		return strings.Repeat("x", int(max(f.Min, 1)))
	case api.ShapeKeyRef:
		return "00000000-0000-4000-8000-000000000001"
	case api.ShapeSecret, api.ShapeBlob:
		return blob(make([]byte, max(f.Min, 1)))
	case api.ShapeBool:
		return true
	case api.ShapeInt:
		return max(f.Min, 1)
	case api.ShapeTime: // none is required, and wires write it in three ways
		return nil
	case api.ShapeEnum:
		return named{1, f.Names[0]}
	case api.ShapeContext:
		return map[string]string{"k": "v"}
	case api.ShapeList:
		return []any{good(f.Elem)}
	}
	return goodObject(f.Struct, nil, nil)
}

// goodObject returns the members that must be there, with v in the place of not, or
// without it if v is nil. Some operations need one of their optional members.
func goodObject(s *api.Struct, not *api.Field, v any) (all object) {
	for i := range s.Fields {
		switch f := &s.Fields[i]; {
		case f == not && v != nil:
			all = append(all, member{f, v})
		case f == not:
		case f.Name == "ExpirationModel": // the one that needs no time
			all = append(all, member{f, named{2, f.Names[1]}})
		case f.Required, f.Name == "NumberOfBytes", f.Name == "CiphertextBlob":
			all = append(all, member{f, good(f)})
		}
	}
	return all
}

// fault is a value that a member does not take, and what is answered.
type fault struct {
	how  string
	v    any // nil: the member is missing
	want api.Kind
	says string // part of the text
}

// faults returns what can be wrong with one member, which errors call path and its name.
func faults(f *api.Field, path string) (all []fault) {
	add := func(how string, v any, says string, args ...any) {
		all = append(all, fault{how, v, api.KindValidation, "at '" + path + f.Member + "' failed to satisfy constraint: " + fmt.Sprintf(says, args...)})
	}
	if f.Required {
		add("missing", nil, "Member must not be null")
	}
	const atMost, atLeast = "Member must have %s less than or equal to %d", "Member must have %s greater than or equal to %d"
	length := func(n int64) any {
		if f.Shape == api.ShapeSecret || f.Shape == api.ShapeBlob {
			return blob(make([]byte, n))
		}
		return strings.Repeat("x", int(n))
	}
	bounded := f.Max < api.Unbounded
	switch f.Shape {
	case api.ShapeText, api.ShapeKeyRef, api.ShapeSecret, api.ShapeBlob:
		if f.Pattern != nil {
			add("of other characters", strings.Repeat("—", int(max(f.Min, 1))), "Member must satisfy regular expression pattern: %s", f.Pattern.Text)
		}
		if bounded {
			add("too long", length(f.Max+1), atMost, "length", f.Max)
		}
		if f.Min > 0 {
			add("too short", length(f.Min-1), atLeast, "length", f.Min)
		}
	case api.ShapeInt:
		if bounded {
			add("too great", f.Max+1, atMost, "value", f.Max)
		}
		if f.Min > math.MinInt64 {
			add("too small", f.Min-1, atLeast, "value", f.Min)
		}
		if f.Min > 0 { // 0 that is given is not taken for absent
			add("zero", int64(0), atLeast, "value", f.Min)
		}
	case api.ShapeEnum:
		add("no value of the enum", named{uint64(len(f.Names)) + 1, "NONSENSE"}, "Member must satisfy enum value set: [%s]", strings.Join(f.Names, ", "))
	case api.ShapeList:
		if f.Items[1] < math.MaxInt {
			add("too long", many(good(f.Elem), f.Items[1]+1), atMost, "length", f.Items[1])
		}
		if f.Items[0] > 0 {
			add("too short", []any{}, atLeast, "length", f.Items[0])
		}
	}
	return append(all, fault{"of another type", otherType(f), api.KindSerialization, ""})
}

func many(v any, n int) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = v
	}
	return all
}

// otherType returns a value that no wire reads as f's type.
func otherType(f *api.Field) any {
	if f.Shape == api.ShapeBool || f.Shape == api.ShapeInt || f.Shape == api.ShapeTime {
		return []any{}
	}
	return true
}

// TestBadInput breaks each member of each operation in every way, one at a time, on every wire.
func TestBadInput(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, op := range table.All() {
		for wire := range wires {
			if err := send(t, op, wire, goodObject(op.In, nil, nil)); err != nil {
				t.Errorf("%s, %s: what should be right: %v", op, wire, err)
			}
			tried += breakAll(t, op, wire, op.In, "", func(o object) object { return o })
		}
	}
	if tried < 1900 {
		t.Errorf("only %d faults were tried", tried)
	}
}

// breakAll breaks the members of s, which errors call path, and which within puts into a request.
func breakAll(t *testing.T, op *api.Op, wire string, s *api.Struct, path string, within func(object) object) (tried int) {
	for i := range s.Fields {
		f := &s.Fields[i]
		for _, bad := range faults(f, path) {
			tried++
			err := send(t, op, wire, within(goodObject(s, f, bad.v)))
			if api.KindOf(err) != bad.want || !strings.Contains(err.Error(), bad.says) {
				t.Errorf("%s, %s: %s.%s %s: got %v, want %s: %s", op, wire, s.Name, f.Name, bad.how, err, bad.want, bad.says)
			}
		}
		inner, under, one := f, f.Member+".", func(o object) any { return o }
		if f.Shape == api.ShapeList {
			inner, under, one = f.Elem, f.Member+".1.member.", func(o object) any { return []any{o} }
		}
		if inner.Struct != nil && s == op.In {
			tried += breakAll(t, op, wire, inner.Struct, under, func(o object) object { return goodObject(s, f, one(o)) })
		}
	}
	return tried
}

// send writes a request on a wire and reads it.
func send(t *testing.T, op *api.Op, wire string, o object) error {
	t.Helper()
	w := wires[wire]
	body, err := w.bytes(w.write(o))
	if err != nil {
		t.Fatal(err)
	}
	return w.read(op.In, body, op.NewIn())
}
