package table_test

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/protocol"
)

var update = flag.Bool("update", false, "add new numbers to testdata/numbers.golden")

const golden = "testdata/numbers.golden"

// TestNumbersAreFrozen compares every number of the native wire with the golden
// file. A line of the file never changes and never goes: peers and audit records
// of earlier versions use it. -update adds lines, and nothing else.
func TestNumbersAreFrozen(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile(golden)
	if err != nil && !*update {
		t.Fatal(err)
	}
	now, frozen := numbers(), strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")
	for _, line := range frozen {
		if line != "" && !slices.Contains(now, line) {
			t.Errorf("this line is frozen and no longer true: %s", line)
		}
	}
	added := 0
	for _, line := range now {
		if !slices.Contains(frozen, line) {
			if added++; !*update {
				t.Errorf("new, to be frozen by go test ./api/table -update: %s", line)
			}
		}
	}
	if *update && added > 0 && !t.Failed() {
		if err := os.WriteFile(golden, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// numbers returns a line for each number, in the order of the tables.
func numbers() (lines []string) {
	seen := map[string]bool{}
	add := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	for _, op := range table.Recorded() {
		add("service %s %d", op.Service.Name, op.Service.Block)
		in, out := reflect.TypeOf(op.NewIn()).Elem(), reflect.TypeOf(op.NewOut()).Elem()
		add("operation %s %d %s %s", op.Action, op.Number, in, out)
		members(in, add)
		members(out, add)
	}
	members(reflect.TypeFor[protocol.Hello](), add)
	for _, k := range api.Kinds() {
		add("error %s %d", k, k)
	}
	return lines
}

// members adds the members of a structure, and of the structures and enums in it.
func members(t reflect.Type, add func(format string, args ...any)) {
	for _, f := range api.StructOf(t).Fields {
		sf, _ := t.FieldByName(f.Name)
		shape, typ := f.Shape.String(), sf.Type
		if f.Shape == api.ShapeList {
			f, typ = *f.Elem, typ.Elem()
			shape = "list of " + f.Shape.String()
		}
		if f.Names != nil || f.Struct != nil {
			shape += " " + typ.String()
		}
		add("member %s.%s %d %s", t, sf.Name, api.StructOf(t).Field(sf.Name).N, shape)
		for i, name := range f.Names {
			add("enum %s %s %d", typ, name, i+1)
		}
		if f.Struct != nil {
			members(typ, add)
		}
	}
}

func TestNumbersAreUnique(t *testing.T) {
	t.Parallel()
	taken := map[string]string{}
	unique := func(what, value, who string) {
		key := what + " " + value
		if other, ok := taken[key]; ok && other != who {
			t.Errorf("%s is both %s and %s", key, other, who)
		}
		taken[key] = who
	}
	for _, op := range table.Recorded() {
		unique("operation", fmt.Sprint(op.Number), op.Action)
		unique("action", op.Action, fmt.Sprint(op.Number))
		unique("block", fmt.Sprint(op.Service.Block), op.Service.Name)
		unique("service", op.Service.Name, fmt.Sprint(op.Service.Block))
		if op.Number>>8 != op.Service.Block || op.Number&0xff == 0 || op.Service.Block == 0 {
			t.Errorf("%s has the number %#x in the block %d", op, op.Number, op.Service.Block)
		}
	}
	for _, line := range numbers() {
		if f := strings.Fields(line); f[0] == "enum" {
			unique(f[1], f[2], f[3])
			unique(f[1], f[3], f[2])
		}
	}
}

func TestLookUp(t *testing.T) {
	t.Parallel()
	all := table.All()
	if !slices.IsSortedFunc(all, func(a, b *api.Op) int { return int(a.Number) - int(b.Number) }) {
		t.Error("the table is not in the order of its numbers")
	}
	for _, op := range all {
		if table.ByNumber(op.Number) != op || table.ByName(op.Service.Name, op.Name) != op {
			t.Errorf("%s is not found", op)
		}
		if op.Action != op.Service.Name+":"+op.Name || op.String() != op.Action {
			t.Errorf("%s has the action %s", op.Name, op.Action)
		}
	}
	if table.ByNumber(0) != nil || table.ByName("kms", "encrypt") != nil || table.ByName("keyrack", "Encrypt") != nil {
		t.Error("something is found that is not there")
	}
}

// TestFlagsAreUnique checks that the command line can tell members apart.
func TestFlagsAreUnique(t *testing.T) {
	t.Parallel()
	for _, op := range table.All() {
		for _, s := range []*api.Struct{op.In, op.Out} {
			for i := range s.Fields {
				if f := &s.Fields[i]; s.Flag(f.Flag) != f || f.Flag == "" {
					t.Errorf("%s: --%s is not %s", s.Name, f.Flag, f.Name)
				}
			}
		}
	}
}
