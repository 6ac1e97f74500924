package api

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// DecodeJSON reads body, a JSON object with AWS's member names, into in, a
// pointer to a zero value of s's type, and checks it with the same texts and kinds
// as [Struct.DecodeCBOR]. Names are compared byte for byte, one that is repeated
// is refused, null is absent. Base64 has one spelling and integers no fraction.
// Bytes of in alias body or memory of their own.
func (s *Struct) DecodeJSON(body []byte, in any, modes ...JSONMode) error {
	mode := join(modes)
	var r jsonwire.Reader
	r.Reset(body, jsonwire.Limits{})
	var bad violations
	err := s.readJSON(&r, reflect.ValueOf(in).Elem(), mode, &bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return s.malformed(err)
	}
	if mode&Partial != 0 && len(bad) == 0 {
		return nil
	}
	return s.finish(in, bad)
}

// readJSON reads one object into v, a settable struct. A member that is null was
// not seen (AWS JSON 1.1).
func (s *Struct) readJSON(r *jsonwire.Reader, v reflect.Value, mode JSONMode, bad *violations) error {
	if err := r.BeginObject(); err != nil {
		return err
	}
	var seen uint64
	for r.More() {
		name, err := r.Name()
		if err != nil {
			return err
		}
		f := s.Field(string(name))
		switch {
		case f == nil && mode&AWSJSON == 0:
			return fmt.Errorf("no member is called %.*q", maxEcho, name)
		case f == nil:
			err = r.Skip()
		case !r.Null():
			seen |= 1 << f.N
			err = f.readJSON(r, v.Field(f.index), mode, bad)
		}
		if err != nil && f != nil {
			return fmt.Errorf("member %s: %w", f.Name, err)
		} else if err != nil {
			return err
		}
	}
	if mode&Partial == 0 {
		s.absent(v, seen, bad)
	}
	return r.End()
}

// readJSON reads one value into v if it keeps the member's own constraints.
func (f *Field) readJSON(r *jsonwire.Reader, v reflect.Value, mode JSONMode, bad *violations) error {
	switch f.Shape {
	case ShapeText, ShapeKeyRef:
		b, err := r.Text()
		if err == nil {
			f.putString(v, b, bad)
		}
		return err
	case ShapeSecret, ShapeBlob:
		b, err := r.Blob()
		if err == nil {
			f.putString(v, b, bad)
		}
		return err
	case ShapeBool:
		b, err := r.Bool()
		v.SetBool(b)
		return err
	case ShapeInt, ShapeTime:
		n, err := f.readJSONInt(r, mode)
		if err == nil {
			f.putInt(v, n, bad)
		}
		return err
	case ShapeEnum:
		b, err := r.Text()
		if err == nil {
			f.putEnum(v, uint64(f.Names.Value(string(b))), string(b), bad)
		}
		return err
	case ShapeContext:
		c, err := readJSONContext(r)
		if err == nil {
			f.putContext(v, c, bad)
		}
		return err
	case ShapeStruct:
		from := len(*bad)
		err := f.Struct.readJSON(r, v, mode, bad)
		bad.nest(from, f)
		return err
	}
	return f.readJSONList(r, v, mode, bad)
}

// readJSONInt reads an integer, or a time in one of the forms of the mode.
func (f *Field) readJSONInt(r *jsonwire.Reader, mode JSONMode) (int64, error) {
	switch {
	case f.Shape == ShapeInt:
		return r.Int()
	case mode&AWSJSON == 0 && r.Kind() == jsonwire.Text:
		text, err := r.Text()
		if err != nil {
			return 0, err
		}
		t, err := parseTime(string(text))
		return int64(t), err
	}
	t, err := r.Micros()
	if err == nil {
		err = checkTime(t)
	}
	return t, err
}

// parseTime parses RFC 3339 text of microseconds at most.
func parseTime(text string) (Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, errors.New("time is not RFC 3339 text like 2026-01-02T15:04:05Z")
	}
	if t.Nanosecond()%1000 != 0 {
		return 0, errors.New("time is finer than a microsecond")
	}
	return TimeOf(t), checkTime(t.UnixMicro())
}

// readJSONContext reads an object of text and encodes it canonically. The reader
// has refused repeated keys, so the map loses none.
func readJSONContext(r *jsonwire.Reader) (EncryptionContext, error) {
	if err := r.BeginObject(); err != nil {
		return nil, err
	}
	pairs := map[string]string{}
	for r.More() {
		key, err := r.Name()
		if err != nil {
			return nil, err
		}
		value, err := r.Text()
		if err != nil {
			return nil, err
		}
		pairs[string(key)] = string(value)
	}
	return NewEncryptionContext(pairs), r.End()
}

// readJSONList reads an array; null is no item. How many there are is known only
// at its end, but no more are kept than the member allows.
func (f *Field) readJSONList(r *jsonwire.Reader, v reflect.Value, mode JSONMode, bad *violations) error {
	if err := r.BeginArray(); err != nil {
		return err
	}
	l := newList(f, v.Type(), 0, *bad)
	for r.More() {
		if err := f.Elem.readJSON(r, l.next(*bad), mode, bad); err != nil {
			return fmt.Errorf("item %d: %w", l.n-1, err)
		}
	}
	l.done(v, bad)
	return r.End()
}
