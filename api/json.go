package api

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strconv"
	"time"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// JSONMode says which dialect of JSON a walk reads or writes. Without one it is
// the people's: unknown members are refused, times are RFC 3339 text in UTC and
// are read as numbers too.
type JSONMode uint8

const (
	// AWSJSON is the dialect of AWS's wires: unknown members are passed over and
	// times are epoch seconds, a number.
	AWSJSON JSONMode = 1 << iota
	// Partial lets required members be missing, sets no defaults and does not run
	// the type's own Check: more members follow from elsewhere, and the appliance
	// checks the whole.
	Partial
)

// join returns the modes of a variadic argument as one.
func join(modes []JSONMode) (all JSONMode) {
	for _, m := range modes {
		all |= m
	}
	return all
}

// AppendJSON appends v, a pointer to a value of s's type, as AWS's JSON: an
// object with AWS's member names in the order of their numbers. Secrets and blobs
// are padded standard base64 (RFC 4648 §4), times as the mode has them with a
// fraction of at most six digits, enums their name, contexts an object. Members
// are absent as in [Struct.AppendCBOR]. Text that is not UTF-8 has U+FFFD for each
// fault.
func (s *Struct) AppendJSON(dst []byte, v any, modes ...JSONMode) []byte {
	return s.appendJSON(dst, reflect.ValueOf(v).Elem(), join(modes))
}

// appendJSON appends one object, for a request or a structure within.
func (s *Struct) appendJSON(dst []byte, v reflect.Value, mode JSONMode) []byte {
	dst = append(dst, '{')
	for i := range s.Fields {
		f := &s.Fields[i]
		if m := v.Field(f.index); f.taken(m, everything) {
			dst = append(appendJSONText(appendComma(dst), f.Name), ':')
			dst = f.appendJSON(dst, m, mode)
		}
	}
	return append(dst, '}')
}

// appendJSON appends a value without regard to its presence.
func (f *Field) appendJSON(dst []byte, v reflect.Value, mode JSONMode) []byte {
	switch f.Shape {
	case ShapeText:
		return appendJSONText(dst, v.String())
	case ShapeKeyRef:
		return appendJSONText(dst, v.Addr().Interface().(*KeyRef).Text)
	case ShapeSecret, ShapeBlob:
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), v.Bytes()), '"')
	case ShapeBool:
		return strconv.AppendBool(dst, v.Bool())
	case ShapeInt:
		return strconv.AppendInt(dst, v.Int(), 10)
	case ShapeTime:
		return appendJSONTime(dst, Time(v.Int()), mode)
	case ShapeEnum:
		return appendJSONText(dst, f.Names.Name(uint8(v.Uint())))
	case ShapeContext:
		return appendJSONContext(dst, v.Bytes())
	case ShapeStruct:
		return f.Struct.appendJSON(dst, v, mode)
	}
	dst = append(dst, '[')
	for i := range v.Len() {
		dst = f.Elem.appendJSON(appendComma(dst), v.Index(i), mode)
	}
	return append(dst, ']')
}

// appendComma appends the comma before all but the first member or item.
func appendComma(dst []byte) []byte {
	if last := dst[len(dst)-1]; last == '{' || last == '[' {
		return dst
	}
	return append(dst, ',')
}

// appendJSONText appends a string. Text from a wire is UTF-8; for text that is
// not, a lossy answer is better than none.
func appendJSONText[T string | []byte](dst []byte, s T) []byte {
	out, err := jsonwire.AppendText(dst, s)
	if err != nil {
		out, _ = jsonwire.AppendText(dst, bytes.ToValidUTF8([]byte(s), []byte("\uFFFD")))
	}
	return out
}

// appendJSONTime appends seconds exactly: 1526334434.743, no trailing zeros.
func appendJSONTime(dst []byte, t Time, mode JSONMode) []byte {
	if mode&AWSJSON == 0 {
		return t.Time().AppendFormat(dst, `"`+time.RFC3339Nano+`"`)
	}
	micros := uint64(t)
	if t < 0 {
		dst, micros = append(dst, '-'), -micros
	}
	dst = strconv.AppendUint(dst, micros/1e6, 10)
	if micros %= 1e6; micros == 0 {
		return dst
	}
	point := len(dst)
	dst = strconv.AppendUint(dst, 1e6+micros, 10) // seven digits, the first of which becomes the point
	dst[point] = '.'
	return bytes.TrimRight(dst, "0")
}

// appendJSONContext appends the pairs in their canonical order.
func appendJSONContext(dst []byte, c EncryptionContext) []byte {
	dst = append(dst, '{')
	for k, v := range c.Pairs {
		dst = append(appendJSONText(appendComma(dst), k), ':')
		dst = appendJSONText(dst, v)
	}
	return append(dst, '}')
}
