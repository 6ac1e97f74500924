package api

import (
	"reflect"

	"github.com/keyrack/keyrack/internal/cbor"
)

// DecodeRPC reads body, a CBOR map {member name: value} as Smithy's rpc-v2-cbor
// has it, into in, a pointer to a zero value of s's type, and checks it as
// [Struct.DecodeJSON] does in AWS's dialect, with the same texts and kinds:
// unknown members are passed over, null and undefined are absent, an empty body is
// an empty map. Heads may be longer than needed and lengths unknown. Secrets and
// blobs are byte strings, times tag 1 with an integer or a float of seconds, enums
// their name, contexts a map in any order. Integers are never floats. Bytes of in
// alias body, or where they came in pieces bytes of mem, the heap's if it is nil.
func (s *Struct) DecodeRPC(body []byte, in any, mem Memory) error {
	if len(body) == 0 {
		body = cbor.AppendMap(nil, 0)
	}
	return s.decodeNamed(cbor.NewLenient(body, mem), in, AWSJSON)
}

// AppendRPC appends v, a pointer to a value of s's type, as DecodeRPC reads it:
// in the order of the members' numbers, every length known and every head
// shortest, times as doubles. They carry microseconds; rpc-v2-cbor promises its
// callers milliseconds. Members are absent as in [Struct.AppendCBOR].
func (s *Struct) AppendRPC(dst []byte, v any) []byte {
	return s.appendRPC(dst, reflect.ValueOf(v).Elem())
}

// appendRPC appends one map, for a request or a structure within.
func (s *Struct) appendRPC(dst []byte, v reflect.Value) []byte {
	dst = cbor.AppendMap(dst, s.count(v, everything))
	for i := range s.Fields {
		f := &s.Fields[i]
		if m := v.Field(f.index); f.taken(m, everything) {
			dst = f.appendRPC(cbor.AppendText(dst, f.Name), m)
		}
	}
	return dst
}

// appendRPC appends a value without regard to its presence. What holds no member
// is written as on the native wire.
func (f *Field) appendRPC(dst []byte, v reflect.Value) []byte {
	switch f.Shape {
	case ShapeTime:
		return cbor.AppendMicros(dst, v.Int())
	case ShapeEnum:
		return cbor.AppendText(dst, f.Names.Name(uint8(v.Uint())))
	case ShapeStruct:
		return f.Struct.appendRPC(dst, v)
	case ShapeList:
		dst = cbor.AppendArray(dst, v.Len())
		for i := range v.Len() {
			dst = f.Elem.appendRPC(dst, v.Index(i))
		}
		return dst
	}
	return f.appendValue(dst, v, everything)
}
