package api

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// SetText sets the member in in, a pointer to a value of the member's struct,
// from text that a person typed: text and key references as they stand, enums by
// name, integers in decimal, true or false, times as RFC 3339 or epoch seconds,
// structures as JSON. Each call adds an item to a list, and a pair key=value to an
// encryption context. Bytes are for [Field.SetBytes]. It returns KindValidation,
// with AWS's text where a constraint was broken.
func (f *Field) SetText(in any, text string) error {
	if !utf8.ValidString(text) {
		return f.invalid("the text is not UTF-8")
	}
	return f.set(in, func(elem *Field, v reflect.Value, bad *violations) error {
		return elem.parse(v, text, bad)
	})
}

// SetBytes sets the secret or blob in in as SetText does for other shapes, or
// adds it to a list. It keeps b.
func (f *Field) SetBytes(in any, b []byte) error {
	return f.set(in, func(elem *Field, v reflect.Value, bad *violations) error {
		if elem.Shape != ShapeSecret && elem.Shape != ShapeBlob {
			return f.invalid("it takes text, not bytes")
		}
		elem.putString(v, b, bad)
		return nil
	})
}

// Bytes reports whether the member, or an item of it, is a secret or a blob, so
// that it is set with SetBytes.
func (f *Field) Bytes() bool {
	if f.Shape == ShapeList {
		return f.Elem.Bytes()
	}
	return f.Shape == ShapeSecret || f.Shape == ShapeBlob
}

// set lets put store a value in the member of in, or in a new item of it.
func (f *Field) set(in any, put func(elem *Field, v reflect.Value, bad *violations) error) error {
	var bad violations
	v, err := reflect.ValueOf(in).Elem().Field(f.index), error(nil)
	if f.Shape != ShapeList {
		err = put(f, v, &bad)
	} else {
		l := newList(f, v.Type(), 1, bad)
		if err = put(f.Elem, l.next(bad), &bad); err == nil {
			l.endItem(bad)
			v.Set(reflect.AppendSlice(v, l.items))
		}
	}
	if err == nil && len(bad) > 0 {
		return bad.err()
	}
	return err
}

// parse stores what text says.
func (f *Field) parse(v reflect.Value, text string, bad *violations) error {
	switch f.Shape {
	case ShapeText, ShapeKeyRef:
		f.putString(v, []byte(text), bad)
	case ShapeEnum:
		f.putEnum(v, uint64(f.Names.Value(text)), text, bad)
	case ShapeContext:
		return f.addPair(v, text, bad)
	case ShapeTime:
		if t, err := parseTime(text); err == nil {
			f.putInt(v, int64(t), bad)
			return nil
		}
		return f.parseJSON(v, text, bad)
	case ShapeSecret, ShapeBlob:
		return f.invalid("it takes bytes, not text")
	default:
		return f.parseJSON(v, text, bad)
	}
	return nil
}

// parseJSON stores numbers, booleans and structures, which people write as JSON does.
func (f *Field) parseJSON(v reflect.Value, text string, bad *violations) error {
	var r jsonwire.Reader
	r.Reset([]byte(text), jsonwire.Limits{})
	err := f.readJSON(&r, v, 0, bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return f.invalid("want %s: %v", f.Shape, err)
	}
	return nil
}

// addPair adds key=value to the context in v.
func (f *Field) addPair(v reflect.Value, text string, bad *violations) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return f.invalid("want key=value")
	}
	pairs := map[string]string{key: value}
	for k, v := range EncryptionContext(v.Bytes()).Pairs {
		if string(k) == key {
			return f.invalid("the key %q is given twice", key)
		}
		pairs[string(k)] = string(v)
	}
	f.putContext(v, NewEncryptionContext(pairs), bad)
	return nil
}

func (f *Field) invalid(format string, args ...any) *Error {
	return Errorf(KindValidation, "%s: %s", f.Name, fmt.Sprintf(format, args...))
}
