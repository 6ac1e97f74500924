package api

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/keyrack/keyrack/internal/cbor"
)

// DecodeCBOR reads body, a deterministic CBOR map {member number: value}, into
// in, a pointer to a zero value of s's type, and checks it. Strings and bytes of
// in alias body where their type allows. Unknown members, null, wrong types and
// non-canonical forms are KindSerialization; broken constraints are KindValidation
// with AWS's text, all of them in one error. After an error in holds those
// members that were read and allowed, which is what an audit record may show.
func (s *Struct) DecodeCBOR(body []byte, in any) error {
	r := cbor.NewReader(body)
	var bad violations
	err := s.read(&r, reflect.ValueOf(in).Elem(), ours, &bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return s.malformed(err)
	}
	return s.finish(in, bad)
}

// DecodeReply reads body into out as [Struct.DecodeCBOR] does, for the side that
// asked: a later version of the appliance may answer with more members and more
// enum values than this one knows, so unknown members are passed over, and a
// value that breaks a constraint leaves its member zero. What is malformed is
// KindSerialization still.
func (s *Struct) DecodeReply(body []byte, out any) error {
	r := cbor.NewReader(body)
	var bad violations
	err := s.read(&r, reflect.ValueOf(out).Elem(), theirs, &bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return s.malformed(err)
	}
	return nil
}

// side says whose table the members' numbers come from: ours, where an unknown
// one is an error, or that of a peer who may be newer.
type side bool

const (
	ours   side = false
	theirs side = true
)

// malformed wraps what a reader found; readers' errors hold no values.
func (s *Struct) malformed(err error) *Error {
	return Errorf(KindSerialization, "%s: %v", s.Name, err)
}

// read reads one map into v, a settable struct.
func (s *Struct) read(r *cbor.Reader, v reflect.Value, from side, bad *violations) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	var seen, next uint64 // seen: bit N for member N
	for ; n > 0; n-- {
		k, err := r.UintKey(&next)
		if err != nil {
			return err
		}
		if k >= uint64(len(s.byN)) || s.byN[k] == nil {
			if err := unknown(r, k, from); err != nil {
				return err
			}
			continue
		}
		f := s.byN[k]
		if err := f.read(r, v.Field(f.index), from, bad); err != nil {
			return fmt.Errorf("member %s: %w", f.Name, err)
		}
		seen |= 1 << k
	}
	s.absent(v, seen, bad)
	return nil
}

// unknown refuses a member that has no row, or passes over it.
func unknown(r *cbor.Reader, number uint64, from side) error {
	if from == ours {
		return fmt.Errorf("no member has number %d", number)
	}
	_, err := r.Raw()
	return err
}

// read reads one value into v if it keeps the member's own constraints.
func (f *Field) read(r *cbor.Reader, v reflect.Value, from side, bad *violations) error {
	switch f.Shape {
	case ShapeText, ShapeKeyRef:
		b, err := r.Text()
		if err == nil {
			f.putString(v, b, bad)
		}
		return err
	case ShapeSecret, ShapeBlob:
		b, err := r.Bytes()
		if err == nil {
			f.putString(v, b, bad)
		}
		return err
	case ShapeBool:
		b, err := r.Bool()
		v.SetBool(b)
		return err
	case ShapeInt, ShapeTime:
		return f.readInt(r, v, bad)
	case ShapeEnum:
		n, err := r.Uint()
		if err == nil {
			f.putEnum(v, n, strconv.FormatUint(n, 10), bad)
		}
		return err
	case ShapeContext:
		c, err := readContext(r)
		if err == nil {
			f.putContext(v, c, bad)
		}
		return err
	case ShapeStruct:
		before := len(*bad)
		err := f.Struct.read(r, v, from, bad)
		bad.nest(before, f)
		return err
	}
	return f.readList(r, v, from, bad)
}

// readInt reads an integer. A time beyond the bounds is malformed rather than
// invalid, because JSON's reader cannot tell how far beyond it is.
func (f *Field) readInt(r *cbor.Reader, v reflect.Value, bad *violations) error {
	n, err := r.Int()
	if err == nil && f.Shape == ShapeTime {
		err = checkTime(n)
	}
	if err == nil {
		f.putInt(v, n, bad)
	}
	return err
}

// readList reads an array. Its head was held to the length of the input, and no
// more items are kept than the member allows.
func (f *Field) readList(r *cbor.Reader, v reflect.Value, from side, bad *violations) error {
	n, err := r.Array()
	if err != nil {
		return err
	}
	l := newList(f, v.Type(), n, *bad)
	for i := range n {
		if err := f.Elem.read(r, l.next(*bad), from, bad); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	l.done(v, bad)
	return nil
}
