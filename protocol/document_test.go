package protocol_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/protocol"
)

// labelRow is a label of internal/seal with what its comment says.
type labelRow struct{ label, key, gives, context string }

// labelsOfSeal reads the table of labels out of the source: its comments,
// "key: what comes out; context", are part of the contract.
func labelsOfSeal(t *testing.T) (all []labelRow) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../internal/seal/kdf.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if label := labelOf(spec.Values[0]); label != "" {
			all = append(all, describeLabel(t, label, spec.Comment.Text()))
		}
		return true
	})
	return all
}

// labelOf returns the two characters of a composite literal Label{'m', '1'}.
func labelOf(e ast.Expr) (label string) {
	literal, ok := e.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	if name, ok := literal.Type.(*ast.Ident); !ok || name.Name != "Label" {
		return ""
	}
	for _, e := range literal.Elts {
		c, _ := strconv.Unquote(e.(*ast.BasicLit).Value)
		label += c
	}
	return label
}

func describeLabel(t *testing.T, label, comment string) labelRow {
	t.Helper()
	key, rest, ok := strings.Cut(strings.TrimSpace(comment), ": ")
	at := strings.LastIndex(rest, "; ")
	if !ok || at < 0 {
		t.Fatalf("the comment of label %s is not \"key: what comes out; context\": %q", label, comment)
	}
	return labelRow{label, key, rest[:at], rest[at+2:]}
}

// sections are the parts of PROTOCOL.md between <!-- begin x --> and <!-- end x -->.
var sections = map[string]func(t *testing.T) string{
	"hello": helloTable, "limits": limitsTable, "kinds": kindsTable, "labels": labelsTable, "operations": operationsTables, "enums": enumsTable,
}

const document = "PROTOCOL.md"

func readDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What code can say, the document must say as code does.
func TestDocumentTablesAreCurrent(t *testing.T) {
	t.Parallel()
	text := readDocument(t)
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
		before, rest, found := strings.Cut(text, begin)
		got, after, ended := strings.Cut(rest, end)
		if !found || !ended {
			t.Errorf("%s has no section %s", document, name)
			continue
		}
		want := sections[name](t)
		if *update {
			text = before + begin + want + end + after
		} else if got != want {
			t.Errorf("%s: section %s is not what the code says: run go test ./protocol -run Document -update and look at the difference", document, name)
		}
	}
	if *update {
		if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// markdown returns a table.
func markdown(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

func helloTable(*testing.T) string {
	return membersTable(wireType{"hello", reflect.TypeFor[protocol.Hello](), received})
}

func limitsTable(*testing.T) string {
	return markdown([]string{"limit", "value", "beyond it"}, [][]string{
		{"request frame", fmt.Sprint(api.MaxRequestFrame, " bytes behind the length"), "RequestEntityTooLargeException, id 0"},
		{"reply frame", fmt.Sprint(api.MaxReplyFrame, " bytes behind the length"), "a client ends the connection; a server answers KMSInternalException instead"},
		{"nesting", fmt.Sprint(cbor.MaxDepth, " arrays and maps inside each other, from the members on"), "SerializationException"},
		{"encryption context", fmt.Sprint(api.MaxEncryptionContext, " bytes in its canonical encoding"), "ValidationException"},
		{"handshake", fmt.Sprint(api.HandshakeTimeout.Seconds(), " s from the connection to the hello"), "the connection ends"},
		{"frame", fmt.Sprint(api.FrameTimeout.Seconds(), " s from its first byte to its last"), "RequestTimeoutException, id 0"},
		{"idle", fmt.Sprint(api.IdleTimeout.Seconds(), " s without a request"), "RequestTimeoutException with id 0"},
		{"write", fmt.Sprint(api.WriteTimeout.Seconds(), " s for a write of replies that the client does not take"), "the connection ends"},
		{"requests under way", fmt.Sprint(api.Window, " of a connection (`Window` in the hello)"), "the server reads no further until replies were taken"},
		{"replies not taken", fmt.Sprint(api.WindowBytes, " bytes of a connection"), "the server reads no further until replies were taken"},
		{"connections", fmt.Sprint(api.MaxConnsPrincipal, " of one client key"), "ThrottlingException, id 0"},
		{"connections of an account", "three times as many as are free: 3 of 4 alone, and beside others 3 of 4 of what they leave", "ThrottlingException, id 0"},
		{"connections, all", fmt.Sprint(api.MaxConnections, " from the network"), "one that is in its handshake ends; where there is none, the new one does"},
		{"requests", fmt.Sprint(api.RequestsPerSecond, " a second of an account"), "ThrottlingException, with a retry-after"},
		{"handshakes", fmt.Sprint(api.MaxHandshakes, " at once"), "one that was refused ends, or one of the address that has the most"},
		{"connections of the operator", fmt.Sprint(api.MaxConnsOperator, " on the local socket"), "the connection ends"},
	})
}

func kindsTable(*testing.T) string {
	var rows [][]string
	for _, k := range api.Kinds() {
		fault, retry := "caller", ""
		if k.Server() {
			fault = "appliance"
		}
		if k.Retryable() {
			retry = "yes"
		}
		rows = append(rows, []string{fmt.Sprint(uint8(k)), k.String(), fault, retry})
	}
	return markdown([]string{"number", "kind", "at fault", "may succeed later"}, rows)
}

func labelsTable(t *testing.T) string {
	var rows [][]string
	for _, l := range labelsOfSeal(t) {
		rows = append(rows, []string{"`" + l.label + "`", l.key, l.gives, l.context})
	}
	return markdown([]string{"label", "key", "what comes out", "context"}, rows)
}

func operationsTables(*testing.T) string {
	var b strings.Builder
	seen := map[wireType]bool{}
	for _, op := range table.All() {
		repeat := "must not be repeated blindly"
		if op.Flags&api.Idempotent != 0 {
			repeat = "may be repeated"
		}
		fmt.Fprintf(&b, "### %d `%s`\n\n%s; %s.\n\n", op.Number, op, map[bool]string{true: "Changes nothing", false: "Changes state"}[op.Flags&api.ReadOnly != 0], repeat)
		for _, w := range wireTypes(op, seen) {
			if w.t.Kind() == reflect.Struct {
				b.WriteString(membersTable(w))
			}
		}
	}
	return b.String()
}

func membersTable(w wireType) string {
	if w.t.NumField() == 0 {
		return fmt.Sprintf("`%s` has no members.\n\n", w.t.Name())
	}
	var rows [][]string
	for _, f := range api.StructOf(w.t).Fields {
		sf, _ := w.t.FieldByName(f.Name)
		rows = append(rows, []string{fmt.Sprint(f.N), f.Name, memberType(&f, sf.Type), strings.Join(memberRules(&f, w.dir), "; ")})
	}
	return markdown([]string{w.t.Name(), "member", "type", ""}, rows) + "\n"
}

func memberType(f *api.Field, t reflect.Type) string {
	switch f.Shape {
	case api.ShapeSecret, api.ShapeBlob:
		return "bytes"
	case api.ShapeEnum, api.ShapeStruct:
		return "`" + t.Name() + "`"
	case api.ShapeList:
		return "list of " + memberType(f.Elem, t.Elem())
	}
	return f.Shape.String()
}

func memberRules(f *api.Field, dir direction) (rules []string) {
	if f.Unsent {
		rules = append(rules, "in audit records only")
	}
	if f.Required {
		rules = append(rules, "required")
	} else if f.Always && dir == received {
		rules = append(rules, "always there")
	}
	if f.Shape == api.ShapeList && f.Items[1] < math.MaxInt {
		rules = append(rules, fmt.Sprintf("at most %d", f.Items[1]))
	}
	if length := codePoints(f); length != "" {
		rules = append(rules, length)
	}
	if f.Form != api.AnyForm {
		rules = append(rules, f.Form.String())
	} else if f.Pattern != nil {
		rules = append(rules, f.Pattern.String())
	}
	if bounded := f.Max != api.Unbounded; bounded && (f.Shape == api.ShapeSecret || f.Shape == api.ShapeBlob) {
		rules = append(rules, fmt.Sprintf("%d to %d bytes", f.Min, f.Max))
	} else if bounded && f.Shape == api.ShapeInt {
		rules = append(rules, fmt.Sprintf("%d to %d", f.Min, f.Max))
	}
	if f.Default != 0 {
		rules = append(rules, f.Names.Name(f.Default)+" if absent")
	}
	return rules
}

func enumsTable(*testing.T) string {
	var rows [][]string
	seen := map[wireType]bool{}
	for _, op := range table.All() {
		for _, w := range wireTypes(op, seen) {
			if w.t.Kind() == reflect.Struct {
				continue
			}
			var values []string
			for i, name := range reflect.Zero(w.t).Interface().(api.Enum).Names() {
				values = append(values, fmt.Sprintf("%d %s", i+1, name))
			}
			rows = append(rows, []string{"`" + w.t.Name() + "`", strings.Join(values, ", ")})
		}
	}
	return markdown([]string{"enum", "values"}, rows)
}

// example returns the bytes of a fenced block of the document: hex digits, and
// comments behind semicolons.
func example(t *testing.T, name string) []byte {
	t.Helper()
	_, rest, found := strings.Cut(readDocument(t), "```"+name+"\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("%s has no example %s", document, name)
	}
	var digits strings.Builder
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, ";")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("example %s: %v", name, err)
	}
	return b
}

// The worked example is a vector, so it is checked as all of them are; here it
// is what a program would send and receive.
func TestDocumentExampleIsReal(t *testing.T) {
	t.Parallel()
	request, reply := example(t, "request"), example(t, "reply")
	message := find(t, "messages.txt", "one-pair")
	id := api.KeyID(message.bytes(t, "key-id"))
	in := kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(id.String())), Plaintext: []byte("attack at dawn"),
		EncryptionContext: api.NewEncryptionContext(map[string]string{"tenant": "acme"})}
	if want := protocol.AppendRequest(nil, 7, kmsapi.Encrypt.Op, &in); !bytes.Equal(request, want) {
		t.Errorf("request: got\n%x, want\n%x", request, want)
	}
	frame, err := protocol.ParseRequest(request[4:])
	var got kmsapi.EncryptRequest
	if err == nil {
		err = protocol.Native{}.Decode(kmsapi.Encrypt.Op, frame.Body, &got, nil)
	}
	if in.EncryptionAlgorithm = kmsapi.SymmetricDefault; err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("request: got %+v, %v, want %+v", got, err, in)
	}
	expectReply(t, reply, message.bytes(t, "blob"), api.Realm{Partition: "aws", Region: "rack-1"}.KeyARN(api.AccountID([]byte("000000000042")), id, false))
	for name, b := range map[string][]byte{"requests.txt": request, "replies.txt": reply} {
		v := find(t, name, "encrypt")
		expectLine(t, &v, "frame", b)
	}
}

func expectReply(t *testing.T, b, blob []byte, arn string) {
	t.Helper()
	p, err := protocol.ParseReply(b[4:])
	var out kmsapi.EncryptResponse
	if err == nil {
		err = kmsapi.Encrypt.Out.DecodeCBOR(p.Body, &out)
	}
	want := kmsapi.EncryptResponse{CiphertextBlob: blob, KeyId: arn, EncryptionAlgorithm: kmsapi.SymmetricDefault}
	if err != nil || p.ID != 7 || p.Kind != api.KindNone || !reflect.DeepEqual(out, want) {
		t.Errorf("reply: got %d, %v, %+v, %v, want 7, none, %+v", p.ID, p.Kind, out, err, want)
	}
	if again := (protocol.Native{}).AppendReply(nil, kmsapi.Encrypt.Op, 7, &want, nil); !bytes.Equal(again, b) {
		t.Errorf("reply: got\n%x, want\n%x", b, again)
	}
}

// find returns a vector of the repository.
func find(t *testing.T, file, name string) vector {
	t.Helper()
	for _, v := range readVectors(t, vectorDir, file) {
		if v.name() == name {
			return v
		}
	}
	t.Fatalf("%s has no vector %s", file, name)
	return vector{}
}
