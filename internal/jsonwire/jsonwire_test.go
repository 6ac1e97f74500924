package jsonwire_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/jsonwire"
)

// request has the fields that AWS's requests are made of.
type request struct {
	KeyId     string
	Plaintext []byte
	Days      int64
	Tags      []tag
	Context   map[string]string
	Secret    secret
	ID        [1]byte
	Source    net.IP
}

type secret []byte

type tag struct{ TagKey, TagValue string }

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	var got request
	err := jsonwire.Unmarshal([]byte(` {"KeyId": "k1", "Plaintext": "QQ==", "Days": -7,
		"Tags": [{"TagKey": "a", "TagValue": "b\u00e9"}], "Context": {"x": "y"}, "Secret": "QUI\u003d", "Source": "::1"} `), &got)
	if err != nil {
		t.Fatal(err)
	}
	if got.KeyId != "k1" || string(got.Plaintext) != "A" || got.Days != -7 ||
		len(got.Tags) != 1 || got.Tags[0] != (tag{"a", "bé"}) || got.Context["x"] != "y" ||
		string(got.Secret) != "AB" || !got.Source.Equal(net.IPv6loopback) {
		t.Errorf("got %+v", got)
	}
}

// Each of these is accepted by encoding/json, or nearly; accepting one lets two readers of a document disagree.
func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text   string
		reason error
	}{
		"lower case name":            {`{"keyid":"k"}`, jsonwire.ErrUnknown},
		"upper case name":            {`{"KEYID":"k"}`, jsonwire.ErrUnknown},
		"same name twice":            {`{"KeyId":"a","KeyId":"b"}`, jsonwire.ErrDuplicate},
		"same name escaped":          {`{"KeyId":"a","\u004beyId":"b"}`, jsonwire.ErrDuplicate},
		"same name in a map":         {`{"Context":{"a":"1","a":"2"}}`, jsonwire.ErrDuplicate},
		"same unknown name":          {`{"Nope":{"a":1,"a":1}}`, jsonwire.ErrDuplicate},
		"unknown name":               {`{"Nope":1}`, jsonwire.ErrUnknown},
		"unknown name below":         {`{"Tags":[{"TagKey":"a","Nope":1}]}`, jsonwire.ErrUnknown},
		"invalid UTF-8":              {"{\"KeyId\":\"a\xff\"}", jsonwire.ErrUTF8},
		"lone surrogate":             {`{"KeyId":"\ud800"}`, jsonwire.ErrSyntax},
		"base64, unused bits":        {`{"Plaintext":"QR=="}`, jsonwire.ErrBase64},
		"base64, line break":         {`{"Plaintext":"QQ\n=="}`, jsonwire.ErrBase64},
		"base64, no padding":         {`{"Plaintext":"QQ"}`, jsonwire.ErrBase64},
		"base64, URL alphabet":       {`{"Plaintext":"_w=="}`, jsonwire.ErrBase64},
		"base64, null":               {`{"Plaintext":null}`, jsonwire.ErrType},
		"base64, a number":           {`{"Plaintext":1}`, jsonwire.ErrType},
		"base64, named type":         {`{"Secret":"QR=="}`, jsonwire.ErrBase64},
		"base64, array":              {`{"ID":"QQ=="}`, jsonwire.ErrType},
		"bytes after the value":      {`{"KeyId":"a"} {}`, jsonwire.ErrSyntax},
		"zero byte after":            {"{}\x00", jsonwire.ErrSyntax},
		"byte order mark":            {"\ufeff{}", jsonwire.ErrSyntax},
		"nothing":                    {"", jsonwire.ErrSyntax},
		"only space":                 {" \n", jsonwire.ErrSyntax},
		"cut off":                    {`{"KeyId":"a"`, jsonwire.ErrSyntax},
		"comma at the end":           {`{"KeyId":"a",}`, jsonwire.ErrSyntax},
		"comment":                    {`{/**/}`, jsonwire.ErrSyntax},
		"single quotes":              {`{'KeyId':"a"}`, jsonwire.ErrSyntax},
		"control character":          {"{\"KeyId\":\"a\nb\"}", jsonwire.ErrSyntax},
		"number for a string":        {`{"KeyId":1}`, jsonwire.ErrType},
		"string for a number":        {`{"Days":"1"}`, jsonwire.ErrType},
		"fraction for an int":        {`{"Days":1.5}`, jsonwire.ErrType},
		"int too large":              {`{"Days":9223372036854775808}`, jsonwire.ErrRange},
		"leading zero":               {`{"Days":07}`, jsonwire.ErrSyntax},
		"not a number":               {`{"Days":NaN}`, jsonwire.ErrSyntax},
		"nested deeper than allowed": {strings.Repeat("[", jsonwire.MaxDepth+1), jsonwire.ErrDepth},
		"longer than allowed":        {`"` + strings.Repeat("a", jsonwire.MaxBytes) + `"`, jsonwire.ErrSize},
	} {
		var v request
		err := jsonwire.Unmarshal([]byte(c.text), &v)
		var e *jsonwire.Error
		if !errors.Is(err, c.reason) || !errors.As(err, &e) {
			t.Errorf("%s: got %v, want %v", name, err, c.reason)
		} else if e.Offset < 0 || e.Offset > len(c.text) {
			t.Errorf("%s: offset %d of %d", name, e.Offset, len(c.text))
		}
	}
}

func TestUnmarshalDepth(t *testing.T) {
	t.Parallel()
	var v any
	deepest := strings.Repeat("[", jsonwire.MaxDepth) + strings.Repeat("]", jsonwire.MaxDepth)
	if err := jsonwire.Unmarshal([]byte(deepest), &v); err != nil {
		t.Error(err)
	}
}

// Whatever is wrong with a document, its words must not get into a log by way of the error.
func TestErrorsHoldNoValues(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"hunter2":"a"}`, `{"hunter2":"a","hunter2":"a"}`, `{"Days":"hunter2"}`, `{"Days":hunter2}`,
		`{"Plaintext":"hunter2"}`, `{"KeyId":"hunter2` + "\x01" + `"}`, `{"KeyId":"hunter2\z"}`, `{"KeyId":{"hunter2":[1,}}`,
		`"hunter2" hunter2`, `{"KeyId":"hunter2` + "\xff" + `"}`,
	} {
		var v request
		err := jsonwire.Unmarshal([]byte(text), &v)
		if err == nil {
			t.Errorf("%q was accepted", text)
		}
		for ; err != nil; err = errors.Unwrap(err) {
			if strings.Contains(err.Error(), "unter") {
				t.Errorf("%q: error holds a value: %v", text, err)
			}
		}
	}
}

func TestDecodeBase64(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "QQ==": "A", "QUI=": "AB", "QUJD": "ABC", "+/8=": "\xfb\xff"} {
		got, err := jsonwire.DecodeBase64([]byte("before "), []byte(text))
		if err != nil || string(got) != "before "+want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"QR==", "QUJ=", "QQ", "QQ=", "QQ===", "QQ==QQ==", "QQ==\n", "Q\nQ==", "Q\rQ==", "\n", " QQ==", "QQ= =", "=", "====", "-_8=", "Q", "QQ==\x00",
	} {
		if got, err := jsonwire.DecodeBase64(nil, []byte(text)); !errors.Is(err, jsonwire.ErrBase64) {
			t.Errorf("%q: got %q, %v, want ErrBase64", text, got, err)
		}
	}
}

func TestAppendText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": `""`, "a/b<é>": `"a/b<é>"`, "\"\\\n\x01\x7f\u2028": `"\"\\\n\u0001` + "\x7f\u2028" + `"`,
	} {
		got, err := jsonwire.AppendText([]byte("{"), text)
		if err != nil || string(got) != "{"+want {
			t.Errorf("%q: got %s, %v, want {%s", text, got, err, want)
		}
	}
	if _, err := jsonwire.AppendText(nil, []byte("a\xff")); !errors.Is(err, jsonwire.ErrUTF8) {
		t.Errorf("got %v, want ErrUTF8", err)
	}
}
