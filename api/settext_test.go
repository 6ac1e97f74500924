package api_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
)

func TestSetText(t *testing.T) {
	t.Parallel()
	var v everyShape
	for _, set := range [][2]string{
		{"text", "abc"}, {"int", "-2"}, {"enum", "SIGN_VERIFY"}, {"texts", "a"}, {"texts", "b"}, {"enums", "Enabled"}, {"ints", "4"},
		{"tags", `{"TagKey":"k","TagValue":"v"}`}, {"inner", `{"Must":"m"}`}, {"ref", "alias/a"}, {"when", "2026-01-02T03:04:05+01:00"},
		{"pairs", "k=v=w"}, {"pairs", "a="}, {"bool", "true"},
	} {
		if err := shapes.Flag(set[0]).SetText(&v, set[1]); err != nil {
			t.Fatalf("--%s %s: %v", set[0], set[1], err)
		}
	}
	for _, set := range []string{"secret", "blob"} {
		if err := shapes.Flag(set).SetBytes(&v, []byte("\x00\xff")); err != nil || !shapes.Flag(set).Bytes() {
			t.Fatalf("--%s: %v", set, err)
		}
	}
	want := `{"Text":"abc","Secret":"AP8=","Blob":"AP8=","Int":-2,"Enum":"SIGN_VERIFY","Texts":["a","b"],"Enums":["Enabled"],"Ints":[4],` +
		`"Tags":[{"TagKey":"k","TagValue":"v"}],"Inner":{"Must":"m"},"Ref":"alias/a","When":"2026-01-02T02:04:05Z","Pairs":{"a":"","k":"v=w"},"Bool":true}`
	if got := string(shapes.AppendJSON(nil, &v)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestDates: a date alone is its first moment in UTC, typed or in JSON.
func TestDates(t *testing.T) {
	t.Parallel()
	const want = "2027-01-31 00:00:00 +0000 UTC"
	var typed, read everyShape
	if err := shapes.Flag("when").SetText(&typed, "2027-01-31"); err != nil || typed.When.Time().String() != want {
		t.Errorf("got %s, %v", typed.When.Time(), err)
	}
	if err := shapes.DecodeJSON([]byte(`{"When":"2027-01-31"}`), &read, api.Partial); err != nil || read.When != typed.When {
		t.Errorf("got %s, %v", read.When.Time(), err)
	}
}

func TestSetTextRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, text, want string }{
		{"text", "a", "Value 'a' at 'text' failed to satisfy constraint"},
		{"text", "ab\xff", "Text: the text is not UTF-8"},
		{"secret", "abc", "Secret: it takes bytes, not text"},
		{"int", "x", "Int: want a whole number"},
		{"int", "1.5", "Int: want a whole number"},
		{"int", "", "Int: want a whole number"},
		{"int", "1 2", "Int: want a whole number"},
		{"int", "9", "Value '9' at 'int' failed to satisfy constraint"},
		{"bool", "yes", "Bool: want true or false"},
		{"bool", "1", "Bool: want true or false"},
		{"enum", "sign", "Member must satisfy enum value set"},
		{"enums", "enabled", "Value at 'enums' failed to satisfy constraint: Member must satisfy enum value set"},
		{"texts", "abcde", "Member must have length less than or equal to 4"},
		{"tags", `{"TagKey":"k"}`, "Value null at 'tags.tagValue' failed"},
		{"tags", `{"Key":"k"}`, `Tags: want structure: no member is called "Key"`},
		{"inner", `{"Must":"m"`, "Inner: want structure: json"},
		{"pairs", "k", "Pairs: want key=value"},
		{"pairs", "=v", "Pairs: want key=value"},
		{"pairs", "given=w", `Pairs: the key "given" is given twice`},
		{"when", "tomorrow", "When: want a time such as 2026-01-02T15:04:05Z, a date such as 2026-01-02, or a number of seconds since 1970"},
		{"when", "2999", "When: want a time such as"}, // a year, not the end of 1970's first hour
		{"when", "2999-01-01", "When: the time is 2^32 seconds or more from 1970: want one before 2106-02-07"},
		{"when", "2026-02-30", "When: want a time such as"},
		{"when", "0", "Value '0' at 'when' failed to satisfy constraint: Member must be another time than 1970-01-01T00:00:00Z"},
		{"when", "1970-01-01", "Value '0' at 'when' failed to satisfy constraint"},
		{"when", "9999-12-31T00:00:00Z", "When: the time is 2^32 seconds or more from 1970"},
		{"when", "1e99", "When: want time: json: byte 4: number out of range"},
	} {
		v := everyShape{Pairs: api.NewEncryptionContext(map[string]string{"given": ""})}
		before := v
		err := shapes.Flag(c.flag).SetText(&v, c.text)
		if api.KindOf(err) != api.KindValidation || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--%s %s: got %v, want %s", c.flag, c.text, err, c.want)
		}
		if !reflect.DeepEqual(v, before) {
			t.Errorf("--%s %s was kept: %+v", c.flag, c.text, v)
		}
	}
	var v everyShape
	if err := shapes.Field("Text").SetBytes(&v, nil); api.KindOf(err) != api.KindValidation {
		t.Errorf("bytes for text: %v", err)
	}
	if err := shapes.Field("Blob").SetBytes(&v, []byte("a")); api.KindOf(err) != api.KindValidation {
		t.Errorf("a blob too short: %v", err)
	}
}
