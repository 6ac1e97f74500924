package api

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

const (
	// Unbounded is the upper bound of a member that has none.
	Unbounded = math.MaxInt64

	maxNumber = 63 // of a member: what was seen is a bitmap of 64 bits
)

// structs holds the compiled tables by type.
var structs sync.Map // reflect.Type -> *Struct

// StructOf returns the field table of t, a struct type. It panics on a
// malformed tag or a member of a type that no wire knows: a programmer's error.
func StructOf(t reflect.Type) *Struct {
	if s, ok := structs.Load(t); ok {
		return s.(*Struct)
	}
	// Two goroutines may both compile a type; all then use the table that was
	// stored first, so that tables can be compared by their pointers.
	s := &Struct{Name: t.Name(), check: reflect.PointerTo(t).Implements(reflect.TypeFor[Checker]())}
	for i := range t.NumField() {
		f := Field{index: i}
		if fault := f.compile(t.Field(i)); fault != "" {
			panic(fmt.Sprintf("api: %s.%s: %s", t, t.Field(i).Name, fault))
		}
		s.Fields = append(s.Fields, f)
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		// Encoders walk Fields in order, and the keys of a map must ascend.
		if i > 0 && s.Fields[i-1].N >= f.N {
			panic(fmt.Sprintf("api: %s.%s: numbers must ascend in the order of the members", t, f.Name))
		}
		s.byN[f.N] = f
	}
	got, _ := structs.LoadOrStore(t, s)
	return got.(*Struct)
}

// compile fills f from a Go field and returns what is wrong with it, or "".
func (f *Field) compile(sf reflect.StructField) (fault string) {
	if !sf.IsExported() {
		return "members must be exported"
	}
	f.Name, f.Member, f.Flag = sf.Name, strings.ToLower(sf.Name[:1])+sf.Name[1:], kebab(sf.Name)
	if !f.shape(sf.Type) {
		return fmt.Sprintf("no wire knows members of type %s", sf.Type)
	}
	var err error
	if f.N, err = strconv.ParseUint(sf.Tag.Get("n"), 10, 8); err != nil || f.N < 1 || f.N > maxNumber {
		return fmt.Sprintf("tag n must be a number from 1 to %d", maxNumber)
	}
	// Not Tag.Lookup: it cannot find a tag whose name is misspelt. No value holds
	// a quote followed by a space, so that is where tags end.
	for part := range strings.SplitSeq(string(sf.Tag), `" `) {
		name, value, _ := strings.Cut(part, `:"`)
		if fault := f.tag(name, strings.TrimSuffix(value, `"`)); fault != "" {
			return fault
		}
	}
	if f.Always && !f.allowsZero() {
		return "its rules do not allow the zero that always writes"
	}
	f.zero = f.Always || f.Required && f.allowsZero()
	return ""
}

// tag applies one tag. An unknown one is a fault: a misspelt rule is no rule.
func (f *Field) tag(name, value string) (fault string) {
	switch name {
	case "n":
	case "cond":
		f.Cond = value
	case "rule":
		for rule := range strings.SplitSeq(value, ",") {
			if !f.rule(rule) {
				return fmt.Sprintf("bad rule %q for %s", rule, f.Shape)
			}
		}
	case "default":
		if f.Default = f.Names.Value(value); f.Default == 0 {
			return fmt.Sprintf("default %q is not in the enum", value)
		}
	case "audit":
		if f.Shown, f.Unsent = value == "show" || value == "only", value == "only"; !f.Shown {
			return fmt.Sprintf("audit is %q, want \"show\", \"only\" or no tag", value)
		}
		if f.Shape == ShapeSecret || f.Shape == ShapeList && f.Elem.Shape == ShapeSecret {
			return "a secret cannot be shown"
		}
	default:
		return fmt.Sprintf("unknown tag %q", name)
	}
	return ""
}

// shape finds the shape of a Go type, and the bounds that come with it.
func (f *Field) shape(t reflect.Type) bool {
	f.Max = Unbounded
	switch t {
	case reflect.TypeFor[KeyRef]():
		f.Shape = ShapeKeyRef
	case reflect.TypeFor[Secret]():
		f.Shape = ShapeSecret
	case reflect.TypeFor[Blob]():
		f.Shape = ShapeBlob
	case reflect.TypeFor[Time]():
		f.Shape, f.Min, f.Max = ShapeTime, -maxTime, maxTime
	case reflect.TypeFor[EncryptionContext]():
		f.Shape, f.Max = ShapeContext, MaxEncryptionContext
	default:
		return f.shapeOfKind(t)
	}
	return true
}

// shapeOfKind finds the shape of a type that has none by its name. A plain
// []byte has none: it must say whether it is a Secret or a Blob.
func (f *Field) shapeOfKind(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String:
		f.Shape = ShapeText
	case reflect.Bool:
		f.Shape = ShapeBool
	case reflect.Int64:
		f.Shape, f.Min = ShapeInt, math.MinInt64
	case reflect.Uint8:
		e, ok := reflect.Zero(t).Interface().(Enum)
		if !ok {
			return false
		}
		f.Shape, f.Names = ShapeEnum, e.Names()
	case reflect.Struct:
		f.Shape, f.Struct = ShapeStruct, StructOf(t)
	case reflect.Slice:
		f.Shape, f.Items, f.Elem = ShapeList, [2]int{0, math.MaxInt}, &Field{}
		return f.Elem.shape(t.Elem()) && f.Elem.Shape != ShapeList
	default:
		return false
	}
	return true
}

// rule applies one comma-separated part of a rule tag; it must fit the shape.
func (f *Field) rule(r string) bool {
	switch r {
	case "required":
		f.Required = true
		return true
	case "always":
		f.Always = true
		return true
	}
	if form := Form(forms.Value(r)); form != AnyForm {
		f.Form, f.Pattern = form, patterns[r]
		return f.Shape == ShapeKeyRef && form != AliasForm || f.Shape == ShapeText && form == AliasForm
	}
	name, bounds, _ := strings.Cut(r, "=")
	if name == "like" {
		f.Pattern = patterns[bounds]
		return f.Shape == ShapeText && f.Pattern != nil
	}
	lo, hi, _ := strings.Cut(bounds, ":")
	a, errA := strconv.ParseInt(lo, 10, 64)
	b, errB := strconv.ParseInt(hi, 10, 64)
	if errA != nil || errB != nil || a > b {
		return false
	}
	if name == "items" {
		f.Items = [2]int{int(a), int(b)}
		return f.Shape == ShapeList && a >= 0 && b >= 1
	}
	if name == "each" {
		// Items are either of text and bytes, or integers: one of the two fits.
		return f.Shape == ShapeList && (f.Elem.bound("len", a, b) || f.Elem.bound("range", a, b))
	}
	return f.bound(name, a, b)
}

// bound sets the bounds of a length or a value.
func (f *Field) bound(name string, a, b int64) bool {
	f.Min, f.Max = a, b
	switch f.Shape {
	case ShapeText, ShapeKeyRef, ShapeSecret, ShapeBlob:
		return name == "len" && a >= 0
	case ShapeInt:
		return name == "range"
	}
	return false
}

// allowsZero reports whether a member's zero value is one that a caller may
// send, so that a required one must be written.
func (f *Field) allowsZero() bool {
	switch f.Shape {
	case ShapeBool:
		return true
	case ShapeText, ShapeSecret, ShapeBlob, ShapeInt:
		return f.Min <= 0 && f.Max >= 0
	case ShapeList:
		return f.Items[0] == 0
	}
	return false
}

// kebab returns the command line's spelling of a Go name: words in lower case
// with hyphens between them, where a run of capitals is a word of its own.
func kebab(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, c := range runes {
		upper := unicode.IsUpper(c)
		if i > 0 && upper && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
