package protocol_test

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/protocol"
)

const cddlHead = `; keyrack's native protocol in CDDL (RFC 8610), printed from the field tables of api/* by
; go test ./protocol -update. PROTOCOL.md says what it means.
;
; A frame is a length of 32 bits, big-endian, and one of these two in deterministic CBOR (RFC 8949, section 4.2.1).
; CDDL counts text in bytes, AWS and we in code points, so lengths of text stand in comments, and rules across members
; in PROTOCOL.md, "Operations".

from-client = request
from-server = hello / reply / error

id = 1..18446744073709551615
any-id = 0..18446744073709551615               ; 0: the connection itself, which ends
options = {}                                   ; none is defined

; Members that a later version may add to what a server sends. A client passes over them.
more = ( * uint => any )

error = [any-id, error-kind / later-kind, {
  ? 1: tstr,                                   ; message, for people
  ? 2: uint,                                   ; ms to wait before the next try
  ? 3: tstr,                                   ; reason, for programs
  more
}]

int64 = -9223372036854775808..9223372036854775807
micros = -9007199254740992..9007199254740992   ; us since 1970-01-01T00:00:00Z
key-ref = tstr                                 ; key id, key ARN, alias name or alias ARN
encryption-context = { * tstr => tstr }        ; at most %d bytes
`

// direction is whose a type is: what a server sends may grow.
type direction bool

const (
	sent     direction = false
	received direction = true // by a client
)

// wireType is a struct or an enum of the table of operations.
type wireType struct {
	name string // kms.Tag
	t    reflect.Type
	dir  direction
}

// wireTypes returns the types that op's messages are made of, in the order of
// their first use, without those in seen.
func wireTypes(op *api.Op, seen map[wireType]bool) (all []wireType) {
	var walk func(t reflect.Type, dir direction)
	walk = func(t reflect.Type, dir direction) {
		for t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		isEnum := t.Implements(reflect.TypeFor[api.Enum]())
		w := wireType{op.Service.Name + "." + t.Name(), t, dir && !direction(isEnum)}
		if !isEnum && (t.Kind() != reflect.Struct || t == reflect.TypeFor[api.KeyRef]()) || seen[w] {
			return
		}
		seen[w] = true
		if all = append(all, w); !isEnum {
			for i := range t.NumField() {
				walk(t.Field(i).Type, dir)
			}
		}
	}
	walk(reflect.TypeOf(op.NewIn()).Elem(), sent)
	walk(reflect.TypeOf(op.NewOut()).Elem(), received)
	return all
}

// sentStructs holds the structs that requests are made of.
var sentStructs = sync.OnceValue(func() map[reflect.Type]bool {
	all, seen := map[reflect.Type]bool{}, map[wireType]bool{}
	for _, op := range table.All() {
		for _, w := range wireTypes(op, seen) {
			if w.dir == sent && w.t.Kind() == reflect.Struct {
				all[w.t] = true
			}
		}
	}
	return all
})

// cddlName is what CDDL calls a type. A struct that goes both ways has two names,
// because what a server sends may grow.
func cddlName(service string, t reflect.Type, dir direction) string {
	name := service + "." + t.Name()
	if dir == received && sentStructs()[t] {
		name += "-reply"
	}
	return name
}

// cddlType is the type of a member in CDDL; t is its Go type.
func cddlType(service string, f *api.Field, t reflect.Type, dir direction) string {
	switch f.Shape {
	case api.ShapeText:
		return "tstr"
	case api.ShapeKeyRef:
		return "key-ref"
	case api.ShapeSecret, api.ShapeBlob:
		if f.Max == api.Unbounded {
			return "bstr"
		}
		return fmt.Sprintf("bstr .size (%d..%d)", f.Min, f.Max)
	case api.ShapeBool:
		return "bool"
	case api.ShapeTime:
		return "micros"
	case api.ShapeContext:
		return "encryption-context"
	case api.ShapeList:
		return "[" + occurrence(f.Items) + " " + cddlType(service, f.Elem, t.Elem(), dir) + "]"
	case api.ShapeInt:
		if f.Max == api.Unbounded {
			return "int64"
		}
		return fmt.Sprintf("%d..%d", f.Min, f.Max)
	}
	return cddlName(service, t, dir)
}

// codePoints says how long a text, or a text in a list, may be; "" if that is
// not bounded.
func codePoints(f *api.Field) string {
	switch {
	case f.Shape == api.ShapeList && codePoints(f.Elem) != "":
		return "each " + codePoints(f.Elem)
	case f.Shape != api.ShapeText && f.Shape != api.ShapeKeyRef || f.Max == api.Unbounded:
		return ""
	case f.Min == f.Max:
		return fmt.Sprintf("%d code points", f.Max)
	}
	return fmt.Sprintf("%d to %d code points", f.Min, f.Max)
}

func occurrence(items [2]int) string {
	text := "*"
	if items[0] > 0 {
		text = fmt.Sprint(items[0], text)
	}
	if items[1] < math.MaxInt {
		text += fmt.Sprint(items[1])
	}
	return text
}

// cddlMap is a struct as a map in CDDL. What a server sends may grow.
func cddlMap(service string, t reflect.Type, dir direction) string {
	var b strings.Builder
	b.WriteString("{\n")
	for _, f := range api.StructOf(t).Fields {
		if f.Unsent {
			continue
		}
		optional, note := "? ", f.Name
		if length := codePoints(&f); length != "" {
			note += ", " + length
		}
		if f.Form != api.AnyForm {
			note += ", " + f.Form.String()
		} else if f.Pattern != nil {
			note += ", " + f.Pattern.String()
		}
		if f.Required || f.Always && dir == received {
			optional = ""
		}
		if f.Default != 0 {
			note += fmt.Sprintf(", %d if absent", f.Default)
		}
		sf, _ := t.FieldByName(f.Name)
		fmt.Fprintf(&b, "  %-44s ; %s\n", fmt.Sprintf("%s%d: %s,", optional, f.N, cddlType(service, &f, sf.Type, dir)), note)
	}
	if dir == received {
		b.WriteString("  more\n")
	}
	return b.String() + "}"
}

func cddlEnum(t reflect.Type) string {
	var items []string
	for i, name := range reflect.Zero(t).Interface().(api.Enum).Names() {
		items = append(items, fmt.Sprintf("%s: %d", name, i+1))
	}
	return choice(items)
}

// choice is a choice of named numbers.
func choice(items []string) string { return "&(\n  " + strings.Join(items, ",\n  ") + "\n)" }

func cddlText() string {
	var b, types strings.Builder
	fmt.Fprintf(&b, cddlHead, api.MaxEncryptionContext)
	fmt.Fprintf(&b, "\nhello = [0, 0, %s]\n", cddlMap("", reflect.TypeFor[protocol.Hello](), received))
	var requests, replies []string
	seen := map[wireType]bool{}
	for _, op := range table.All() {
		name := op.Service.Name + "." + op.Name
		requests, replies = append(requests, name), append(replies, name+"-reply")
		fmt.Fprintf(&types, "\n%s = [id, %d, %sRequest, options]\n%s-reply = [id, 0, %sResponse]\n", name, op.Number, name, name, name)
		for _, w := range wireTypes(op, seen) {
			definition := ""
			if w.t.Kind() == reflect.Struct {
				definition = cddlMap(op.Service.Name, w.t, w.dir)
			} else {
				definition = cddlEnum(w.t)
			}
			fmt.Fprintf(&types, "%s = %s\n", cddlName(op.Service.Name, w.t, w.dir), definition)
		}
	}
	fmt.Fprintf(&b, "\nrequest = %s\n\nreply = %s\n", strings.Join(requests, "\n  / "), strings.Join(replies, "\n  / "))
	return b.String() + types.String() + "\n" + cddlKinds()
}

func cddlKinds() string {
	var items []string
	for _, k := range api.Kinds() {
		items = append(items, fmt.Sprintf("%s: %d", k, k))
	}
	return fmt.Sprintf("error-kind = %s\nlater-kind = %d..255\n", choice(items), len(items)+1)
}

// One rule must not be written twice, also where a struct goes both ways.
func TestEachCDDLRuleIsDefinedOnce(t *testing.T) {
	t.Parallel()
	var names []string
	for line := range strings.Lines(cddlText()) {
		if name, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, ";") && !strings.HasPrefix(line, " ") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i := range len(names) - 1 {
		if names[i] == names[i+1] {
			t.Errorf("%s is defined twice", names[i])
		}
	}
	if len(names) < 20 {
		t.Errorf("found %d rules only", len(names))
	}
}

func TestCDDLIsCurrent(t *testing.T) {
	t.Parallel()
	const path = "keyrack.cddl"
	want := cddlText()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the field tables say: run go test ./protocol -run CDDL -update and look at the difference", path)
	}
}
