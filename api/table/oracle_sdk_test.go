package table_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// sdkModel reads the model out of the AWS SDK for Go: the operations are the methods of
// its client, and their structures say all but what is required, which only their comments say.
func sdkModel(t *testing.T) map[string]operation {
	t.Helper()
	r := &sdkReader{required: requiredInSource(t)}
	all := map[string]operation{}
	client := reflect.TypeFor[*kms.Client]()
	for i := range client.NumMethod() {
		m := client.Method(i)
		if m.Type.NumIn() != 4 || m.Type.NumOut() != 2 || !strings.HasSuffix(m.Type.In(2).String(), "."+m.Name+"Input") {
			continue // Options
		}
		all[m.Name] = operation{r.structure(m.Type.In(2).Elem()), r.structure(m.Type.Out(0).Elem())}
	}
	return all
}

// sdkReader turns types of the SDK into shapes.
type sdkReader struct{ required map[string]bool }

func (r *sdkReader) structure(t reflect.Type) *shape {
	s := &shape{kind: "structure", name: t.Name(), members: map[string]*shape{}}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Name == "ResultMetadata" {
			continue
		}
		s.members[f.Name] = r.shape(f.Type)
		s.members[f.Name].required = r.required[t.Name()+"."+f.Name]
	}
	return s
}

func (r *sdkReader) shape(t reflect.Type) *shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[time.Time]() {
		return &shape{kind: "time"}
	}
	if values, ok := t.MethodByName("Values"); ok { // func (T) Values() []T
		s := &shape{kind: "enum"}
		for list := values.Func.Call([]reflect.Value{reflect.Zero(t)})[0]; len(s.values) < list.Len(); {
			s.values = append(s.values, list.Index(len(s.values)).String())
		}
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		return r.structure(t)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &shape{kind: "bytes"}
		}
		return &shape{kind: "list", elem: r.shape(t.Elem())}
	}
	return &shape{kind: map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "boolean", reflect.Int32: "integer", reflect.Map: "map",
	}[t.Kind()]}
}

// requiredInSource returns the members, as Type.Member, whose comments in the SDK's source
// say that they are required.
func requiredInSource(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/kms").Output()
	if err != nil {
		t.Fatalf("where the SDK's source is: %v", err)
	}
	dir, required := strings.TrimSpace(string(out)), map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "api_op_*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, filepath.Join(dir, "types", "types.go")) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if ok {
				markRequired(required, spec.Name.Name, s)
			}
			return false
		})
	}
	if len(required) < 80 {
		t.Fatalf("%d members are required by the comments in %s", len(required), dir)
	}
	return required
}

func markRequired(required map[string]bool, name string, s *ast.StructType) {
	for _, f := range s.Fields.List {
		if strings.Contains(f.Doc.Text(), "This member is required.") {
			required[name+"."+f.Names[0].Name] = true
		}
	}
}
