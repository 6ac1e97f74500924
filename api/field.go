package api

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// Shape is what a member looks like on a wire, whatever its Go type.
type Shape uint8

// The shapes.
const (
	ShapeText    Shape = iota + 1 // string
	ShapeKeyRef                   // KeyRef: text
	ShapeSecret                   // Secret: bytes, never shown
	ShapeBlob                     // Blob: bytes
	ShapeBool                     // bool
	ShapeInt                      // int64
	ShapeTime                     // Time: integer µs on the native wire, epoch seconds on AWS's
	ShapeEnum                     // uint8 with Names: number on the native wire, name on AWS's
	ShapeContext                  // EncryptionContext: map of text to text
	ShapeStruct                   // struct or *struct with a field table of its own
	ShapeList                     // slice of any of these
)

// Field is one member of a request or response: a row of its field table.
// Its tags say the rest:
//
//	n:"1"                        number on the native wire, 1 to 63, frozen
//	rule:"required,len=1:2048"   constraints; min=/max= for numbers, items= and each= for lists,
//	                             always: written even if zero
//	audit:"show"                 copied into the audit record
//	cond:"kms:EncryptionContext" condition key it feeds
//	default:"SYMMETRIC_DEFAULT"  value of an absent enum
type Field struct {
	Name     string // Go's and AWS's: "KeyId"
	Member   string // as AWS's validation messages write it: "keyId"
	N        uint64
	Shape    Shape
	Required bool
	Always   bool
	Min, Max int64  // length of text and bytes, value of numbers; Max 0 = no bound
	Items    [2]int // least and most items of a list; most 0 = no bound
	Shown    bool
	Cond     string
	Default  uint8  // enums
	Names    Names  // enums
	Elem     *Field // ShapeList: the item, unnamed
	Struct   *Struct

	index int
}

// Struct is the field table of one request, response or member type: compiled
// once from its tags, immutable, safe for concurrent use.
type Struct struct {
	Name   string
	Fields []Field // in order of N
	byN    [64]*Field
	typ    reflect.Type
	check  bool // the type has a method Check() error
}

// Checker is implemented by requests with rules across members; Check runs
// after the table's own constraints.
type Checker interface{ Check() error }

// structs holds the compiled tables by type.
var structs sync.Map // reflect.Type -> *Struct

// StructOf returns the field table of t, a struct type. It panics on a
// malformed tag or a member of a type that no wire knows.
func StructOf(t reflect.Type) *Struct {
	if s, ok := structs.Load(t); ok {
		return s.(*Struct)
	}
	s := &Struct{Name: t.Name(), typ: t, check: reflect.PointerTo(t).Implements(reflect.TypeFor[Checker]())}
	for i := range t.NumField() {
		s.Fields = append(s.Fields, compile(t, i))
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		if i > 0 && s.Fields[i-1].N >= f.N {
			panic(fmt.Sprintf("api: %s.%s: numbers must ascend in the order of the members", t, f.Name))
		}
		s.byN[f.N] = f
	}
	got, _ := structs.LoadOrStore(t, s)
	return got.(*Struct)
}

// Field returns the member called name (as AWS writes it), or nil.
func (s *Struct) Field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

func compile(t reflect.Type, i int) Field {
	sf := t.Field(i)
	f := Field{Name: sf.Name, Member: strings.ToLower(sf.Name[:1]) + sf.Name[1:], index: i}
	n, err := strconv.ParseUint(sf.Tag.Get("n"), 10, 8)
	if err != nil || n < 1 || n > 63 {
		panic(fmt.Sprintf("api: %s.%s: tag n must be a number from 1 to 63", t, sf.Name))
	}
	f.N, f.Shown, f.Cond = n, sf.Tag.Get("audit") == "show", sf.Tag.Get("cond")
	f.shape(sf.Type)
	if f.Shown && f.Shape == ShapeSecret {
		panic(fmt.Sprintf("api: %s.%s: a secret cannot be shown", t, sf.Name))
	}
	for rule := range strings.SplitSeq(sf.Tag.Get("rule"), ",") {
		if !f.rule(rule) {
			panic(fmt.Sprintf("api: %s.%s: bad rule %q", t, sf.Name, rule))
		}
	}
	if d := sf.Tag.Get("default"); d != "" {
		if f.Default = f.Names.Value(d); f.Default == 0 {
			panic(fmt.Sprintf("api: %s.%s: default %q is not in the enum", t, sf.Name, d))
		}
	}
	return f
}

// shape finds the shape of a Go type.
func (f *Field) shape(t reflect.Type) {
	switch t {
	case reflect.TypeFor[KeyRef]():
		f.Shape = ShapeKeyRef
	case reflect.TypeFor[Secret]():
		f.Shape = ShapeSecret
	case reflect.TypeFor[Blob]():
		f.Shape = ShapeBlob
	case reflect.TypeFor[Time]():
		f.Shape = ShapeTime
	case reflect.TypeFor[EncryptionContext]():
		f.Shape = ShapeContext
	default:
		f.shapeOfKind(t)
	}
}

func (f *Field) shapeOfKind(t reflect.Type) {
	switch t.Kind() {
	case reflect.String:
		f.Shape = ShapeText
	case reflect.Bool:
		f.Shape = ShapeBool
	case reflect.Int64:
		f.Shape = ShapeInt
	case reflect.Uint8:
		f.Shape, f.Names = ShapeEnum, reflect.Zero(t).Interface().(Enum).Names()
	case reflect.Struct:
		f.Shape, f.Struct = ShapeStruct, StructOf(t)
	case reflect.Slice:
		f.Shape, f.Elem = ShapeList, &Field{}
		f.Elem.shape(t.Elem())
	default:
		panic(fmt.Sprintf("api: no wire knows members of type %s", t))
	}
}

// rule applies one comma-separated part of a rule tag.
func (f *Field) rule(r string) bool {
	name, arg, _ := strings.Cut(r, "=")
	lo, hi, _ := strings.Cut(arg, ":")
	a, errA := strconv.ParseInt(lo, 10, 64)
	b, errB := strconv.ParseInt(hi, 10, 64)
	if arg != "" && (errA != nil || errB != nil) {
		return false
	}
	switch name {
	case "":
	case "required":
		f.Required = true
	case "always":
		f.Always = true
	case "len", "range":
		f.Min, f.Max = a, b
	case "items":
		f.Items = [2]int{int(a), int(b)}
	case "each":
		f.Elem.Min, f.Elem.Max = a, b
	default:
		return false
	}
	return true
}
