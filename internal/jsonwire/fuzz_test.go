package jsonwire_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// FuzzReader holds the Reader to encoding/json: what the Reader accepts, the lenient reader accepts as well and
// finds the same value in it, and a whole document passes Unmarshal.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		`{"KeyId":"k","Plaintext":"QQ==","EncryptionContext":{"a":"b"}}`, `{"a":1,"\u0061":2}`, `[1,-0.5e+7,"\ud83d\ude00\/",null,true]`,
		`"QR=="`, `"\ud800"`, "\"\xff\"", ` [ [ ] , { } ] x`, `9223372036854775808`, `1526334434.743`, `[[[[[[[[[[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var r jsonwire.Reader
		r.Reset(doc, jsonwire.Limits{Bytes: 1 << 16, Depth: 16})
		got, err := tree(&r)
		if err = errors.Join(err, r.Done()); err != nil {
			return
		}
		var want any
		if err := decode(doc, &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %#v, encoding/json %#v, %v", got, want, err)
		}
		var whole json.RawMessage // no number is too large for it
		if err := jsonwire.Unmarshal(doc, &whole); err != nil || !bytes.Equal(whole, bytes.Trim(doc, " \t\r\n")) {
			t.Errorf("Unmarshal: %q, %v", whole, err)
		}
	})
}

// FuzzScalars holds the typed methods to one spelling for each value: what they read writes back as it stood.
func FuzzScalars(f *testing.F) {
	for _, seed := range []string{`"QUI="`, `"QR=="`, `"Q\nQ=="`, "-7", "-0", "1.0", "1e1", "9223372036854775807", `"é\u00e9"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		r, raw := open(string(doc)), bytes.Trim(doc, " \t\r\n")
		if n, err := r.Int(); err == nil && r.Done() == nil {
			if again, _ := json.Marshal(n); !bytes.Equal(again, raw) {
				t.Errorf("%q read as %d", raw, n)
			}
		}
		r.Reset(doc, jsonwire.Limits{})
		var text string
		if b, err := r.Blob(); err == nil && r.Done() == nil {
			if err := json.Unmarshal(doc, &text); err != nil || base64.StdEncoding.EncodeToString(b) != text {
				t.Errorf("%q read as %x, %v", raw, b, err)
			}
		}
	})
}

func decode(doc []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return d.Decode(v)
}

// tree reads any value through the Reader's methods, in the types that encoding/json uses.
func tree(r *jsonwire.Reader) (any, error) {
	switch r.Kind() {
	case jsonwire.Object:
		return object(r)
	case jsonwire.Array:
		return array(r)
	case jsonwire.Text:
		return text(r.Text())
	case jsonwire.Bool:
		return r.Bool()
	case jsonwire.Number:
		raw, err := r.Raw()
		return json.Number(raw), err
	case jsonwire.Null:
		r.Null()
		return nil, nil
	default:
		return nil, r.Skip()
	}
}

func object(r *jsonwire.Reader) (any, error) {
	members, err := map[string]any{}, r.BeginObject()
	for err == nil && r.More() {
		var name string
		if name, err = text(r.Name()); err == nil {
			members[name], err = tree(r)
		}
	}
	return members, errors.Join(err, r.End())
}

func array(r *jsonwire.Reader) (any, error) {
	elements, err := []any{}, r.BeginArray()
	for err == nil && r.More() {
		var e any
		e, err = tree(r)
		elements = append(elements, e)
	}
	return elements, errors.Join(err, r.End())
}
