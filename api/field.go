package api

import "reflect"

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
	ShapeTime                     // Time: integer µs on the native wire, epoch seconds on AWS's wires
	ShapeEnum                     // uint8 with Names: number on the native wire, name on AWS's wires
	ShapeContext                  // EncryptionContext: map of text to text
	ShapeStruct                   // struct with a field table of its own
	ShapeList                     // slice of any of these but lists
)

var shapes = Names{"text", "key reference", "secret", "blob", "boolean", "integer", "time", "enum", "encryption context", "structure", "list"}

// String returns a word or two for people.
func (s Shape) String() string { return shapes.Name(uint8(s)) }

// Field is one member of a request or response: a row of its field table.
// Its tags say the rest:
//
//	n:"1"                        number on the native wire, 1 to 63, frozen
//	rule:"required,len=1:2048"   constraints: len= for text (code points) and bytes, range= for
//	                             integers, items= and each= for lists; required; always:
//	                             written even if zero; key, target, alias: see [Form];
//	                             like= for text: see [Pattern]
//	audit:"show"                 copied into the audit record; of a structure, what it shows itself
//	audit:"only"                 the same for a member of a response that stands on no wire: what AWS's answer
//	                             has not, and the record should have
//	cond:"kms:EncryptionContext" condition key it feeds
//	default:"SYMMETRIC_DEFAULT"  value of an absent enum
type Field struct {
	Name     string // Go's and AWS's: "KeyId"
	Member   string // as AWS's validation messages write it: "keyId"
	Flag     string // as the command line writes it: "key-id"
	N        uint64
	Shape    Shape
	Required bool
	Always   bool
	Min, Max int64    // length of text and bytes, value of integers; at most [Unbounded]
	Items    [2]int   // least and most items of a list
	Form     Form     // texts and key references
	Pattern  *Pattern // texts; nil = any
	Shown    bool
	Unsent   bool // shown, and on no wire
	Cond     string
	Default  uint8   // enums
	Names    Names   // enums
	Elem     *Field  // ShapeList: the item, unnamed
	Struct   *Struct // ShapeStruct

	index int  // of the Go field
	zero  bool // a zero value is written: it says something else than absence
}

// Struct is the field table of one request, response or member type: compiled
// once from its tags, immutable, safe for concurrent use.
type Struct struct {
	Name   string
	Fields []Field // in order of N
	byN    [maxNumber + 1]*Field
	check  bool // the type has a method Check() error
}

// Checker is implemented by requests with rules across members; Check runs
// after the table's own constraints.
type Checker interface{ Check() error }

// Field returns the member called name (as AWS writes it), or nil.
func (s *Struct) Field(name string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return &s.Fields[i]
		}
	}
	return nil
}

// Flag returns the member that the command line calls flag ("key-id"), or nil.
func (s *Struct) Flag(flag string) *Field {
	for i := range s.Fields {
		if s.Fields[i].Flag == flag {
			return &s.Fields[i]
		}
	}
	return nil
}

// selection says which members a walk takes.
type selection bool

const (
	everything selection = false
	shownOnly  selection = true
)

// taken reports whether a walk writes the member with value v. An audit record
// leaves out every zero, a wire only those that mean absence.
func (f *Field) taken(v reflect.Value, sel selection) bool {
	switch {
	case sel == shownOnly:
		return f.Shown && (f.Always || f.present(v, sel))
	case f.Unsent:
		return false
	}
	return f.zero || f.present(v, sel)
}

// present reports whether a value is more than absent: a structure, whether one
// of the members that the walk may take is.
func (f *Field) present(v reflect.Value, sel selection) bool {
	switch f.Shape {
	case ShapeText, ShapeSecret, ShapeBlob, ShapeContext, ShapeList:
		return v.Len() > 0
	case ShapeKeyRef:
		return v.Addr().Interface().(*KeyRef).Form != RefAbsent
	case ShapeStruct:
		return f.Struct.present(v, sel)
	}
	return !v.IsZero()
}

// present reports whether a member that the walk may take is more than absent.
func (s *Struct) present(v reflect.Value, sel selection) bool {
	for i := range s.Fields {
		f := &s.Fields[i]
		if (sel == everything && !f.Unsent || sel == shownOnly && f.Shown) && f.present(v.Field(f.index), sel) {
			return true
		}
	}
	return false
}
