package table_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// The models of AWS's own clients are the oracle for the vocabulary: what a client
// may send and expects back. They are read here and nowhere else.

// shape is the type of a member in words that all models share.
type shape struct {
	kind     string // "text", "bytes", "boolean", "integer", "time", "enum", "map", "list", "structure"
	required bool
	secret   bool
	bounded  bool
	min, max int64  // of a length or a value, if bounded
	pattern  string // of a text, "" = none
	values   []string
	elem     *shape
	name     string // of a structure
	members  map[string]*shape
}

// operation is the two structures of an operation.
type operation struct{ request, response *shape }

// ours returns the vocabulary of this appliance.
func ours() map[string]operation {
	all := map[string]operation{}
	for _, op := range kmsapi.Operations() {
		all[op.Name] = operation{ofTable(op.In), ofTable(op.Out)}
	}
	return all
}

func ofTable(s *api.Struct) *shape {
	out := &shape{kind: "structure", name: s.Name, members: map[string]*shape{}}
	for i := range s.Fields {
		if !s.Fields[i].Unsent {
			out.members[s.Fields[i].Name] = ofField(&s.Fields[i])
		}
	}
	return out
}

var kindOf = map[api.Shape]string{
	api.ShapeText: "text", api.ShapeKeyRef: "text", api.ShapeSecret: "bytes", api.ShapeBlob: "bytes", api.ShapeBool: "boolean",
	api.ShapeInt: "integer", api.ShapeTime: "time", api.ShapeEnum: "enum", api.ShapeContext: "map", api.ShapeList: "list", api.ShapeStruct: "structure",
}

func ofField(f *api.Field) *shape {
	s := &shape{}
	if f.Struct != nil {
		s = ofTable(f.Struct)
	}
	s.kind, s.required, s.secret, s.values = kindOf[f.Shape], f.Required, f.Shape == api.ShapeSecret, f.Names
	switch {
	case f.Elem != nil:
		s.elem, s.min, s.max = ofField(f.Elem), int64(f.Items[0]), int64(f.Items[1])
	case s.kind == "text", s.kind == "bytes", s.kind == "integer":
		s.min, s.max = f.Min, f.Max
	}
	if f.Pattern != nil {
		s.pattern = f.Pattern.Text
	}
	s.bounded = s.max != 0 && s.max < api.Unbounded
	return s
}

// model is what a client knows.
type model struct {
	name    string
	read    func(*testing.T) map[string]operation
	newest  bool // it has all that we have
	bounded bool // it knows bounds and patterns
}

// comparison walks our vocabulary beside a model.
type comparison struct {
	model
	seen  map[string]bool
	found map[string]string // member -> how it differs
}

func (c *comparison) differ(path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.found[path] != "" {
		text = c.found[path] + "; " + text
	}
	c.found[path] = text
}

// operations compares the operations that both have.
func (c *comparison) operations(our, their map[string]operation) {
	for _, name := range slices.Sorted(maps.Keys(their)) {
		o, ok := our[name]
		if !ok {
			c.differ(name, "no such operation")
			continue
		}
		c.structure(name+"Request", o.request, their[name].request, true)
		c.structure(name+"Response", o.response, their[name].response, false)
	}
	for _, name := range slices.Sorted(maps.Keys(our)) {
		if _, ok := their[name]; !ok && c.newest {
			c.differ(name, "an operation of our own")
		}
	}
}

// structure compares two structures once, under the name that path gives them.
func (c *comparison) structure(path string, our, their *shape, sent bool) {
	key := fmt.Sprint(path, sent)
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	for _, name := range slices.Sorted(maps.Keys(their.members)) {
		if o, ok := our.members[name]; ok {
			c.member(path+"."+name, o, their.members[name], sent)
		} else {
			c.differ(path+"."+name, "missing")
		}
	}
	for name := range our.members {
		if _, ok := their.members[name]; !ok && c.newest {
			c.differ(path+"."+name, "a member of our own")
		}
	}
}

// member compares what can stand in one member. Only what is sent to us is
// required or bounded: what we answer is ours.
func (c *comparison) member(path string, our, their *shape, sent bool) {
	if our.kind != their.kind {
		c.differ(path, "%s, not %s", our.kind, their.kind)
		return
	}
	if sent && our.required != their.required {
		c.differ(path, "required: %t, not %t", our.required, their.required)
	}
	if their.secret && !our.secret {
		c.differ(path, "not secret")
	}
	if sent && their.bounded && (our.min != their.min || our.max != their.max) {
		c.differ(path, "%d to %d, not %d to %d", our.min, our.max, their.min, their.max)
	}
	if sent && c.bounded && their.pattern != our.pattern {
		c.differ(path, "pattern %q, not %q", our.pattern, their.pattern)
	}
	c.values(path, our.values, their.values)
	switch their.kind {
	case "list":
		c.member(path+"[]", our.elem, their.elem, sent)
	case "structure":
		c.structure(their.name, our, their, sent)
	}
}

// values compares the values of two enums.
func (c *comparison) values(path string, our, their []string) {
	if lacks := without(their, our); lacks != "" {
		c.differ(path, "lacks %s", lacks)
	}
	if own := without(our, their); own != "" && c.newest {
		c.differ(path, "has %s of its own", own)
	}
}

// without returns the values of a that b has not.
func without(a, b []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(a), func(v string) bool { return slices.Contains(b, v) }), " ")
}

// difference is where our vocabulary is meant not to be a model's.
type difference struct {
	where string // a member, or * for any structure's
	is    string // how it differs, in the words of comparison
	why   string
}

// covers reports whether d is the difference at a member.
func (d *difference) covers(where, is string) bool {
	if rest, ok := strings.CutPrefix(d.where, "*"); ok {
		return d.is == is && strings.HasSuffix(where, rest)
	}
	return d.is == is && where == d.where
}

// TestVocabularyIsAWSs compares operations, members, types, values, required flags and
// bounds with the models of AWS's clients, and what differs with the table differences.
func TestVocabularyIsAWSs(t *testing.T) {
	t.Parallel()
	used := make([]bool, len(differences))
	for _, model := range []model{
		{"AWS SDK for Go", sdkModel, true, false},
		{"botocore", botocoreModel, false, true},
	} {
		their := model.read(t)
		if len(their) < 50 {
			t.Fatalf("%s: %d operations were read", model.name, len(their))
		}
		c := &comparison{model: model, seen: map[string]bool{}, found: map[string]string{}}
		c.operations(ours(), their)
		for _, where := range slices.Sorted(maps.Keys(c.found)) {
			i := slices.IndexFunc(differences, func(d difference) bool { return d.covers(where, c.found[where]) })
			if i < 0 {
				t.Errorf("%s: %s: %s", model.name, where, c.found[where])
				continue
			}
			used[i] = true
		}
	}
	for i, d := range differences {
		if !used[i] {
			t.Errorf("%s no longer differs: %s", d.where, d.is)
		}
		if d.why == "" {
			t.Errorf("%s differs for no reason", d.where)
		}
	}
}

// TestComparisonFindsDifferences changes each property of a member once: a comparison that
// finds everything equal would go unnoticed otherwise.
func TestComparisonFindsDifferences(t *testing.T) {
	t.Parallel()
	text := func(change func(*shape)) *shape {
		s := &shape{kind: "text", bounded: true, min: 1, max: 9, pattern: "[a-z]"}
		change(s)
		return s
	}
	enum := func(values ...string) *shape { return &shape{kind: "enum", values: values} }
	list := func(elem *shape) *shape { return &shape{kind: "list", elem: elem} }
	inside := func(s *shape) *shape {
		return &shape{kind: "structure", name: "S", members: map[string]*shape{"A": s}}
	}
	same := func(*shape) {}
	for want, c := range map[string][2]*shape{
		"":                               {text(same), text(same)},
		"X.M: bytes, not text":           {text(func(s *shape) { s.kind = "bytes" }), text(same)},
		"X.M: required: false, not true": {text(same), text(func(s *shape) { s.required = true })},
		"X.M: required: true, not false": {text(func(s *shape) { s.required = true }), text(same)},
		"X.M: not secret":                {text(same), text(func(s *shape) { s.secret = true })},
		"X.M: 1 to 10, not 1 to 9":       {text(func(s *shape) { s.max = 10 }), text(same)},
		"X.M: 0 to 9, not 1 to 9":        {text(func(s *shape) { s.min = 0 }), text(same)},
		`X.M: pattern "", not "[a-z]"`:   {text(func(s *shape) { s.pattern = "" }), text(same)},
		"X.M: lacks b":                   {enum("a"), enum("a", "b")},
		"X.M: has b of its own":          {enum("a", "b"), enum("a")},
		"X.M[]: integer, not text":       {list(text(func(s *shape) { s.kind = "integer" })), list(text(same))},
		"S.A: integer, not text":         {inside(text(func(s *shape) { s.kind = "integer" })), inside(text(same))},
		"S.A: missing":                   {&shape{kind: "structure"}, inside(text(same))},
		"S.A: a member of our own":       {inside(text(same)), &shape{kind: "structure", name: "S"}},
		"X.M: structure, not list":       {inside(text(same)), list(text(same))},
		"X.M[]: lacks AES_256":           {list(enum()), list(enum("AES_256"))},
	} {
		cmp := &comparison{model: model{newest: true, bounded: true}, seen: map[string]bool{}, found: map[string]string{}}
		cmp.member("X.M", c[0], c[1], true)
		var got []string
		for where, is := range cmp.found {
			got = append(got, where+": "+is)
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestEveryMemberHasAShape holds kindOf to the list of shapes.
func TestEveryMemberHasAShape(t *testing.T) {
	t.Parallel()
	var walk func(where string, s *shape)
	walk = func(where string, s *shape) {
		if s.kind == "" {
			t.Errorf("%s has no kind", where)
		}
		if s.elem != nil {
			walk(where+"[]", s.elem)
		}
		for name, m := range s.members {
			walk(where+"."+name, m)
		}
	}
	for name, op := range ours() {
		walk(name+"Request", op.request)
		walk(name+"Response", op.response)
	}
	if reflect.TypeFor[api.Shape]().Kind() != reflect.Uint8 || len(kindOf) != int(api.ShapeList) {
		t.Errorf("%d shapes have a kind", len(kindOf))
	}
}
