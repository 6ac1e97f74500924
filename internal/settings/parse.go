package settings

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// go-toml rather than BurntSushi/toml: its parser has the position of every key, so
// that a fault of any kind, one of a range too, names its line. BurntSushi's has
// positions of errors of syntax alone; an unknown key is a name without a place.

// File is what a settings file says.
type File struct {
	Path string
	says map[string]entry // by name of a setting
}

// entry is a value of a file.
type entry struct {
	text string
	line int
}

// Fault is something wrong in a settings file.
type Fault struct {
	Path string
	Line int    // 0 = the file as a whole
	Text string // what is wrong with which key, and what is allowed
}

// Error returns the place and the fault.
func (f Fault) Error() string {
	if f.Line == 0 {
		return f.Path + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
}

// Faults is all that is wrong in a settings file, in the order of its lines.
type Faults []Fault

// Error returns the faults, one a line.
func (fs Faults) Error() string {
	var all []string
	for _, f := range fs {
		all = append(all, f.Error())
	}
	return strings.Join(all, "\n")
}

// mostFaults ends the list: who has made a hundred mistakes reads no more.
const mostFaults = 20

// Parse reads a settings file, TOML 1.0, strictly: what the table does not know,
// what is given twice, and a value that its setting does not take are faults, each
// with its line. Relative paths in it are of the folder of path. The error is
// Faults.
func (t Table) Parse(path string, text []byte) (*File, error) {
	p := &parse{table: t, file: &File{Path: path, says: map[string]entry{}}}
	keys := p.keys(text)
	tree := p.decode(text)
	for _, k := range keys {
		p.take(k, tree)
	}
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b Fault) int { return a.Line - b.Line })
		return nil, p.faults[:min(len(p.faults), mostFaults)]
	}
	return p.file, nil
}

// parse is a file that is being read.
type parse struct {
	table  Table
	file   *File
	faults Faults
}

func (p *parse) fault(line int, format string, args ...any) {
	p.faults = append(p.faults, Fault{p.file.Path, line, fmt.Sprintf(format, args...)})
}

// key is a key of the file, in its table, and where it stands.
type key struct {
	path []string
	line int
}

// name returns the key as it is written in a table of settings.
func (k *key) name() string { return strings.Join(k.path, ".") }

// keys lists the keys that have values, and finds tables and keys that are given
// twice and what is no TOML.
func (p *parse) keys(text []byte) (all []key) {
	var doc unstable.Parser
	doc.Reset(text)
	var table []string
	seen := map[string]int{}
	for doc.NextExpression() {
		node := doc.Expression()
		parts, line := keyOf(&doc, node)
		k := key{parts, line}
		switch node.Kind {
		case unstable.Table:
			table = parts
			p.twice(seen, "["+k.name()+"]", line)
			p.knownTable(&k)
		case unstable.ArrayTable:
			p.fault(line, "[[%s]] is a list of tables: write [%[1]s], once", k.name())
			table = parts
		case unstable.KeyValue:
			k.path = slices.Concat(table, parts)
			if p.twice(seen, k.name(), line) {
				all = append(all, k)
			}
		}
	}
	if err := doc.Error(); err != nil {
		p.fault(lineOf(&doc, text, err), "%s", strings.TrimPrefix(err.Error(), "toml: "))
	}
	return all
}

// keyOf returns the parts of the key of an expression, and its line.
func keyOf(doc *unstable.Parser, node *unstable.Node) (parts []string, line int) {
	for it := node.Key(); it.Next(); {
		part := it.Node()
		parts = append(parts, string(part.Data))
		if line == 0 {
			line = doc.Shape(part.Raw).Start.Line
		}
	}
	return parts, line
}

// lineOf returns where the parser stopped.
func lineOf(doc *unstable.Parser, text []byte, err error) int {
	e, ok := errors.AsType[*unstable.ParserError](err)
	if !ok || len(e.Highlight) == 0 {
		return 1 + bytes.Count(bytes.TrimRight(text, "\n"), []byte("\n"))
	}
	return doc.Shape(doc.Range(e.Highlight)).Start.Line
}

// twice reports whether a name is new.
func (p *parse) twice(seen map[string]int, name string, line int) bool {
	first, again := seen[name]
	if again {
		p.fault(line, "%s is given twice: it stands in line %d already", oneOf(name), first)
		return false
	}
	seen[name] = line
	return true
}

// knownTable refuses a table that no setting is in, also where it is empty.
func (p *parse) knownTable(k *key) {
	var sections []string
	for i := range p.table {
		sections = append(sections, p.table[i].Section())
	}
	sections = slices.Compact(sections)
	if slices.Contains(sections, k.name()) {
		return
	}
	p.fault(k.line, "there is no table [%s]%s; the tables are %s", oneOf(k.name()), meant(k.name(), sections), strings.Join(sections, ", "))
}

// decode reads the values, and finds what the order of keys has not shown, such as
// a key that is a table too. nil is a file that cannot be read as a whole.
func (p *parse) decode(text []byte) (tree map[string]any) {
	err := toml.Unmarshal(text, &tree)
	if err == nil {
		return tree
	}
	if len(p.faults) > 0 { // it is one of those
		return nil
	}
	line := 0
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ = e.Position()
	}
	p.fault(line, "%s", strings.TrimPrefix(err.Error(), "toml: "))
	return nil
}

// take checks one key and its value, or without a tree the key alone.
func (p *parse) take(k key, tree map[string]any) {
	s := p.table.Find(k.name())
	if s == nil {
		p.unknown(&k)
		return
	}
	if tree == nil {
		return
	}
	text, ok := s.text(lookUp(tree, k.path))
	if !ok {
		p.fault(k.line, "%s is of another type: want %s, written as %s = %s", s.Name, s.Allowed(), s.Key(), s.example())
		return
	}
	if err := s.Check(text); err != nil {
		p.fault(k.line, "%s is %s: %v", s.Name, s.Refused(text), err)
		return
	}
	p.file.says[s.Name] = entry{s.rebase(text, filepath.Dir(p.file.Path)), k.line}
}

// secrets are words that people give a secret's key. Its value is in no message.
var secrets = []string{"pin", "password", "passphrase", "secret", "token-pin", "so-pin"}

// unknown says what was probably meant by a key that no setting has.
func (p *parse) unknown(k *key) {
	name, last := k.name(), k.path[len(k.path)-1]
	if i := slices.IndexFunc(p.table, func(s Setting) bool { return s.Section() == name }); i >= 0 {
		p.fault(k.line, "%s is a table: write [%[1]s], and its keys below", name)
		return
	}
	if slices.Contains(secrets, strings.ToLower(last)) {
		p.fault(k.line, "there is no setting %s: a secret never stands in a settings file", oneOf(name))
		return
	}
	p.fault(k.line, "there is no setting %s%s", oneOf(name), p.meant(name, last))
}

// meant suggests a setting by its whole name, or by its key in another table.
func (p *parse) meant(name, last string) string {
	for i := range p.table {
		if p.table[i].Key() == last {
			return "; did you mean " + p.table[i].Name + "?"
		}
	}
	return meant(name, p.table.names())
}

// meant suggests a word, or nothing.
func meant(word string, all []string) string {
	if near := Nearest(word, all); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// oneOf makes a foreign name safe and short enough for a message.
func oneOf(name string) string {
	if quoted := strconv.Quote(name); len(quoted) != len(name)+2 {
		return short(quoted)
	}
	return short(name)
}

// short cuts what is too long for a message.
func short(text string) string {
	const most = 80
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// lookUp returns the value of a key, nil if there is none.
func lookUp(tree map[string]any, path []string) any {
	var at any = tree
	for _, part := range path {
		table, _ := at.(map[string]any)
		at = table[part]
	}
	return at
}

// text returns a value of TOML as a flag would have it.
func (s *Setting) text(v any) (string, bool) {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10), s.Kind == Number
	case bool:
		return strconv.FormatBool(v), s.Kind == Bool
	case string:
		return v, s.Kind != Number && s.Kind != Bool
	}
	return "", false
}
