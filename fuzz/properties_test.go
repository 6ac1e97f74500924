package fuzz_test

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/protocol"
)

// checkStream checks Split, and of a whole frame that what is read as an
// envelope, written again, is the same bytes.
func checkStream(t *testing.T, stream []byte) {
	frame, rest, need, err := protocol.Split(stream, api.MaxRequestFrame)
	if err != nil || frame == nil {
		if len(rest) != len(stream) || err == nil && need <= len(stream) || need > api.MaxRequestFrame+4 {
			t.Fatalf("%d bytes wait for %d, %v", len(stream), need, err)
		}
		return
	}
	if len(frame) > api.MaxRequestFrame || !bytes.HasSuffix(stream, rest) || !bytes.Equal(stream[4:len(stream)-len(rest)], frame) {
		t.Fatalf("a frame of %d bytes, %d behind it, of %d", len(frame), len(rest), len(stream))
	}
	if r, err := protocol.ParseRequest(frame); err == nil {
		head := cbor.AppendUint(cbor.AppendUint(cbor.AppendArray(nil, 4), uint64(r.ID)), uint64(r.Op))
		if again := append(append(head, r.Body...), 0xa0); r.ID == 0 || !bytes.Equal(again, frame) {
			t.Errorf("request %x became %x", frame, again)
		}
	}
	if r, err := protocol.ParseReply(frame); err == nil {
		head := cbor.AppendUint(cbor.AppendUint(cbor.AppendArray(nil, 3), uint64(r.ID)), uint64(r.Kind))
		if again := append(head, r.Body...); !bytes.Equal(again, frame) {
			t.Errorf("reply %x became %x", frame, again)
		}
		checkError(t, &r)
	}
}

// checkError checks that an error that was read is the same after another trip.
func checkError(t *testing.T, r *protocol.Reply) {
	e, ok := r.Err().(*api.Error)
	if !ok {
		return
	}
	again, err := protocol.ParseReply(protocol.AppendError(nil, r.ID, e)[4:])
	if err != nil || again.ID != r.ID || !reflect.DeepEqual(again.Err(), error(e)) {
		t.Errorf("%+v became %+v, %v", e, again.Err(), err)
	}
}

// checkRequest checks a request's decoder against the reference: it finds a body
// malformed exactly if the reference does, or if a value is not of its member's
// type. What it accepts it writes as the reference writes the same values without
// those that mean absence and with the defaults. JSON carries all of it.
func checkRequest(t *testing.T, op *api.Op, body []byte) {
	in := op.NewIn()
	err := op.In.DecodeCBOR(body, in)
	var item any
	members, ok := map[any]any(nil), cbor.Unmarshal(body, &item) == nil
	if ok {
		members, ok = normal(op.In, item)
	}
	if malformed := api.KindOf(err) == api.KindSerialization; malformed == ok {
		t.Fatalf("%x: %v, but the reference accepts it: %v", body, err, ok)
	}
	if err != nil {
		checkRefusal(t, err)
		return
	}
	again := op.In.AppendCBOR(nil, in)
	if want, err := cbor.Marshal(members); err != nil || !bytes.Equal(again, want) {
		t.Errorf("%x is written as %x, by the reference as %x, %v", body, again, want, err)
	}
	checkSame(t, op, in)
}

// checkRefusal checks that an error is one that a decoder may give: NotFound is
// what an alias is where only a key may stand.
func checkRefusal(t *testing.T, err error) {
	e, ok := err.(*api.Error)
	ok = ok && e.Message != "" && (e.Kind == api.KindSerialization || e.Kind == api.KindValidation || e.Kind == api.KindNotFound)
	if !ok {
		t.Errorf("the error is %v", err)
	}
}

// checkSame checks that every wire carries the request in.
func checkSame(t *testing.T, op *api.Op, in any) {
	fromCBOR, fromJSON, fromAWS, fromRPC := op.NewIn(), op.NewIn(), op.NewIn(), op.NewIn()
	if err := op.In.DecodeCBOR(op.In.AppendCBOR(nil, in), fromCBOR); err != nil || !reflect.DeepEqual(fromCBOR, in) {
		t.Errorf("CBOR: %+v became %+v, %v", in, fromCBOR, err)
	}
	if err := op.In.DecodeJSON(op.In.AppendJSON(nil, in), fromJSON); err != nil || !reflect.DeepEqual(fromJSON, in) {
		t.Errorf("JSON: %+v became %+v, %v", in, fromJSON, err)
	}
	if err := op.In.DecodeJSON(op.In.AppendJSON(nil, in, api.AWSJSON), fromAWS, api.AWSJSON); err != nil || !reflect.DeepEqual(fromAWS, in) {
		t.Errorf("AWS's JSON: %+v became %+v, %v", in, fromAWS, err)
	}
	if err := op.In.DecodeRPC(op.In.AppendRPC(nil, in), fromRPC, nil); err != nil || !reflect.DeepEqual(fromRPC, in) {
		t.Errorf("AWS's CBOR: %+v became %+v, %v", in, fromRPC, err)
	}
}

// checkJSON checks that a request in JSON is the same on every wire, and that
// AWS's dialect, whose times are numbers, accepts it too where it has no times.
func checkJSON(t *testing.T, op *api.Op, body []byte) {
	in, lenient := op.NewIn(), op.NewIn()
	err, again := op.In.DecodeJSON(body, in), op.In.DecodeJSON(body, lenient, api.AWSJSON)
	timed := slices.ContainsFunc(op.In.Fields, func(f api.Field) bool { return f.Shape == api.ShapeTime })
	if err == nil && !timed && (again != nil || !reflect.DeepEqual(in, lenient)) {
		t.Errorf("AWS's dialect: %+v, %v, want %+v", lenient, again, in)
	}
	if again == nil {
		checkSame(t, op, lenient)
	}
	if err != nil {
		checkRefusal(t, err)
	}
}

// checkTyped types text for every member of s and looks whether what was taken
// survives the wire.
func checkTyped(t *testing.T, s *api.Struct, text string) {
	for i := range s.Fields {
		f := &s.Fields[i]
		in, got := newRequest(s), newRequest(s)
		if f.SetText(in, text) != nil && f.SetBytes(in, []byte(text)) != nil {
			continue
		}
		if err := s.DecodeJSON(s.AppendJSON(nil, in), got, api.Partial); err != nil || !reflect.DeepEqual(got, in) {
			t.Errorf("--%s %q: %+v became %+v, %v", f.Flag, text, in, got, err)
		}
	}
}

// newRequest returns a pointer to a zero request with the table s.
func newRequest(s *api.Struct) any {
	for _, op := range table.All() {
		if op.In == s {
			return op.NewIn()
		}
	}
	panic("no request has the table " + s.Name)
}

// minted writes a reference from its parts.
func minted(r *api.KeyRef) string {
	realm := api.Realm{Partition: string(r.Partition), Region: string(r.Region)}
	switch r.Form {
	case api.RefKeyID:
		return string(r.ID.AppendText(nil, r.Multi))
	case api.RefKeyARN:
		return realm.KeyARN(r.Account, r.ID, r.Multi)
	case api.RefAliasARN:
		return "arn:" + realm.Partition + ":kms:" + realm.Region + ":" + r.Account.String() + ":" + string(r.Alias)
	}
	return string(r.Alias)
}

// normal is the reference for requests: it takes what the reference decoder
// found and returns the members that a request with these values is written
// with. ok is false if a member is unknown or a value not of its type.
func normal(s *api.Struct, item any) (members map[any]any, ok bool) {
	in, ok := item.(map[any]any)
	members = map[any]any{}
	for i := range s.Fields {
		f := &s.Fields[i]
		v, given := in[f.N]
		switch {
		case given:
			if v, ok = value(f, v, ok); !zero(v) || f.Required || f.Always {
				members[f.N] = v
			}
			delete(in, f.N)
		case f.Default != 0:
			members[f.N] = uint64(f.Default)
		}
	}
	return members, ok && len(in) == 0
}

// value returns a member's value as it is written, and whether it has the
// member's type and all was well before.
func value(f *api.Field, v any, before bool) (_ any, ok bool) {
	switch f.Shape {
	case api.ShapeText, api.ShapeKeyRef:
		_, ok = v.(string)
	case api.ShapeSecret, api.ShapeBlob:
		_, ok = v.([]byte)
	case api.ShapeBool:
		_, ok = v.(bool)
	case api.ShapeInt, api.ShapeTime:
		n, fits := integer(v)
		ok = fits && (f.Shape == api.ShapeInt || n >= f.Min && n <= f.Max)
	case api.ShapeEnum:
		_, ok = v.(uint64)
	case api.ShapeContext:
		ok = texts(v)
	case api.ShapeStruct:
		v, ok = normal(f.Struct, v)
	case api.ShapeList:
		v, ok = list(f.Elem, v)
	}
	return v, ok && before
}

// integer returns v if it is an integer of 64 bits.
func integer(v any) (n int64, ok bool) {
	if u, positive := v.(uint64); positive {
		return int64(u), u <= math.MaxInt64
	}
	n, ok = v.(int64)
	return n, ok
}

func list(f *api.Field, v any) (any, bool) {
	items, ok := v.([]any)
	for i := range items {
		items[i], ok = value(f, items[i], ok)
	}
	return items, ok
}

// texts reports whether v is a map of text to text.
func texts(v any) bool {
	pairs, ok := v.(map[any]any)
	for k, v := range pairs {
		_, key := k.(string)
		_, text := v.(string)
		ok = ok && key && text
	}
	return ok
}

// zero reports whether v means the same as no value. An empty context is given
// all the same, and an empty structure is never accepted.
func zero(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case []byte:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case bool:
		return !v
	case uint64:
		return v == 0
	}
	return false
}
