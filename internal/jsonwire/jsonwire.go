// Package jsonwire reads JSON from outside the way a security boundary has to: names are compared byte for byte,
// a name may occur once in an object, bytes must be UTF-8, base64 has one spelling, nothing follows the value, and
// size and nesting are bounded before work is done. encoding/json is lenient in each of these points.
//
// Read first: Reader (tokens for a table-driven walk), Limits, Error. Unmarshal is for whole documents such as
// policies and configuration, away from hot paths.
//
// It does not decide which members are known or required (its callers' tables do), and it does not write JSON
// except for AppendText. It is the only package that imports github.com/go-json-experiment/json, the module
// that becomes encoding/json/v2.
package jsonwire

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits bounds a document. The zero value of a member means the constant named with it.
type Limits struct {
	Bytes int // length of the document, 1 and up; MaxBytes
	Depth int // objects and arrays open at once, 1 and up; MaxDepth
}

// Bounds where a caller sets none, and for Unmarshal. The longest body of an AWS operation is below 512 KiB
// (65,536 bytes of secret, each escaped as six), the deepest a policy with conditions, 5.
const (
	MaxBytes = 1 << 20
	MaxDepth = 32
)

// The reasons for which a document is refused; each comes wrapped in an Error.
var (
	ErrSyntax    = errors.New("not JSON")                                        // RFC 8259, including bytes after the value
	ErrUTF8      = errors.New("invalid UTF-8")                                   // RFC 8259, 8.1
	ErrDuplicate = errors.New("name repeated in its object")                     // RFC 7493, 2.3
	ErrUnknown   = errors.New("unknown name")                                    // Unmarshal only
	ErrType      = errors.New("another type than expected")                      // also a fraction where an integer is asked for
	ErrRange     = errors.New("number out of range")                             // for int64, or for a time
	ErrBase64    = errors.New("not base64 with padding in its one exact form")   // RFC 4648, 4 and 3.5
	ErrSize      = errors.New("longer than allowed")                             // Limits.Bytes
	ErrDepth     = errors.New("objects or arrays nested deeper than is allowed") // Limits.Depth
)

// Error says where a document stopped being acceptable and why. It never holds a name or a value from the document.
type Error struct {
	Offset int   // in bytes from the start of the document
	Reason error // one of the Err variables
}

// Error returns the reason and the offset.
func (e *Error) Error() string { return fmt.Sprintf("json: byte %d: %v", e.Offset, e.Reason) }

// Unwrap returns the reason, for errors.Is.
func (e *Error) Unwrap() error { return e.Reason }

// Unmarshal reads a whole document of at most MaxBytes and MaxDepth into the value v points to, as encoding/json/v2
// would, and refuses members that v has no field for. Byte slices are read as DecodeBase64 does; byte arrays are
// ErrType. Every error is an *Error. It keeps no reference to data.
func Unmarshal(data []byte, v any) error {
	var r Reader
	r.Reset(data, Limits{})
	if err := r.Skip(); err != nil { // the library itself would follow 10,000 levels
		return err
	}
	if err := r.Done(); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v, json.RejectUnknownMembers(true), exactBlobs); err != nil {
		return semantic(err)
	}
	return nil
}

// exactBlobs replaces the library's base64, which lets unused bits be anything.
var exactBlobs = json.WithUnmarshalers(json.UnmarshalFromFunc(func(dec *jsontext.Decoder, v any) error {
	p := reflect.ValueOf(v).Elem()
	switch v.(type) {
	case json.UnmarshalerFrom, json.Unmarshaler, encoding.TextUnmarshaler:
		return errors.ErrUnsupported // the type reads itself
	}
	if k := p.Kind(); k != reflect.Slice && k != reflect.Array || p.Type().Elem().Kind() != reflect.Uint8 {
		return errors.ErrUnsupported // the library's business
	}
	raw, err := dec.ReadValue()
	if err != nil || p.Kind() == reflect.Array || raw.Kind() != '"' {
		return ErrType
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return ErrSyntax
	}
	blob, err := DecodeBase64(nil, text)
	p.SetBytes(blob)
	return err
}))

// semantic drops what the library's error quotes from the document.
func semantic(err error) error {
	e := &Error{Reason: ErrType}
	var where *json.SemanticError
	if errors.As(err, &where) {
		e.Offset = int(where.ByteOffset)
	}
	switch {
	case errors.Is(err, json.ErrUnknownName):
		e.Reason = ErrUnknown
	case errors.Is(err, ErrBase64):
		e.Reason = ErrBase64
	case errors.Is(err, strconv.ErrRange):
		e.Reason = ErrRange
	}
	return e
}

// DecodeBase64 appends to dst what src encodes in standard base64 (RFC 4648, 4): padded, no line breaks, unused bits
// zero, so that two different texts never mean the same bytes. The only error is ErrBase64; dst may then have grown
// by bytes decoded before the fault.
func DecodeBase64(dst, src []byte) ([]byte, error) {
	if bytes.ContainsAny(src, "\r\n") { // the standard library skips them even when strict
		return dst, ErrBase64
	}
	dst, err := strict.AppendDecode(dst, src)
	if err != nil {
		return dst, ErrBase64
	}
	return dst, nil
}

var strict = base64.StdEncoding.Strict()

// AppendText appends s as a JSON string in its shortest form (RFC 8785, 3.2.2.2). Bytes that are not UTF-8 are
// ErrUTF8, and dst then has an unfinished string appended.
func AppendText[T ~string | ~[]byte](dst []byte, s T) ([]byte, error) {
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		return dst, ErrUTF8
	}
	return dst, nil
}
