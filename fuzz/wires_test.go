package fuzz_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/fuzz"
	"github.com/keyrack/keyrack/internal/jsonwire"
)

// FuzzWires damages a random request in one member, or in none, and sends it on
// each wire: see checkAlike.
func FuzzWires(f *testing.F) {
	for i := range table.All() {
		f.Add(byte(i), uint64(i), byte(0), uint16(0))
		f.Add(byte(i), uint64(i), byte(1), uint16(3000))
	}
	f.Fuzz(func(t *testing.T, pick byte, seed uint64, member byte, size uint16) {
		ops, rng := table.All(), rand.New(rand.NewPCG(seed, 0))
		op := ops[int(pick)%len(ops)]
		in := fuzz.Request(rng, op)
		if member > 0 && len(op.In.Fields) > 0 {
			f := &op.In.Fields[int(member)%len(op.In.Fields)]
			damage(rng, f, reflect.ValueOf(in).Elem().FieldByName(f.Name), int(size))
		} else {
			checkSame(t, op, in)
		}
		checkAlike(t, op, in)
	})
}

// damage sets a member to a value of some size, which may be beyond its bounds.
// Enums are left: the wires have no common word for a value that is none.
func damage(rng *rand.Rand, f *api.Field, v reflect.Value, size int) {
	switch f.Shape {
	case api.ShapeText:
		v.SetString(string(bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, size)))
	case api.ShapeKeyRef:
		v.Set(reflect.ValueOf(api.ParseKeyRef(bytes.Repeat([]byte{'k'}, size))))
	case api.ShapeSecret, api.ShapeBlob:
		v.SetBytes(make([]byte, size))
	case api.ShapeInt, api.ShapeTime:
		v.SetInt(int64(rng.Uint64()) >> rng.IntN(64))
	case api.ShapeContext:
		v.Set(reflect.ValueOf(api.NewEncryptionContext(map[string]string{"k": string(make([]byte, size))})))
	case api.ShapeStruct:
		for i := range f.Struct.Fields {
			g := &f.Struct.Fields[i]
			damage(rng, g, v.FieldByName(g.Name), size>>rng.IntN(16))
		}
	case api.ShapeList:
		v.Set(reflect.MakeSlice(v.Type(), size%100, size%100))
		for i := range v.Len() {
			damage(rng, f.Elem, v.Index(i), size>>rng.IntN(16))
		}
	}
}

// checkAlike checks that all wires say the same of a request: its value, or the
// kind of error, and of broken constraints the words and what is kept.
func checkAlike(t *testing.T, op *api.Op, in any) {
	got := [4]any{op.NewIn(), op.NewIn(), op.NewIn(), op.NewIn()}
	errs := [4]error{
		op.In.DecodeCBOR(op.In.AppendCBOR(nil, in), got[0]), op.In.DecodeJSON(op.In.AppendJSON(nil, in), got[1]),
		op.In.DecodeJSON(op.In.AppendJSON(nil, in, api.AWSJSON), got[2], api.AWSJSON), op.In.DecodeRPC(op.In.AppendRPC(nil, in), got[3], nil),
	}
	for i := range got {
		checkVerdict(t, fmt.Sprintf("wire %d of %+v", i, in), verdict{got[i], errs[i]}, verdict{got[0], errs[0]})
	}
}

// verdict is what a decoder made of a body.
type verdict struct {
	in  any
	err error
}

// checkVerdict checks that two wires say the same of a request.
func checkVerdict(t *testing.T, what string, got, want verdict) {
	t.Helper()
	if api.KindOf(got.err) != api.KindOf(want.err) {
		t.Fatalf("%s: %v, want %v", what, got.err, want.err)
	}
	if want.err != nil {
		checkRefusal(t, want.err)
	}
	if api.KindOf(want.err) == api.KindSerialization {
		return // each says where in its own bytes
	}
	if want.err != nil && got.err.Error() != want.err.Error() || !reflect.DeepEqual(got.in, want.in) {
		t.Fatalf("%s: %+v, %v, want %+v, %v", what, got.in, got.err, want.in, want.err)
	}
}

// FuzzRPC decodes a body as AWS's CBOR, and the same request as AWS's JSON, into
// which the reference decoder puts it: see checkRPC.
func FuzzRPC(f *testing.F) {
	rng := seeds()
	for i, op := range table.All() {
		for range 4 {
			body := op.In.AppendRPC(nil, fuzz.Request(rng, op))
			f.Add(byte(i), body)
			f.Add(byte(i), sloppy(rng, body))
		}
	}
	for _, body := range []string{"", "\xf6", "\xa1\x61X\xf6", "\xa1\x61X\xa1\x01\x02", "\xa2\x61X\x01\x61X\x01"} {
		f.Add(byte(1), []byte(body))
	}
	f.Fuzz(func(t *testing.T, pick byte, body []byte) {
		ops := table.All()
		checkRPC(t, ops[int(pick)%len(ops)], body)
	})
}

// TestSloppyRPC writes random requests in the many forms of CBOR: they are the
// same requests.
func TestSloppyRPC(t *testing.T) {
	t.Parallel()
	rng := seeds()
	for _, op := range table.All() {
		for range 50 {
			in, got := fuzz.Request(rng, op), op.NewIn()
			body := sloppy(rng, op.In.AppendRPC(nil, in))
			if err := op.In.DecodeRPC(body, got, nil); err != nil || !reflect.DeepEqual(got, in) {
				t.Fatalf("%s: %x: got %+v, %v, want %+v", op, body, got, err, in)
			}
			checkRPC(t, op, body)
			body[rng.IntN(len(body))] ^= byte(1 + rng.IntN(255))
			checkRPC(t, op, body)
		}
	}
}

// checkRPC checks that AWS's CBOR and AWS's JSON say the same of a request, and
// that what is accepted every wire carries.
func checkRPC(t *testing.T, op *api.Op, body []byte) {
	in, want := op.NewIn(), op.NewIn()
	before := bytes.Clone(body)
	err := op.In.DecodeRPC(body, in, nil)
	if !bytes.Equal(before, body) {
		t.Fatalf("%x became %x", before, body)
	}
	text, ok, unsure := rpcToJSON(op.In, body)
	if !ok {
		if !unsure && api.KindOf(err) != api.KindSerialization {
			t.Fatalf("%s: %x: %v, but the reference refuses it", op, body, err)
		}
		return
	}
	checkVerdict(t, fmt.Sprintf("%s: %x, in JSON %s", op, body, text), verdict{in, err}, verdict{want, op.In.DecodeJSON(text, want, api.AWSJSON)})
	if err == nil {
		checkSame(t, op, in)
	}
}

// reference is the library, as lenient as rpc-v2-cbor but for repeated keys.
var reference, _ = cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 65535}.DecMode()

// CBOR's major types, as they stand in the high bits of a head.
const (
	unsigned, negative, byteString, textString = 0, 1, 2, 3
	array, object, tag, other                  = 4, 5, 6, 7
)

// rpcToJSON puts a request in AWS's CBOR into AWS's JSON, as the reference reads
// it. A value that is not of its member's type becomes another that is not. ok is
// false if the body is no CBOR, or if JSON has no words for what is wrong with it;
// unsure, if it has a tag around what the library's own types for the tag do not
// take, which is no fault in a member that nobody knows.
func rpcToJSON(s *api.Struct, body []byte) (text []byte, ok, unsure bool) {
	if len(body) == 0 {
		return nil, true, false
	}
	if reference.Wellformed(body) != nil || body[0]>>5 != object {
		return nil, false, false
	}
	w := writer{ok: true}
	w.members(s, body)
	return w.text, w.ok, w.unsure
}

// writer appends JSON as long as all is well.
type writer struct {
	text       []byte
	ok, unsure bool
}

// read lets the reference read raw into v.
func (w *writer) read(raw []byte, v any) {
	if !w.ok {
		return
	}
	err := reference.Unmarshal(raw, v)
	w.ok = err == nil
	w.unsure = err != nil && strings.Contains(err.Error(), "must be followed by")
}

func (w *writer) put(format string, args ...any) { w.text = fmt.Appendf(w.text, format, args...) }

// quote appends text that is a string in CBOR.
func (w *writer) quote(raw []byte) {
	var s string
	w.read(raw, &s)
	w.text, _ = jsonwire.AppendText(w.text, s)
}

// members appends a map as the object of a structure.
func (w *writer) members(s *api.Struct, raw []byte) {
	pairs := w.pairs(raw)
	w.put("{")
	for name, raw := range pairs {
		if f := s.Field(name); f == nil {
			w.unknown(raw, 2)
		} else {
			w.put(`%q:`, name)
			w.value(f, raw)
			w.put(",")
		}
	}
	w.end()
}

// end ends an object.
func (w *writer) end() { w.text = append(bytes.TrimSuffix(w.text, []byte(",")), '}') }

// pairs returns a map by its keys, which must be text.
func (w *writer) pairs(raw []byte) map[string]cbor.RawMessage {
	var any map[textKey]cbor.RawMessage
	w.read(raw, &any)
	pairs := map[string]cbor.RawMessage{}
	if !w.ok {
		return pairs
	}
	for k, v := range any {
		pairs[string(k)] = v
	}
	return pairs
}

// textKey is a key that is text and nothing else that the library takes for it.
type textKey string

// UnmarshalCBOR refuses everything but text.
func (k *textKey) UnmarshalCBOR(b []byte) error {
	if b[0]>>5 != textString {
		return fmt.Errorf("a key begins with %x", b[0])
	}
	return reference.Unmarshal(b, (*string)(k))
}

// unknown checks what a member holds that nobody knows, depth levels down.
func (w *writer) unknown(raw []byte, depth int) {
	if !w.ok {
		return
	}
	for raw[0]>>5 == tag {
		size := 1
		if long := raw[0] & 0x1f; long >= 24 {
			size += 1 << (long - 24)
		}
		raw = raw[size:]
	}
	var items []cbor.RawMessage
	switch raw[0] >> 5 {
	case textString:
		w.read(raw, new(string))
		return
	case array:
		w.read(raw, &items)
	case object:
		for _, v := range w.pairs(raw) {
			items = append(items, v)
		}
	default:
		return
	}
	w.ok = w.ok && depth <= 32
	for _, v := range items {
		w.unknown(v, depth+1)
	}
}

// value appends the value of a known member.
func (w *writer) value(f *api.Field, raw []byte) {
	major := int(raw[0] >> 5)
	switch {
	case raw[0] == 0xf6 || raw[0] == 0xf7:
		w.put("null")
	case major == textString && (f.Shape == api.ShapeText || f.Shape == api.ShapeKeyRef || f.Shape == api.ShapeEnum):
		w.quote(raw)
	case major == byteString && (f.Shape == api.ShapeSecret || f.Shape == api.ShapeBlob):
		var b []byte
		w.read(raw, &b)
		w.put("%q", base64.StdEncoding.EncodeToString(b))
	case (raw[0] == 0xf4 || raw[0] == 0xf5) && f.Shape == api.ShapeBool:
		w.put("%t", raw[0] == 0xf5)
	case major <= negative && f.Shape == api.ShapeInt:
		var n int64
		if reference.Unmarshal(raw, &n) != nil {
			w.put("1e400")
			return
		}
		w.put("%d", n)
	case major == tag && f.Shape == api.ShapeTime:
		w.time(raw)
	case major == object && f.Shape == api.ShapeStruct:
		w.members(f.Struct, raw)
	case major == object && f.Shape == api.ShapeContext:
		w.context(raw)
	case major == array && f.Shape == api.ShapeList:
		w.items(f.Elem, raw)
	case f.Shape == api.ShapeBool:
		w.put("0")
	default:
		w.put("true")
	}
}

// items appends an array.
func (w *writer) items(f *api.Field, raw []byte) {
	var items []cbor.RawMessage
	if w.read(raw, &items); !w.ok {
		return
	}
	w.put("[")
	for i, raw := range items {
		if i > 0 {
			w.put(",")
		}
		w.value(f, raw)
	}
	w.put("]")
}

// context appends a map of text to text.
func (w *writer) context(raw []byte) {
	w.put("{")
	for k, v := range w.pairs(raw) {
		w.text, _ = jsonwire.AppendText(w.text, k)
		if w.put(":"); v[0]>>5 == textString {
			w.quote(v)
		} else {
			w.put("0")
		}
		w.put(",")
	}
	w.end()
}

// time appends seconds to the microsecond, which JSON carries exactly.
func (w *writer) time(raw []byte) {
	var seconds float64
	var whole int64
	var t cbor.RawTag
	micros := math.NaN()
	switch err := reference.Unmarshal(raw, &t); {
	case err != nil || t.Number != 1:
	case t.Content[0]>>5 <= negative && reference.Unmarshal(t.Content, &whole) == nil:
		micros = float64(whole) * 1e6
	case t.Content[0] >= 0xf9 && t.Content[0] <= 0xfb && reference.Unmarshal(t.Content, &seconds) == nil:
		micros = math.Round(seconds * 1e6)
	}
	if !(math.Abs(micros) < 1e16) {
		w.put("1e400")
		return
	}
	w.put("%de-6", int64(micros))
}
