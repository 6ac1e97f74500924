package api

import (
	"fmt"
	"reflect"
)

// namedReader hands out the tokens of one document in which members have names:
// [jsonwire.Reader] and [cbor.Lenient] do. One walk over both means that what is
// wrong with a request is found in the same order on each.
type namedReader interface {
	tokens
	scalars
	Done() error
}

// tokens are what holds other values.
type tokens interface {
	BeginObject() error
	BeginArray() error
	More() bool
	End() error
	Name() ([]byte, error)
	Skip() error
}

// scalars are the values themselves. Micros reads a time in whatever form the
// wire has, in microseconds since 1970.
type scalars interface {
	Null() bool
	Text() ([]byte, error)
	Blob() ([]byte, error)
	Bool() (bool, error)
	Int() (int64, error)
	Micros() (int64, error)
}

// readNamed reads one object into v, a settable struct. A member that is null was
// not seen (AWS JSON 1.1, Smithy RPC v2 CBOR). What the members broke is put in
// their order, whatever order they came in.
func (s *Struct) readNamed(r namedReader, v reflect.Value, mode JSONMode, bad *violations) error {
	if err := r.BeginObject(); err != nil {
		return err
	}
	var seen uint64
	from := len(*bad)
	for r.More() {
		f, err := s.readMember(r, v, mode, bad)
		if err != nil {
			return err
		}
		if f != nil {
			seen |= 1 << f.N
		}
	}
	bad.sort(from)
	if mode&Partial == 0 {
		s.absent(v, seen, bad)
	}
	return r.End()
}

// readMember reads one name and its value, and returns the member unless it was
// unknown or null.
func (s *Struct) readMember(r namedReader, v reflect.Value, mode JSONMode, bad *violations) (*Field, error) {
	name, err := r.Name()
	if err != nil {
		return nil, err
	}
	f := s.Field(string(name))
	switch {
	case f == nil && mode&AWSJSON == 0:
		return nil, fmt.Errorf("no member is called %.*q", maxEcho, name)
	case f == nil:
		return nil, r.Skip()
	case r.Null():
		return nil, nil
	}
	before := len(*bad)
	if err := f.readNamed(r, v.Field(f.index), mode, bad); err != nil {
		return nil, fmt.Errorf("member %s: %w", f.Name, err)
	}
	bad.of(before, f)
	return f, nil
}

// readNamed reads one value into v if it keeps the member's own constraints.
func (f *Field) readNamed(r namedReader, v reflect.Value, mode JSONMode, bad *violations) error {
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
	case ShapeInt:
		n, err := r.Int()
		if err == nil {
			f.putInt(v, n, bad)
		}
		return err
	case ShapeTime:
		n, err := r.Micros()
		if err == nil {
			err = checkTime(n)
		}
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
		return f.readNamedContext(r, v, bad)
	case ShapeStruct:
		from := len(*bad)
		err := f.Struct.readNamed(r, v, mode, bad)
		bad.nest(from, f)
		return err
	}
	return f.readNamedList(r, v, mode, bad)
}

// readNamedContext reads an object of text and encodes it canonically. The reader
// has refused repeated keys, so the map loses none. Of a context that is too long
// no more is kept than is allowed: each pair takes its texts and two heads.
func (f *Field) readNamedContext(r namedReader, v reflect.Value, bad *violations) error {
	if err := r.BeginObject(); err != nil {
		return err
	}
	pairs, size := map[string]string{}, int64(0)
	for r.More() {
		key, err := r.Name()
		if err != nil {
			return err
		}
		value, err := r.Text()
		if err != nil {
			return err
		}
		if size += int64(len(key)+len(value)) + 2; size < f.Max {
			pairs[string(key)] = string(value)
		}
	}
	if size >= f.Max {
		f.badContext(bad)
	} else {
		f.putContext(v, NewEncryptionContext(pairs), bad)
	}
	return r.End()
}

// readNamedList reads an array. How many items there are is not believed before
// they are there, and no more are kept than the member allows.
func (f *Field) readNamedList(r namedReader, v reflect.Value, mode JSONMode, bad *violations) error {
	if err := r.BeginArray(); err != nil {
		return err
	}
	l := newList(f, v.Type(), 0, *bad)
	for r.More() {
		if err := f.Elem.readNamed(r, l.next(*bad), mode, bad); err != nil {
			return fmt.Errorf("item %d: %w", l.n-1, err)
		}
	}
	l.done(v, bad)
	return r.End()
}
