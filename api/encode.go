package api

import (
	"reflect"

	"github.com/keyrack/keyrack/internal/cbor"
)

// AppendCBOR appends v, a pointer to a value of s's type, as a deterministic
// CBOR map {member number: value}. Zero members are absent, except those whose
// rule says always and required ones for which zero is a value.
func (s *Struct) AppendCBOR(dst []byte, v any) []byte {
	return s.append(dst, reflect.ValueOf(v).Elem(), everything)
}

// AppendAudit appends the members of v that an audit record may show, in the
// same encoding, without zeros. The list is an allow-list: the tag audit:"show",
// and within a structure or its items again. A Secret never has that tag.
func (s *Struct) AppendAudit(dst []byte, v any) []byte {
	return s.append(dst, reflect.ValueOf(v).Elem(), shownOnly)
}

// append appends the map of the members that the walk takes. Most structures
// have so few that the head is one byte: it is set last, and members are looked at once.
func (s *Struct) append(dst []byte, v reflect.Value, sel selection) []byte {
	if len(s.Fields) >= 24 {
		dst = cbor.AppendMap(dst, s.count(v, sel))
		for i := range s.Fields {
			dst, _ = s.Fields[i].appendPair(dst, v, sel)
		}
		return dst
	}
	head, n := len(dst), 0
	dst = cbor.AppendMap(dst, 0)
	for i := range s.Fields {
		var ok bool
		if dst, ok = s.Fields[i].appendPair(dst, v, sel); ok {
			n++
		}
	}
	dst[head] |= byte(n)
	return dst
}

// count returns how many members the walk takes.
func (s *Struct) count(v reflect.Value, sel selection) (n int) {
	for i := range s.Fields {
		if f := &s.Fields[i]; f.taken(v.Field(f.index), sel) {
			n++
		}
	}
	return n
}

// appendPair appends a member's number and value, if the walk takes it.
func (f *Field) appendPair(dst []byte, parent reflect.Value, sel selection) ([]byte, bool) {
	v := parent.Field(f.index)
	if !f.taken(v, sel) {
		return dst, false
	}
	return f.appendValue(cbor.AppendUint(dst, f.N), v, sel), true
}

// appendValue appends a value without regard to its presence: items of lists are
// always written, zero or not.
func (f *Field) appendValue(dst []byte, v reflect.Value, sel selection) []byte {
	switch f.Shape {
	case ShapeText:
		return cbor.AppendText(dst, v.String())
	case ShapeKeyRef:
		return cbor.AppendText(dst, v.Addr().Interface().(*KeyRef).Text)
	case ShapeSecret, ShapeBlob:
		return cbor.AppendBytes(dst, v.Bytes())
	case ShapeBool:
		return cbor.AppendBool(dst, v.Bool())
	case ShapeInt, ShapeTime:
		return cbor.AppendInt(dst, v.Int())
	case ShapeEnum:
		return cbor.AppendUint(dst, v.Uint())
	case ShapeContext:
		return append(dst, EncryptionContext(v.Bytes()).Canonical()...)
	case ShapeStruct:
		return f.Struct.append(dst, v, sel)
	}
	dst = cbor.AppendArray(dst, v.Len())
	for i := range v.Len() {
		dst = f.Elem.appendValue(dst, v.Index(i), sel)
	}
	return dst
}
