package api

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// SetText sets the member in in, a pointer to a value of the member's struct,
// from text that a person typed: text and key references as they stand, enums by
// name, integers in decimal, true or false, times as RFC 3339, dates or epoch seconds
// (but not four digits, which are meant for a year), structures as JSON. Each call adds an item to a list, and a pair key=value to an
// encryption context. Bytes are for [Field.SetBytes]. It returns KindValidation,
// with AWS's text where a constraint was broken, and then leaves in as it was.
func (f *Field) SetText(in any, text string) error {
	if !utf8.ValidString(text) {
		return f.invalid(errors.New("the text is not UTF-8"))
	}
	return f.set(in, func(one *Field, v reflect.Value, bad *violations) error {
		return one.parse(v, text, bad)
	})
}

// SetBytes sets the secret or blob in in as SetText does for other shapes, or
// adds it to a list. It keeps b.
func (f *Field) SetBytes(in any, b []byte) error {
	return f.set(in, func(one *Field, v reflect.Value, bad *violations) error {
		if !one.Bytes() {
			return errors.New("it takes text, not bytes")
		}
		one.putString(v, b, bad)
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

// set lets put store a value in a copy of the member of in, or in a new item of
// it, and keeps that if all is well.
func (f *Field) set(in any, put func(one *Field, v reflect.Value, bad *violations) error) error {
	v := reflect.ValueOf(in).Elem().Field(f.index)
	one, value := f, reflect.New(v.Type()).Elem()
	if f.Shape == ShapeList {
		one, value = f.Elem, reflect.New(v.Type().Elem()).Elem()
	} else {
		value.Set(v)
	}
	var bad violations
	err := put(one, value, &bad)
	switch {
	case err != nil:
		return f.invalid(err)
	case len(bad) > 0:
		for i := range bad {
			if one != f { // items have no name of their own
				bad[i].member = strings.TrimSuffix(f.Member+"."+bad[i].member, ".")
			}
		}
		return bad.err()
	case one != f:
		value = reflect.Append(v, value)
	}
	v.Set(value)
	return nil
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
		if _, err := strconv.ParseFloat(text, 64); err == nil && !isYear(text) {
			return f.parseJSON(v, text, bad)
		}
		t, err := parseTime(text)
		if err == nil {
			f.putInt(v, int64(t), bad)
		}
		return err
	case ShapeSecret, ShapeBlob:
		return errors.New("it takes bytes, not text")
	default:
		return f.parseJSON(v, text, bad)
	}
	return nil
}

// isYear reports whether text is four digits.
func isYear(text string) bool {
	_, err := strconv.ParseUint(text, 10, 64)
	return err == nil && len(text) == 4
}

// parseJSON stores numbers, booleans and structures, which people write as JSON does.
func (f *Field) parseJSON(v reflect.Value, text string, bad *violations) error {
	var r jsonwire.Reader
	r.Reset([]byte(text), jsonwire.Limits{})
	err := f.readNamed(people{&r}, v, 0, bad)
	if err == nil {
		err = r.Done()
	}
	switch {
	case err == nil:
		return nil
	case f.Shape == ShapeInt:
		return errors.New("want a whole number")
	case f.Shape == ShapeBool:
		return errors.New("want true or false")
	}
	return fmt.Errorf("want %s: %w", f.Shape, err)
}

// addPair adds key=value to the context in v.
func (f *Field) addPair(v reflect.Value, text string, bad *violations) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return errors.New("want key=value")
	}
	pairs := map[string]string{key: value}
	for k, v := range EncryptionContext(v.Bytes()).Pairs {
		if string(k) == key {
			return fmt.Errorf("the key %q is given twice", key)
		}
		pairs[string(k)] = string(v)
	}
	f.putContext(v, NewEncryptionContext(pairs), bad)
	return nil
}

// invalid says what was wrong with what was typed for the member.
func (f *Field) invalid(err error) *Error { return Errorf(KindValidation, "%s: %v", f.Name, err) }
