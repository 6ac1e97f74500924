package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// TestAppendJSON compares with JSON as AWS's own tools write it.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	when := api.TimeOf(time.Date(2018, 5, 16, 19, 13, 54, 743e6, time.UTC))
	for _, c := range []struct {
		name  string
		v     *everyShape
		modes []api.JSONMode
		want  string
	}{
		{"nothing", &everyShape{}, nil, `{}`},
		{"bytes", &everyShape{Secret: api.Secret("\xfb\xff\xfe?"), Blob: api.Blob{0}}, nil, `{"Secret":"+//+Pw==","Blob":"AA=="}`},
		{"text", &everyShape{Text: "\"\\/<é\u2028\x00\n"}, nil, `{"Text":"\"\\/<é` + "\u2028" + `\u0000\n"}`},
		{"text that is not UTF-8", &everyShape{Text: "a\xffb"}, nil, `{"Text":"a` + "\uFFFD" + `b"}`},
		{"numbers", &everyShape{Int: -3, Ints: []int64{0, 1 << 62}}, nil, `{"Int":-3,"Ints":[0,4611686018427387904]}`},
		{"enums", &everyShape{Enum: kmsapi.UsageEncryptDecrypt, Enums: []kmsapi.KeyState{1, 3}}, nil, `{"Enum":"ENCRYPT_DECRYPT","Enums":["Enabled","PendingDeletion"]}`},
		{"structures", &everyShape{Tags: []kmsapi.Tag{{TagKey: "k", TagValue: "v"}, {}}, Inner: inner{Unshown: "x"}}, nil,
			`{"Tags":[{"TagKey":"k","TagValue":"v"},{"TagValue":""}],"Inner":{"Must":"","Unshown":"x"}}`},
		{"context", &everyShape{Pairs: api.NewEncryptionContext(map[string]string{"bb": "\"", "a": ""})}, nil, `{"Pairs":{"a":"","bb":"\""}}`},
		{"empty context", &everyShape{Pairs: api.NewEncryptionContext(nil)}, nil, `{"Pairs":{}}`},
		{"time for people", &everyShape{When: when}, nil, `{"When":"2018-05-16T19:13:54.743Z"}`},
		{"time for AWS", &everyShape{When: when}, []api.JSONMode{api.AWSJSON}, `{"When":1526498034.743}`},
		{"whole seconds", &everyShape{When: 1893456000e6}, []api.JSONMode{api.AWSJSON}, `{"When":1893456000}`},
		{"a microsecond", &everyShape{When: 1}, []api.JSONMode{api.AWSJSON}, `{"When":0.000001}`},
		{"before 1970", &everyShape{When: -1_000_010}, []api.JSONMode{api.AWSJSON}, `{"When":-1.00001}`},
		{"a tenth", &everyShape{When: 100_000}, []api.JSONMode{api.AWSJSON}, `{"When":0.1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := string(shapes.AppendJSON([]byte("x"), c.v, c.modes...)); got != "x"+c.want {
				t.Errorf("got  %s\nwant x%s", got, c.want)
			}
		})
	}
}

func TestDecodeJSON(t *testing.T) {
	t.Parallel()
	body := `{ "EncryptionContext" : {"k":"v","a":"\u00e4"}, "DryRun":true, "Plaintext":"AAEC",
		"GrantTokens":["t"], "KeyId":"alias\/a", "EncryptionAlgorithm":"RSAES_OAEP_SHA_1" }`
	var in kmsapi.EncryptRequest
	if err := kmsapi.Encrypt.In.DecodeJSON([]byte(body), &in, api.AWSJSON); err != nil {
		t.Fatal(err)
	}
	got := kmsapi.Encrypt.In.AppendCBOR(nil, &in)
	want := unhex(t, "a6 01 67616c6961732f61 02 43000102 03 a26161 62c3a4 616b 6176 04 816174 05 02 06 f5")
	if string(got) != string(want) || in.KeyId.Form != api.RefAlias {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestDecodeJSONRefuses lists what is no request in JSON: KindSerialization.
func TestDecodeJSONRefuses(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"nothing": ``, "text": `"a"`, "null": `null`, "array": `[]`, "cut off": `{"Text":"abc"`, "two values": `{}{}`, "bytes behind": `{} x`,
		"repeated member": `{"Text":"abc","Text":"abc"}`, "repeated in another spelling": `{"Text":"abc","\u0054ext":"abc"}`, "repeated null": `{"Text":null,"Text":null}`,
		"number for text": `{"Text":1}`, "text for a number": `{"Int":"1"}`, "fraction": `{"Int":1.0}`, "exponent": `{"Int":1e0}`, "beyond 64 bits": `{"Int":9223372036854775808}`,
		"text for a boolean": `{"Bool":"true"}`, "number for a boolean": `{"Bool":1}`, "number for an enum": `{"Enum":1}`, "array for text": `{"Text":["abc"]}`,
		"text for a list": `{"Texts":"abc"}`, "null in a list": `{"Texts":["a",null]}`, "object for a list": `{"Texts":{}}`, "list for a structure": `{"Inner":[]}`,
		"null in a context": `{"Pairs":{"k":null}}`, "number in a context": `{"Pairs":{"k":1}}`, "repeated key in a context": `{"Pairs":{"k":"a","k":"b"}}`, "list for a context": `{"Pairs":[]}`,
		"base64 unpadded": `{"Blob":"YWI"}`, "base64 with loose bits": `{"Blob":"YWJ="}`, "base64 with a newline": `{"Blob":"YW\nI="}`, "base64 for URLs": `{"Blob":"-_-_"}`, "number for bytes": `{"Blob":[1]}`,
		"lone surrogate": `{"Text":"\ud800ab"}`, "not UTF-8": "{\"Text\":\"\xff\xff\"}", "no time": `{"When":"yesterday"}`, "time finer than a microsecond": `{"When":"2026-01-02T03:04:05.1234567Z"}`,
		"time 2^32 s after 1970": `{"When":4294967296}`, "time beyond all": `{"When":1e400}`, "time of the year 9999": `{"When":"9999-12-31T23:59:59Z"}`, "boolean for a time": `{"When":true}`,
		"unknown member": `{"Texx":"a"}`, "other case": `{"text":"abc"}`, "AWS's case of messages": `{"inner":{"must":""}}`, "unknown member of a structure": `{"Inner":{"Must":"","X":1}}`,
		"unknown member of an item": `{"Tags":[{"TagKey":"k","TagValue":"","X":1}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v everyShape
			if err := shapes.DecodeJSON([]byte(body), &v); api.KindOf(err) != api.KindSerialization {
				t.Errorf("got %v, %+v", err, v)
			}
		})
	}
}

// TestJSONModes checks what differs between people's JSON and AWS's.
func TestJSONModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		modes      []api.JSONMode
		ok         bool
	}{
		{"unknown member on AWS's wire", `{"Unknown":{"a":[1,null]},"text":"a","Text":"abc"}`, []api.JSONMode{api.AWSJSON}, true},
		{"empty body on AWS's wire", ``, []api.JSONMode{api.AWSJSON}, true},
		{"empty body from people", ``, nil, false},
		{"null in a list on AWS's wire", `{"Texts":["a",null]}`, []api.JSONMode{api.AWSJSON}, false},
		{"null in a context on AWS's wire", `{"Pairs":{"k":null}}`, []api.JSONMode{api.AWSJSON}, false},
		{"unknown member of a structure on AWS's wire", `{"Inner":{"Must":"","X":1}}`, []api.JSONMode{api.AWSJSON}, true},
		{"repeated unknown member on AWS's wire", `{"X":1,"X":1}`, []api.JSONMode{api.AWSJSON}, false},
		{"broken unknown member on AWS's wire", `{"X":"\ud800"}`, []api.JSONMode{api.AWSJSON}, false},
		{"text for a time on AWS's wire", `{"When":"2026-01-02T03:04:05Z"}`, []api.JSONMode{api.AWSJSON}, false},
		{"fraction for a time on AWS's wire", `{"When":1893456000.5}`, []api.JSONMode{api.AWSJSON}, true},
		{"number for a time from people", `{"When":1893456000.5}`, nil, true},
		{"text for a time from people", `{"When":"2026-01-02T03:04:05.123456+02:00"}`, nil, true},
		{"required member missing", `{"Inner":{"Unshown":"x"}}`, nil, false},
		{"required member missing of a part", `{"Inner":{"Unshown":"x"}}`, []api.JSONMode{api.Partial}, true},
		{"broken constraint in a part", `{"Text":"a"}`, []api.JSONMode{api.Partial}, false},
		{"unknown member in a part", `{"X":1}`, []api.JSONMode{api.Partial}, false},
		{"unknown member in a part on AWS's wire", `{"X":1}`, []api.JSONMode{api.Partial, api.AWSJSON}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var v everyShape
			if err := shapes.DecodeJSON([]byte(c.body), &v, c.modes...); (err == nil) != c.ok {
				t.Errorf("got %v, %+v", err, v)
			}
		})
	}
	var in kmsapi.DecryptRequest
	if err := kmsapi.Decrypt.In.DecodeJSON([]byte(`{}`), &in, api.Partial); err != nil || in.EncryptionAlgorithm != 0 {
		t.Errorf("a part got a default or the type's own check: %+v, %v", in, err)
	}
}

// TestDecodeJSONNamesTheMember checks that a person can find the fault.
func TestDecodeJSONNamesTheMember(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"Tags":[{"TagKey":"k","TagValue":1}]}`:       "everyShape: member Tags: item 0: member TagValue: json: byte 33: another type than expected",
		`{"Inner":{"Mist":1}}`:                         `everyShape: member Inner: no member is called "Mist"`,
		`{"` + strings.Repeat("x", 100) + `":"value"}`: `everyShape: no member is called "` + strings.Repeat("x", 64) + `"`,
	} {
		var v everyShape
		if err := shapes.DecodeJSON([]byte(body), &v); err == nil || err.Error() != "SerializationException: "+want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
