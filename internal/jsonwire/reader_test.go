package jsonwire_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

func open(text string) *jsonwire.Reader {
	var r jsonwire.Reader
	r.Reset([]byte(text), jsonwire.Limits{})
	return &r
}

// must fails the test unless a read came out as expected.
func must[T comparable](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil || got != want {
		t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
	}
}

func text(b []byte, err error) (string, error) { return string(b), err }

func TestReaderWalk(t *testing.T) {
	t.Parallel()
	r := open(` { "KeyId" : "caf\u00e9", "Blob":"QUI=", "Esc":"+\/8=", "n":-12, "At":1526334434.743, "on":true, "off":false,
		"nil":null, "Tags":[1, 2 ], "raw": {"a" : [ ] }, "num":1e2, "skip":[{"a":{}}], "empty":"" } `)
	must(t, "BeginObject", 0, r.BeginObject(), 0)
	steps := []struct {
		name string
		read func() (any, error)
		want any
	}{
		{"KeyId", func() (any, error) { return text(r.Text()) }, "café"},
		{"Blob", func() (any, error) { return text(r.Blob()) }, "AB"},
		{"Esc", func() (any, error) { return text(r.Blob()) }, "\xfb\xff"},
		{"n", func() (any, error) { return r.Int() }, int64(-12)},
		{"At", func() (any, error) { return r.Micros() }, int64(1526334434743000)},
		{"on", func() (any, error) { return r.Bool() }, true},
		{"off", func() (any, error) { return r.Bool() }, false},
		{"nil", func() (any, error) { return r.Null(), nil }, true},
		{"Tags", func() (any, error) { return sum(r) }, int64(3)},
		{"raw", func() (any, error) { return text(r.Raw()) }, `{"a" : [ ] }`},
		{"num", func() (any, error) { return text(r.Raw()) }, "1e2"},
		{"skip", func() (any, error) { return nil, r.Skip() }, nil},
		{"empty", func() (any, error) { return text(r.Text()) }, ""},
	}
	for _, s := range steps {
		name, err := text(r.Name())
		must(t, "Name", name, err, s.name)
		got, err := s.read()
		must(t, s.name, got, err, s.want)
	}
	must(t, "End", r.More(), r.End(), false)
	must(t, "Done", 0, r.Done(), 0)
}

func sum(r *jsonwire.Reader) (total int64, err error) {
	if err := r.BeginArray(); err != nil {
		return 0, err
	}
	for r.More() {
		n, err := r.Int()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, r.End()
}

func TestReaderKind(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]jsonwire.Kind{
		"null": jsonwire.Null, " true": jsonwire.Bool, "false": jsonwire.Bool, "-1": jsonwire.Number, `"a"`: jsonwire.Text,
		"{": jsonwire.Object, "[": jsonwire.Array, "": jsonwire.Invalid, "?": jsonwire.Invalid,
	} {
		if got := open(text).Kind(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestReaderInt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0": 0, "7": 7, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63} {
		got, err := open(text).Int()
		must(t, text, got, err, want)
	}
	for text, want := range map[string]error{
		"9223372036854775808": jsonwire.ErrRange, "-9223372036854775809": jsonwire.ErrRange, "1e400": jsonwire.ErrType,
		"1.0": jsonwire.ErrType, "1e2": jsonwire.ErrType, "-0": jsonwire.ErrType, `"1"`: jsonwire.ErrType, "true": jsonwire.ErrType,
		"01": jsonwire.ErrSyntax, "+1": jsonwire.ErrSyntax, "-": jsonwire.ErrSyntax, "": jsonwire.ErrSyntax,
	} {
		r := open(text)
		got, err := r.Int()
		if err == nil {
			err = r.Done() // jsontext reads 01 as 0 with a 1 behind it
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: got %d, %v, want %v", text, got, err, want)
		}
	}
}

func TestReaderMicros(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1893456000": 1893456000e6, "1893456000.5": 18934560005e5, "1568894400.0": 1568894400e6, "1.5e9": 15e14,
		"1526334434.743001": 1526334434743001, "-1.5": -1500000, "0.0000004": 0,
	} {
		got, err := open(text).Micros()
		must(t, text, got, err, want)
	}
	for _, text := range []string{"9007199255", "1e400", "-1e300"} {
		if got, err := open(text).Micros(); !errors.Is(err, jsonwire.ErrRange) {
			t.Errorf("%s: got %d, %v, want ErrRange", text, got, err)
		}
	}
}

// TestReaderMicrosExact: what is written in microseconds is read as written, as near to 2^32 seconds as times go.
func TestReaderMicrosExact(t *testing.T) {
	t.Parallel()
	const limit = 1e6<<32 - 1
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range int64(20000) {
		for _, n := range []int64{i, limit - i, limit/2 + i, rng.Int64N(limit)} {
			text := fmt.Sprintf("%d.%06d", n/1e6, n%1e6)
			got, err := open(text).Micros()
			back, errBack := open("-" + text).Micros()
			if err != nil || errBack != nil || got != n || back != -n {
				t.Fatalf("%s: got %d, %v and %d, %v", text, got, err, back, errBack)
			}
		}
	}
}

// TestReaderRefuses reads each document with the calls a table-driven walk would make and expects the reason.
func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text   string
		offset int
		reason error
	}{
		"same name twice":    {`{"a":1,"a":2}`, 7, jsonwire.ErrDuplicate},
		"same name escaped":  {`{"a":1,"\u0061":2}`, 7, jsonwire.ErrDuplicate},
		"same name deep":     {`{"a":[{"b":1,"b":1}]}`, 13, jsonwire.ErrDuplicate},
		"invalid UTF-8":      {"{\"a\":\"\xc3\x28\"}", 6, jsonwire.ErrUTF8},
		"overlong UTF-8":     {"\"\xc0\xaf\"", 1, jsonwire.ErrUTF8},
		"surrogate in UTF-8": {"\"\xed\xa0\x80\"", 1, jsonwire.ErrUTF8},
		"no value":           {"", 0, jsonwire.ErrSyntax},
		"two values":         {"1 2", 1, jsonwire.ErrSyntax},
		"text after":         {"{} x", 2, jsonwire.ErrSyntax},
		"missing colon":      {`{"a" 1}`, 5, jsonwire.ErrSyntax},
		"missing comma":      {`[1 2]`, 3, jsonwire.ErrSyntax},
		"name not a string":  {`{1:2}`, 1, jsonwire.ErrSyntax},
		"open at the end":    {`{"a":[`, 6, jsonwire.ErrSyntax},
		"closed wrongly":     {`{"a":[}]`, 6, jsonwire.ErrSyntax},
		"vertical tab":       {"\v1", 0, jsonwire.ErrSyntax},
	} {
		r := open(c.text)
		err := errors.Join(r.Skip(), r.Done())
		var e *jsonwire.Error
		if !errors.As(err, &e) || e.Reason != c.reason || e.Offset != c.offset {
			t.Errorf("%s: got %v, want %v at %d", name, err, c.reason, c.offset)
		}
	}
}

func TestReaderWrongType(t *testing.T) {
	t.Parallel()
	kinds := []struct {
		text string
		read func(r *jsonwire.Reader) error
	}{
		{`"a"`, func(r *jsonwire.Reader) error { _, err := r.Text(); return err }},
		{`1`, func(r *jsonwire.Reader) error { _, err := r.Int(); return err }},
		{`true`, func(r *jsonwire.Reader) error { _, err := r.Bool(); return err }},
		{`{}`, (*jsonwire.Reader).BeginObject},
		{`[]`, (*jsonwire.Reader).BeginArray},
	}
	for i, own := range kinds {
		for j, other := range kinds {
			r := open(other.text)
			err := own.read(r)
			if i == j {
				must(t, own.text, 0, err, 0)
			} else if !errors.Is(err, jsonwire.ErrType) || r.Skip() != err || r.Done() != err || r.Kind() != jsonwire.Invalid {
				t.Errorf("the method for %s on %s: got %v, want an ErrType that stays", own.text, other.text, err)
			}
		}
	}
	for _, read := range []func(*jsonwire.Reader) error{
		func(r *jsonwire.Reader) error { _, err := r.Micros(); return err },
		func(r *jsonwire.Reader) error { _, err := r.Blob(); return err },
	} {
		if err := read(open("null")); !errors.Is(err, jsonwire.ErrType) {
			t.Errorf("got %v, want ErrType", err)
		}
	}
}

// Names and values are not mixed up even by a walk that has lost its place.
func TestReaderPlace(t *testing.T) {
	t.Parallel()
	r := open(`{"a":"b"}`)
	must(t, "BeginObject", 0, r.BeginObject(), 0)
	if _, err := r.Text(); !errors.Is(err, jsonwire.ErrType) {
		t.Errorf("a name read as a value: %v", err)
	}
	r = open(`"a"`)
	if _, err := r.Name(); !errors.Is(err, jsonwire.ErrType) {
		t.Errorf("a value read as a name: %v", err)
	}
	r = open(`[]`)
	must(t, "BeginArray", 0, r.BeginArray(), 0)
	if err := r.Skip(); !errors.Is(err, jsonwire.ErrType) {
		t.Errorf("the end read as a value: %v", err)
	}
	r = open(`[1]`)
	must(t, "BeginArray", 0, r.BeginArray(), 0)
	if err := r.End(); !errors.Is(err, jsonwire.ErrType) {
		t.Errorf("an element passed over by End: %v", err)
	}
	r = open(`[1]`)
	must(t, "BeginArray", 0, r.BeginArray(), 0)
	if err := r.Done(); !errors.Is(err, jsonwire.ErrSyntax) {
		t.Errorf("done inside an array: %v", err)
	}
	if r := open("5"); r.Null() || r.Kind() != jsonwire.Number {
		t.Error("Null consumed a number")
	}
}

func TestReaderLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text   string
		limits jsonwire.Limits
		reason error
	}{
		"bytes, just":        {"[1]", jsonwire.Limits{Bytes: 3}, nil},
		"bytes, one more":    {"[12]", jsonwire.Limits{Bytes: 3}, jsonwire.ErrSize},
		"depth, just":        {`[{"a":1}]`, jsonwire.Limits{Depth: 2}, nil},
		"depth, one more":    {`[{"a":[]}]`, jsonwire.Limits{Depth: 2}, jsonwire.ErrDepth},
		"depth, objects":     {`{"a":{"b":{}}}`, jsonwire.Limits{Depth: 2}, jsonwire.ErrDepth},
		"depth, closed ones": {`[[],[],{},[[]]]`, jsonwire.Limits{Depth: 3}, nil},
		"depth by constant":  {strings.Repeat("[", jsonwire.MaxDepth+1), jsonwire.Limits{}, jsonwire.ErrDepth},
		"size by constant":   {strings.Repeat(" ", jsonwire.MaxBytes) + "1", jsonwire.Limits{}, jsonwire.ErrSize},
		"negative":           {"1", jsonwire.Limits{Bytes: -1, Depth: -1}, jsonwire.ErrSize},
	} {
		var r jsonwire.Reader
		r.Reset([]byte(c.text), c.limits)
		if err := r.Skip(); !errors.Is(err, c.reason) {
			t.Errorf("%s: got %v, want %v", name, err, c.reason)
		}
	}
}

func TestReaderZero(t *testing.T) {
	t.Parallel()
	var r jsonwire.Reader
	if r.More() || r.Offset() != 0 || !errors.Is(r.Skip(), jsonwire.ErrSyntax) || !errors.Is(r.Done(), jsonwire.ErrSyntax) {
		t.Error("the zero Reader did not read as an empty document")
	}
}

// Secrets that had to be unescaped or decoded are wiped by Reset, and stay in place until then.
func TestReaderWipes(t *testing.T) {
	t.Parallel()
	r := open(`["se\u0063ret","c2VjcmV0","s\/ecret","c2Vj\u0063mV0"]`)
	must(t, "BeginArray", 0, r.BeginArray(), 0)
	var held [][]byte
	for _, read := range []func() ([]byte, error){r.Text, r.Blob, r.Text, r.Blob} {
		b, err := read()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
	}
	if got := string(bytes.Join(held, []byte(" "))); got != "secret secret s/ecret secret" {
		t.Errorf("got %q", got)
	}
	r.Reset(nil, jsonwire.Limits{})
	for _, b := range held {
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("left in memory: %q", b)
		}
	}
}

// A document's slices survive all reading that follows them, whatever it unescapes.
func TestReaderSlicesStay(t *testing.T) {
	t.Parallel()
	const each = `"\u0061\/\n+"`
	r := open("[" + strings.Repeat(each+",", 999) + each + "]")
	must(t, "BeginArray", 0, r.BeginArray(), 0)
	var all [][]byte
	for r.More() {
		b, err := r.Text()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	for _, b := range all {
		if string(b) != "a/\n+" {
			t.Fatalf("got %q", b)
		}
	}
	if len(all) != 1000 || cap(all[0]) != len(all[0]) {
		t.Errorf("%d slices, the first with capacity %d", len(all), cap(all[0]))
	}
}

func TestReaderDoesNotAllocate(t *testing.T) {
	doc := []byte(`{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"c2VjcmV0\/\/8=","EncryptionContext":{"tenant":"\u0061"},"n":4096}`)
	var r jsonwire.Reader
	var failed error
	walk := func() {
		r.Reset(doc, jsonwire.Limits{})
		failed = errors.Join(failed, readEncrypt(&r))
	}
	walk()
	if n := testing.AllocsPerRun(100, walk); n > 0 || failed != nil {
		t.Errorf("%v allocations, %v", n, failed)
	}
}

func readEncrypt(r *jsonwire.Reader) error {
	if err := r.BeginObject(); err != nil {
		return err
	}
	for r.More() {
		name, err := r.Name()
		if err != nil {
			return err
		}
		switch string(name) {
		case "KeyId":
			_, err = r.Text()
		case "Plaintext":
			_, err = r.Blob()
		case "n":
			_, err = r.Int()
		default:
			err = r.Skip()
		}
		if err != nil {
			return err
		}
	}
	if err := r.End(); err != nil {
		return err
	}
	return r.Done()
}

func BenchmarkReader(b *testing.B) {
	doc := []byte(`{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0","EncryptionContext":{"tenant":"a"}}`)
	var r jsonwire.Reader
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(doc, jsonwire.Limits{})
		if err := readEncrypt(&r); err != nil {
			b.Fatal(err)
		}
	}
}

// lent is memory that a test gives to a Reader.
type lent struct{ b []byte }

func (l *lent) Bytes(n int) []byte { l.b = make([]byte, n); return l.b }

// TestLentMemoryIsLeftAlone reads into lent memory, and then another document: that wipes what is the Reader's own
// and not what was lent, which may be in somebody else's hands by then.
func TestLentMemoryIsLeftAlone(t *testing.T) {
	t.Parallel()
	var r jsonwire.Reader
	mem := new(lent)
	r.Reset([]byte(`"c2VjcmV0"`), jsonwire.Limits{})
	r.Lend(mem)
	first, err := r.Blob()
	if err != nil || string(first) != "secret" || !bytes.Contains(mem.b, first) {
		t.Fatalf("got %q, %v; lent was %q", first, err, mem.b)
	}
	r.Reset([]byte(`"b3RoZXJz"`), jsonwire.Limits{})
	second, err := r.Blob()
	if err != nil || string(second) != "others" || string(first) != "secret" || bytes.Contains(mem.b, second) {
		t.Errorf("got %q, %v; the first is %q, lent was %q", second, err, first, mem.b)
	}
	r.Reset(nil, jsonwire.Limits{})
	if string(second) == "others" {
		t.Error("the Reader's own memory is not wiped")
	}
}
