package api

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// violation is one broken constraint, in the parts of AWS's sentence.
type violation struct {
	value  string // " null", " 'x'", or "" for a value that is not repeated
	member string // "keyId", "tags.1.member.tagKey"
	rule   string // "Member must not be null"
	n      uint64 // of the member of the structure that is being read

	refusal *Error // instead: the operation's own error, if no constraint is broken
}

// violations collects what AWS answers in one ValidationException. A value that
// broke a constraint is not stored, so what an audit record shows is bounded.
type violations []violation

// add notes a broken constraint of f. value is how the sentence repeats the value,
// with a space before it, or "".
func (vs *violations) add(f *Field, value, format string, args ...any) {
	*vs = append(*vs, violation{value: value, member: f.Member, rule: fmt.Sprintf(format, args...)})
}

// refuse notes that the operation will answer with e, unless a constraint is broken.
func (vs *violations) refuse(e *Error) { *vs = append(*vs, violation{refusal: e}) }

// of says that all from index from on was broken by f or within it.
func (vs violations) of(from int, f *Field) {
	for i := range vs[from:] {
		vs[from+i].n = f.N
	}
}

// sort puts all from index from on into the order of the members of one structure,
// for wires whose members come in any. AWS has no order that holds for all services.
func (vs violations) sort(from int) {
	slices.SortStableFunc(vs[from:], func(a, b violation) int { return cmp.Compare(a.n, b.n) })
}

// nest names the structure f in what its members broke: all from index from
// on. Items have no name of their own; their list knows their place.
func (vs violations) nest(from int, f *Field) {
	if f.Member != "" {
		vs.within(from, f.Member+".")
	}
}

// within puts path before the names of all violations from index from on.
func (vs violations) within(from int, path string) {
	for i := range vs[from:] {
		vs[from+i].member = path + vs[from+i].member
	}
}

// err returns AWS's text: the count, then each violation. Where there is none,
// it returns the first refusal.
func (vs violations) err() *Error {
	texts := make([]string, 0, len(vs))
	for _, v := range vs {
		if v.refusal == nil {
			texts = append(texts, fmt.Sprintf("Value%s at '%s' failed to satisfy constraint: %s", v.value, v.member, v.rule))
		}
	}
	plural := "s"
	switch len(texts) {
	case 0:
		return vs[0].refusal
	case 1:
		plural = ""
	}
	return Errorf(KindValidation, "%d validation error%s detected: %s", len(texts), plural, strings.Join(texts, "; "))
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

// absent gives members that were not seen (bit N of seen) their default, or
// finds them missing.
func (s *Struct) absent(v reflect.Value, seen uint64, bad *violations) {
	for i := range s.Fields {
		f := &s.Fields[i]
		if seen&(1<<f.N) != 0 {
			continue
		}
		if f.Required {
			bad.add(f, " null", "Member must not be null")
		} else if f.Default != 0 {
			v.Field(f.index).SetUint(uint64(f.Default))
		}
	}
}

// maxEcho is how many bytes of a value an error repeats.
const maxEcho = 64

// echo returns how an error repeats a value: only short, printable texts that
// an audit record would show too.
func (f *Field) echo(text string) string {
	if !f.Shown || len(text) > maxEcho || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return ""
	}
	return " '" + text + "'"
}

// putString checks and stores text or bytes; only plain Go strings are copied.
// Empty bytes are nil, as if they were absent.
func (f *Field) putString(v reflect.Value, b []byte, bad *violations) {
	switch {
	case f.Pattern != nil:
		f.putPatterned(v, b, bad)
	case !f.fits(b):
		f.badLength(b, bad)
	case len(b) == 0:
	case f.Shape == ShapeText:
		v.SetString(string(b))
	case f.Shape == ShapeKeyRef:
		ref := ParseKeyRef(b)
		if e := f.Form.refuse(ref); e != nil {
			bad.refuse(e)
			return
		}
		*v.Addr().Interface().(*KeyRef) = ref
	default:
		v.SetBytes(b)
	}
}

// fits reports whether b's length is within bounds. Text has at most as many
// code points as bytes, so most of it need not be counted.
func (f *Field) fits(b []byte) bool {
	n := int64(len(b))
	if n >= f.Min && n <= f.Max && (f.Min <= 1 || !f.text()) {
		return true
	}
	n = f.length(b)
	return n >= f.Min && n <= f.Max
}

// text reports whether the member is text on the wire.
func (f *Field) text() bool { return f.Shape == ShapeText || f.Shape == ShapeKeyRef }

// length returns the length of a value as AWS counts it: Unicode code points of
// text (Smithy 2.0, length trait), bytes otherwise.
func (f *Field) length(b []byte) int64 {
	if f.text() {
		return int64(utf8.RuneCount(b))
	}
	return int64(len(b))
}

// badLength notes which bound b's length breaks.
func (f *Field) badLength(b []byte, bad *violations) {
	value := ""
	if f.text() && len(b) <= maxEcho {
		value = f.echo(string(b))
	}
	if f.length(b) > f.Max {
		bad.add(f, value, lengthAtMost, f.Max)
	} else {
		bad.add(f, value, lengthAtLeast, f.Min)
	}
}

// AWS's words.
const (
	lengthAtMost  = "Member must have length less than or equal to %d"
	lengthAtLeast = "Member must have length greater than or equal to %d"
	valueAtMost   = "Member must have value less than or equal to %d"
	valueAtLeast  = "Member must have value greater than or equal to %d"
	oneOf         = "Member must satisfy enum value set: [%s]"
)

// putInt checks and stores an integer or a time. A time that is given is not 0, which in
// a request means that it was left out.
func (f *Field) putInt(v reflect.Value, n int64, bad *violations) {
	switch {
	case n == 0 && f.Shape == ShapeTime && !f.Always:
		bad.add(f, " '0'", "Member must be another time than 1970-01-01T00:00:00Z")
	case n > f.Max:
		bad.add(f, fmt.Sprintf(" '%d'", n), valueAtMost, f.Max)
	case n < f.Min:
		bad.add(f, fmt.Sprintf(" '%d'", n), valueAtLeast, f.Min)
	default:
		v.SetInt(n)
	}
}

// putEnum stores value n of the enum; 0 and what is beyond the list break the
// constraint, and got is how the caller wrote it.
func (f *Field) putEnum(v reflect.Value, n uint64, got string, bad *violations) {
	if n == 0 || n > uint64(len(f.Names)) {
		bad.add(f, f.echo(got), oneOf, strings.Join(f.Names, ", "))
		return
	}
	v.SetUint(n)
}

// putContext checks and stores an encryption context.
func (f *Field) putContext(v reflect.Value, c EncryptionContext, bad *violations) {
	if int64(len(c)) > f.Max {
		f.badContext(bad)
		return
	}
	v.SetBytes(c)
}

// badContext notes that a context is too long.
func (f *Field) badContext(bad *violations) {
	bad.add(f, "", "Member must have at most %d bytes in its canonical encoding", f.Max)
}

// list gathers the items of one list as they are read. Items beyond the bound
// are read, so that their form is checked, but not kept.
type list struct {
	f        *Field
	items    reflect.Value
	n        int // items begun
	from, at int // violations before the list, before the last item
}

// newList begins a list; n is how many items are expected, if that is known.
func newList(f *Field, t reflect.Type, n int, bad violations) list {
	l := list{f: f, items: reflect.New(t).Elem(), from: len(bad), at: len(bad)}
	l.items.Grow(min(n, f.Items[1]))
	return l
}

// next returns where the next item goes.
func (l *list) next(bad violations) reflect.Value {
	l.endItem(bad)
	if l.n++; l.n <= l.f.Items[1] {
		l.items.Grow(1)
		l.items.SetLen(l.n)
	}
	item := l.items.Index(l.items.Len() - 1)
	item.SetZero()
	return item
}

// endItem names the last item in what its members broke, as AWS does.
func (l *list) endItem(bad violations) {
	if len(bad) > l.at {
		bad.within(l.at, fmt.Sprintf("%s.%d.member.", l.f.Member, l.n))
		l.at = len(bad)
	}
}

// done checks the list as a whole and stores it in v.
func (l *list) done(v reflect.Value, bad *violations) {
	l.endItem(*bad)
	broken := len(*bad) > l.from
	if l.f.Elem.Shape != ShapeStruct && broken {
		*bad = (*bad)[:l.from]
		bad.add(l.f, "", "Member must satisfy constraint: [%s]", strings.Join(l.f.Elem.constraints(), ", "))
	}
	switch {
	case l.n > l.f.Items[1]:
		*bad = slices.Delete(*bad, l.from, len(*bad))
		bad.add(l.f, "", lengthAtMost, l.f.Items[1])
	case l.n < l.f.Items[0]:
		bad.add(l.f, "", lengthAtLeast, l.f.Items[0])
	case !broken:
		v.Set(l.items)
	}
}

// constraints returns all of an item's rules, as AWS lists them for the items
// of a list.
func (f *Field) constraints() []string {
	switch f.Shape {
	case ShapeEnum:
		return []string{fmt.Sprintf(oneOf, strings.Join(f.Names, ", "))}
	case ShapeInt:
		return []string{fmt.Sprintf(valueAtMost, f.Max), fmt.Sprintf(valueAtLeast, f.Min)}
	}
	return []string{fmt.Sprintf(lengthAtMost, f.Max), fmt.Sprintf(lengthAtLeast, f.Min)}
}
