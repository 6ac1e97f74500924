package api

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/keyrack/keyrack/internal/cbor"
)

// DecodeCBOR reads body, a deterministic CBOR map {member number: value}, into
// in, a pointer to a zero value of s's type, and checks it. Strings and bytes of
// in alias body where their type allows. Unknown members, null, wrong types and
// non-canonical forms are KindSerialization; broken constraints are KindValidation
// with AWS's text, all of them in one error.
func (s *Struct) DecodeCBOR(body []byte, in any) error {
	r := cbor.NewReader(body)
	var bad violations
	err := s.read(&r, reflect.ValueOf(in).Elem(), &bad)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return Errorf(KindSerialization, "%s: %v", s.Name, err)
	}
	return s.finish(in, bad)
}

// finish turns what was wrong into one error, or runs the type's own Check.
func (s *Struct) finish(in any, bad violations) error {
	if len(bad) > 0 {
		return bad.err()
	}
	if s.check {
		return in.(Checker).Check()
	}
	return nil
}

// read reads one map into v, a settable struct.
func (s *Struct) read(r *cbor.Reader, v reflect.Value, bad *violations) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	var seen, next uint64
	for ; n > 0; n-- {
		k, err := r.UintKey(&next)
		if err != nil {
			return err
		}
		if k >= uint64(len(s.byN)) || s.byN[k] == nil {
			return fmt.Errorf("no member has number %d", k)
		}
		f := s.byN[k]
		if err := f.read(r, v.Field(f.index), bad); err != nil {
			return fmt.Errorf("member %s: %w", f.Name, err)
		}
		seen |= 1 << k
	}
	s.absent(v, seen, bad)
	return nil
}

// absent gives members that were not seen (bit N of seen) their default, or
// finds them missing.
func (s *Struct) absent(v reflect.Value, seen uint64, bad *violations) {
	for i := range s.Fields {
		f := &s.Fields[i]
		if seen&(1<<f.N) != 0 {
			continue
		}
		if f.Required {
			bad.add("Value null at '%s' failed to satisfy constraint: Member must not be null", f.Member)
		} else if f.Default != 0 {
			v.Field(f.index).SetUint(uint64(f.Default))
		}
	}
}

// read reads one value into v and checks the member's own constraints.
func (f *Field) read(r *cbor.Reader, v reflect.Value, bad *violations) error {
	switch f.Shape {
	case ShapeText, ShapeKeyRef, ShapeSecret, ShapeBlob:
		return f.readString(r, v, bad)
	case ShapeBool:
		b, err := r.Bool()
		v.SetBool(b)
		return err
	case ShapeInt, ShapeTime:
		n, err := r.Int()
		v.SetInt(n)
		f.checkRange(n, bad)
		return err
	case ShapeEnum:
		n, err := r.Uint()
		f.setEnum(v, n, bad)
		return err
	case ShapeContext:
		c, err := readContext(r)
		f.checkContext(c, bad)
		v.SetBytes(c)
		return err
	case ShapeStruct:
		return f.Struct.read(r, v, bad)
	}
	return f.readList(r, v, bad)
}

func (f *Field) readString(r *cbor.Reader, v reflect.Value, bad *violations) error {
	var b []byte
	var err error
	if f.Shape == ShapeText || f.Shape == ShapeKeyRef {
		b, err = r.Text()
	} else {
		b, err = r.Bytes()
	}
	if err != nil {
		return err
	}
	f.checkLength(b, bad)
	f.setString(v, b)
	return nil
}

// setString stores b; only plain Go strings are copied.
func (f *Field) setString(v reflect.Value, b []byte) {
	switch f.Shape {
	case ShapeText:
		v.SetString(string(b))
	case ShapeKeyRef:
		*v.Addr().Interface().(*KeyRef) = ParseKeyRef(b)
	default:
		v.SetBytes(b)
	}
}

func (f *Field) setEnum(v reflect.Value, n uint64, bad *violations) {
	if n == 0 || n > uint64(len(f.Names)) {
		bad.enum(f, fmt.Sprint(n))
		return
	}
	v.SetUint(n)
}

func (f *Field) readList(r *cbor.Reader, v reflect.Value, bad *violations) error {
	n, err := r.Array()
	if err != nil {
		return err
	}
	if most := f.Items[1]; most > 0 && n > most {
		bad.add("Value at '%s' failed to satisfy constraint: Member must have length less than or equal to %d", f.Member, most)
		for ; n > 0 && err == nil; n-- {
			_, err = r.Raw()
		}
		return err
	}
	if n < f.Items[0] {
		bad.add("Value at '%s' failed to satisfy constraint: Member must have length greater than or equal to %d", f.Member, f.Items[0])
	}
	list := reflect.MakeSlice(v.Type(), n, n)
	item := *f.Elem
	item.Member = f.Member
	for i := range n {
		if err := item.read(r, list.Index(i), bad); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	v.Set(list)
	return nil
}

// violations collects what AWS answers in one ValidationException.
type violations []string

func (vs *violations) add(format string, args ...any) {
	*vs = append(*vs, fmt.Sprintf(format, args...))
}

func (vs *violations) enum(f *Field, got string) {
	vs.add("Value '%s' at '%s' failed to satisfy constraint: Member must satisfy enum value set: [%s]",
		got, f.Member, strings.Join(f.Names, ", "))
}

// err returns AWS's text: the count, then each violation.
func (vs violations) err() *Error {
	plural := "s"
	if len(vs) == 1 {
		plural = ""
	}
	return Errorf(KindValidation, "%d validation error%s detected: %s", len(vs), plural, strings.Join(vs, "; "))
}

// maxEcho is how much of a value an error repeats.
const maxEcho = 64

// value returns how an error names the member's value: it repeats short texts
// that an audit record would show too, and nothing else.
func (f *Field) value(b []byte) string {
	if f.Shape == ShapeSecret || f.Shape == ShapeBlob || !f.Shown || len(b) > maxEcho {
		return "Value"
	}
	return fmt.Sprintf("Value '%s'", b)
}

func (f *Field) checkLength(b []byte, bad *violations) {
	n := int64(len(b))
	if f.Max > 0 && n > f.Max {
		bad.add("%s at '%s' failed to satisfy constraint: Member must have length less than or equal to %d", f.value(b), f.Member, f.Max)
	} else if n < f.Min {
		bad.add("%s at '%s' failed to satisfy constraint: Member must have length greater than or equal to %d", f.value(b), f.Member, f.Min)
	}
}

func (f *Field) checkRange(n int64, bad *violations) {
	if f.Max > 0 && n > f.Max {
		bad.add("Value '%d' at '%s' failed to satisfy constraint: Member must have value less than or equal to %d", n, f.Member, f.Max)
	} else if n < f.Min {
		bad.add("Value '%d' at '%s' failed to satisfy constraint: Member must have value greater than or equal to %d", n, f.Member, f.Min)
	}
}

func (f *Field) checkContext(c EncryptionContext, bad *violations) {
	if len(c) > MaxEncryptionContext {
		bad.add("Value at '%s' failed to satisfy constraint: Member must have at most %d bytes in its canonical encoding", f.Member, MaxEncryptionContext)
	}
}
