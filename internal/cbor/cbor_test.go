package cbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/cbor"
)

type record struct {
	Name  string   `cbor:"1,keyasint"`
	Blob  []byte   `cbor:"2,keyasint"`
	Parts []string `cbor:"3,keyasint"`
	Left  *uint8   `cbor:"4,keyasint,omitempty"`
}

func TestMarshalRoundTrip(t *testing.T) {
	t.Parallel()
	seven := uint8(7)
	for _, c := range []struct {
		name string
		rec  record
		want string
	}{
		{"full", record{"a", []byte{1}, []string{"b"}, &seven}, "a4 016161 024101 03816162 0407"},
		{"nil slices are empty, not null", record{}, "a3 0160 0240 0380"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := cbor.Marshal(&c.rec)
			if want := unhex(t, c.want); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v, want %x", got, err, want)
			}
			var back record
			if err := cbor.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			if again, err := cbor.Marshal(&back); err != nil || !bytes.Equal(again, got) {
				t.Errorf("read back it encodes as %x, %v", again, err)
			}
		})
	}
}

func TestMarshalRefusesWhatCannotBeReadBack(t *testing.T) {
	t.Parallel()
	deep := any("x")
	for range cbor.MaxDepth {
		deep = []any{deep}
	}
	if _, err := cbor.Marshal(deep); err != nil {
		t.Errorf("an item as deep as allowed: %v", err)
	}
	for name, v := range map[string]any{
		"float": 1.5, "nil pointer": (*int)(nil), "nil": nil, "function": func() {}, "nested too deeply": []any{deep},
		"bytes as key": map[[1]byte]int{{1}: 1}, "text that is not UTF-8": "\xff", "negative beyond 64 bits": -math.MaxFloat64,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if b, err := cbor.Marshal(v); err == nil {
				t.Errorf("encoded as %x", b)
			}
		})
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in string }{
		{"nothing", ""},
		{"member missing", "a2 0160 0240"},
		{"unknown member", "a4 0160 0240 0380 0500"},
		{"repeated member", "a4 0160 0160 0240 0380"},
		{"members out of order", "a3 0240 0160 0380"},
		{"text key instead of a number", "a3 613160 0240 0380"},
		{"wrong type", "a3 0160 0260 0380"},
		{"null for absent", "a3 0160 02f6 0380"},
		{"null for an optional member", "a4 0160 0240 0380 04f6"},
		{"long head", "a3 017800 0240 0380"},
		{"trailing byte", "a3 0160 0240 0380 00"},
		{"number too large", "a4 0160 0240 0380 04190100"},
		{"float", "a4 0160 0240 0380 04f93c00"},
		{"tag", "d9d9f7 a3 0160 0240 0380"},
		{"cut off", "a3 0160 0240"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r record
			if err := cbor.Unmarshal(unhex(t, c.in), &r); err == nil {
				t.Errorf("accepted as %+v", r)
			}
		})
	}
	var r struct {
		A string `cbor:"1,keyasint,omitempty"`
	}
	if err := cbor.Unmarshal(unhex(t, "a1 0160"), &r); !errors.Is(err, cbor.ErrNotDeterministic) {
		t.Errorf("a member that Marshal leaves out: got %v, want ErrNotDeterministic", err)
	}
}

// TestUnmarshalHidesContent checks that an error repeats nothing of the input,
// which the library's own errors do.
func TestUnmarshalHidesContent(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"a2 66736563726574 00 66736563726574 00", "a1 66736563726574 fb3ff199999999999a", "a1 66736563726574 66736563726574"} {
		var m map[string]uint8
		if err := cbor.Unmarshal(unhex(t, in), &m); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", in, err)
		}
	}
}

func TestUnmarshalSharesNothing(t *testing.T) {
	t.Parallel()
	b := unhex(t, "a3 016161 024101 03816162")
	var r record
	if err := cbor.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if r.Name != "a" || r.Blob[0] != 1 || r.Parts[0] != "b" {
		t.Errorf("the record changed with its encoding: %+v", r)
	}
}

// unhex decodes hex digits with spaces between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
