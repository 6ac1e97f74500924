package table_test

import (
	"encoding/json"
	"os"
	"testing"
)

// botocoreFile is the model that boto3 and the aws command line ship, as Debian installs it:
// package python3-botocore, of some years ago. It knows bounds and patterns, which the Go SDK does not.
const botocoreFile = "/usr/lib/python3/dist-packages/botocore/data/kms/2014-11-01/service-2.json"

// botocoreShape is a shape of a botocore model.
type botocoreShape struct {
	Type      string
	Required  []string
	Members   map[string]struct{ Shape string }
	Member    struct{ Shape string }
	Enum      []string
	Min, Max  *int64
	Pattern   string
	Sensitive bool
}

// botocoreReader turns shapes of the model into ours.
type botocoreReader struct {
	Operations map[string]struct{ Input, Output struct{ Shape string } }
	Shapes     map[string]botocoreShape
}

func botocoreModel(t *testing.T) map[string]operation {
	t.Helper()
	file, err := os.ReadFile(botocoreFile)
	if err != nil {
		t.Fatalf("the model of botocore, which `make setup` installs: %v", err)
	}
	var r botocoreReader
	if err := json.Unmarshal(file, &r); err != nil {
		t.Fatal(err)
	}
	all := map[string]operation{}
	for name, op := range r.Operations {
		all[name] = operation{r.shape(op.Input.Shape), r.shape(op.Output.Shape)}
	}
	return all
}

// botocoreKinds are botocore's words for what is no text.
var botocoreKinds = map[string]string{
	"blob": "bytes", "boolean": "boolean", "integer": "integer", "timestamp": "time", "map": "map", "list": "list", "structure": "structure",
}

// shape returns the shape of that name; "" is a structure of no members.
func (r *botocoreReader) shape(name string) *shape {
	b := r.Shapes[name]
	s := &shape{kind: botocoreKinds[b.Type], secret: b.Sensitive, pattern: b.Pattern, values: b.Enum, name: name}
	switch {
	case name == "":
		s.kind = "structure"
	case b.Enum != nil:
		s.kind = "enum"
	case b.Type == "string":
		s.kind = "text"
	case b.Type == "list":
		s.elem = r.shape(b.Member.Shape)
	case b.Type == "structure":
		s.members = map[string]*shape{}
		for member, to := range b.Members {
			s.members[member] = r.shape(to.Shape)
		}
		for _, member := range b.Required {
			s.members[member].required = true
		}
	}
	if b.Min != nil && b.Max != nil {
		s.bounded, s.min, s.max = true, *b.Min, *b.Max
	}
	return s
}
