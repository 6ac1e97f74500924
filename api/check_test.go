package api_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// everyShape has a member of each shape under each kind of rule.
type everyShape struct {
	Text   string                `n:"1" rule:"len=2:5" audit:"show"`
	Hidden string                `n:"2" rule:"len=2:5"`
	Secret api.Secret            `n:"3" rule:"len=2:5"`
	Blob   api.Blob              `n:"4" rule:"len=2:5" audit:"show"`
	Int    int64                 `n:"5" rule:"range=-3:5"`
	Enum   kmsapi.KeyUsage       `n:"6" audit:"show"`
	Texts  []string              `n:"7" rule:"items=2:3,each=1:4" audit:"show"`
	Enums  []kmsapi.KeyState     `n:"8"`
	Ints   []int64               `n:"9" rule:"items=0:9,each=1:4"`
	Tags   []kmsapi.Tag          `n:"10" rule:"items=0:2" audit:"show"`
	Inner  inner                 `n:"11" audit:"show"`
	Ref    api.KeyRef            `n:"12" audit:"show"`
	When   api.Time              `n:"13" audit:"show"`
	Pairs  api.EncryptionContext `n:"14" audit:"show"`
	Bool   bool                  `n:"15" audit:"show"`
}

type inner struct {
	Must    string       `n:"1" rule:"required,len=0:3" audit:"show"`
	Unshown string       `n:"2"`
	Tags    []kmsapi.Tag `n:"3"`
}

var shapes = api.StructOf(reflect.TypeFor[everyShape]())

// TestViolations checks AWS's sentences, on both wires at once.
func TestViolations(t *testing.T) {
	t.Parallel()
	const keyUsages = "[ENCRYPT_DECRYPT, SIGN_VERIFY, GENERATE_VERIFY_MAC, KEY_AGREEMENT, ENCAPSULATE_DECAPSULATE]"
	for _, c := range []struct{ name, json, want string }{
		{"text too short", `{"Text":"a"}`, "Value 'a' at 'text' failed to satisfy constraint: Member must have length greater than or equal to 2"},
		{"text empty", `{"Text":""}`, "Value '' at 'text' failed to satisfy constraint: Member must have length greater than or equal to 2"},
		{"text too long", `{"Text":"abcdef"}`, "Value 'abcdef' at 'text' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"code points are counted", `{"Text":"ä"}`, "Value 'ä' at 'text' failed to satisfy constraint: Member must have length greater than or equal to 2"},
		{"as many code points as allowed", `{"Text":"äöüéß"}`, ""},
		{"text that does not print", `{"Text":"a\nbcdefgh"}`, "Value at 'text' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"text too long to repeat", `{"Text":"` + strings.Repeat("x", 65) + `"}`, "Value at 'text' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"text that is not shown", `{"Hidden":"abcdef"}`, "Value at 'hidden' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"secret too long", `{"Secret":"YWJjZGVm"}`, "Value at 'secret' failed to satisfy constraint: Member must have length less than or equal to 5"},
		{"blob too short", `{"Blob":"YQ=="}`, "Value at 'blob' failed to satisfy constraint: Member must have length greater than or equal to 2"},
		{"integer too large", `{"Int":6}`, "Value '6' at 'int' failed to satisfy constraint: Member must have value less than or equal to 5"},
		{"integer too small", `{"Int":-4}`, "Value '-4' at 'int' failed to satisfy constraint: Member must have value greater than or equal to -3"},
		{"too few items", `{"Texts":["a"]}`, "Value at 'texts' failed to satisfy constraint: Member must have length greater than or equal to 2"},
		{"too many items", `{"Texts":["a","b","c",""]}`, "Value at 'texts' failed to satisfy constraint: Member must have length less than or equal to 3"},
		{"bad items", `{"Texts":["a","","abcde"]}`, "Value at 'texts' failed to satisfy constraint: Member must satisfy constraint: " +
			"[Member must have length less than or equal to 4, Member must have length greater than or equal to 1]"},
		{"bad integer in a list", `{"Ints":[1,5]}`, "Value at 'ints' failed to satisfy constraint: Member must satisfy constraint: " +
			"[Member must have value less than or equal to 4, Member must have value greater than or equal to 1]"},
		{"member of an item", `{"Tags":[{"TagKey":"k","TagValue":""},{"TagKey":"","TagValue":"v"}]}`,
			"Value '' at 'tags.2.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"member missing in an item", `{"Tags":[{"TagKey":"k"}]}`, "Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null"},
		{"member missing in a structure", `{"Inner":{}}`, "Value null at 'inner.must' failed to satisfy constraint: Member must not be null"},
		{"member of an item in a structure", `{"Inner":{"Must":"","Tags":[{"TagKey":"","TagValue":""}]}}`,
			"Value '' at 'inner.tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"null in a structure", `{"Inner":{"Must":null}}`, "Value null at 'inner.must' failed to satisfy constraint: Member must not be null"},
		{"a time that is none", `{"When":0}`, "Value '0' at 'when' failed to satisfy constraint: Member must be another time than 1970-01-01T00:00:00Z"},
		{"null at the top", `{"Text":null,"Int":null,"Texts":null,"Inner":null}`, ""},
		{"unknown name in an enum", `{"Enum":"SIGN"}`, "Value 'SIGN' at 'enum' failed to satisfy constraint: Member must satisfy enum value set: " + keyUsages},
		{"other case in an enum", `{"Enum":"sign_verify"}`, "Value 'sign_verify' at 'enum' failed to satisfy constraint: Member must satisfy enum value set: " + keyUsages},
		{"enum empty", `{"Enum":""}`, "Value '' at 'enum' failed to satisfy constraint: Member must satisfy enum value set: " + keyUsages},
		{"unknown name in a list of enums", `{"Enums":["Enabled","On"]}`, "Value at 'enums' failed to satisfy constraint: Member must satisfy constraint: " +
			"[Member must satisfy enum value set: [Enabled, Disabled, PendingDeletion, PendingImport, PendingReplicaDeletion, Creating, Unavailable, Updating]]"},
		{"context too long", `{"Pairs":{"k":"` + strings.Repeat("v", api.MaxEncryptionContext) + `"}}`,
			"Value at 'pairs' failed to satisfy constraint: Member must have at most 8192 bytes in its canonical encoding"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var in everyShape
			err := shapes.DecodeJSON([]byte(c.json), &in)
			checkViolation(t, err, c.want)
			if c.want != "" && !reflect.ValueOf(in).IsZero() && in.Inner.Must == "" && in.Inner.Tags == nil {
				t.Errorf("a value that broke its rule was kept: %+v", in)
			}
		})
	}
}

// TestZeroTime: a time that is given as 0 is not taken for one that was left out, on any wire.
func TestZeroTime(t *testing.T) {
	t.Parallel()
	const want = "Value '0' at 'when' failed to satisfy constraint: Member must be another time than 1970-01-01T00:00:00Z"
	checkViolation(t, shapes.DecodeCBOR(unhex(t, "a1 0d 00"), new(everyShape)), want)
	checkViolation(t, shapes.DecodeRPC(unhex(t, "a1 645768656e c1 00"), new(everyShape), nil), want)
	checkViolation(t, shapes.DecodeJSON([]byte(`{"When":0}`), new(everyShape), api.AWSJSON), want)
	checkViolation(t, shapes.DecodeJSON([]byte(`{"When":"1970-01-01T00:00:00Z"}`), new(everyShape)), want)
}

// TestViolationsInOrder: what is broken is told in the order of the members,
// whatever order they came in; what is missing follows.
func TestViolationsInOrder(t *testing.T) {
	t.Parallel()
	const want = "ValidationException: 5 validation errors detected: " +
		"Value 'a' at 'text' failed to satisfy constraint: Member must have length greater than or equal to 2; " +
		"Value '6' at 'int' failed to satisfy constraint: Member must have value less than or equal to 5; " +
		"Value '' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1; " +
		"Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null; " +
		"Value '1234' at 'inner.must' failed to satisfy constraint: Member must have length less than or equal to 3"
	for _, body := range []string{
		`{"Text":"a","Int":6,"Tags":[{"TagKey":""}],"Inner":{"Must":"1234"}}`, `{"Inner":{"Must":"1234"},"Tags":[{"TagKey":""}],"Int":6,"Text":"a"}`,
	} {
		if err := shapes.DecodeJSON([]byte(body), new(everyShape)); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if err := shapes.DecodeRPC(unhex(t, "bf 65496e6e6572 a1 644d757374 6431323334 6454616773 81 a1 665461674b6579 60 63496e74 06 6454657874 6161 ff"), new(everyShape), nil); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	refused := `{"Target":"alias/b","Key":"alias/a"}`
	if err := forms.DecodeJSON([]byte(refused), new(formed)); api.KindOf(err) != api.KindNotFound {
		t.Errorf("%s: got %v, want what Key is refused with", refused, err)
	}
}

// checkViolation checks for one violation, or none if want is "".
func checkViolation(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	want = "ValidationException: 1 validation error detected: " + want
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestViolationsOfCBOR checks what the native wire alone can get wrong.
func TestViolationsOfCBOR(t *testing.T) {
	t.Parallel()
	null := "Value null at '%s' failed to satisfy constraint: Member must not be null"
	for _, c := range []struct {
		name string
		s    *api.Struct
		hex  string
		want string
	}{
		{"one missing", kmsapi.Encrypt.In, "a1 02 4101", "1 validation error detected: " + strings.ReplaceAll(null, "%s", "keyId")},
		{"two missing", kmsapi.Encrypt.In, "a0", "2 validation errors detected: " + strings.ReplaceAll(null, "%s", "keyId") + "; " + strings.ReplaceAll(null, "%s", "plaintext")},
		{"one wrong and one missing", kmsapi.Encrypt.In, "a2 02 40 06 f5", "2 validation errors detected: " +
			"Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1; " + strings.ReplaceAll(null, "%s", "keyId")},
		{"enum 0", kmsapi.Encrypt.In, "a3 01 6161 02 4101 05 00", "1 validation error detected: Value '0' at 'encryptionAlgorithm' failed to satisfy constraint: " +
			"Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE]"},
		{"enum beyond 8 bits", kmsapi.Encrypt.In, "a3 01 6161 02 4101 05 190101", "1 validation error detected: Value '257' at 'encryptionAlgorithm' failed to satisfy constraint: " +
			"Member must satisfy enum value set: [SYMMETRIC_DEFAULT, RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, SM2PKE]"},
		{"a required integer may be 0", applianceapi.GetAuditConsistency.In, "a1 01 00", ""},
		{"a required integer must be there", applianceapi.GetAuditConsistency.In, "a0", "1 validation error detected: " + strings.ReplaceAll(null, "%s", "oldSize")},
		{"the type's own check", kmsapi.Decrypt.In, "a0", "1 validation error detected: " + strings.ReplaceAll(null, "%s", "ciphertextBlob")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.s.DecodeCBOR(unhex(t, c.hex), newOf(c.s))
			if c.want == "" && err == nil {
				return
			}
			if err == nil || err.Error() != "ValidationException: "+c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestMalformed lists what is no request at all: KindSerialization.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"nothing": "", "an array": "80", "unknown member": "a1 1001", "member 63": "a1 183f 00", "member 64": "a1 1840 00", "member 2^64-1": "a1 1bffffffffffffffff 00",
		"member 0": "a1 0000", "negative member": "a1 2000", "member by name": "a1 6454657874 6161", "repeated member": "a2 016161 016161",
		"members out of order": "a2 0500 016161", "null": "a1 01f6", "bytes for text": "a1 01 426161", "text for bytes": "a1 03 626161", "text for an integer": "a1 05 6131",
		"number for a boolean": "a1 0f 01", "name for an enum": "a1 06 6161", "negative enum": "a1 06 20", "float for an integer": "a1 05 f93c00", "tag": "a1 05 c101",
		"text for a list": "a1 07 6161", "null in a list": "a1 07 82 6161 f6", "list for a structure": "a1 0b 80", "unknown member of a structure": "a1 0b a1 0400",
		"text for a context": "a1 0e 6161", "context not in order": "a1 0e a2 616260 616160", "time 2^32 s after 1970": "a1 0d 1b000f424000000000",
		"time 2^32 s before 1970": "a1 0d 3b000f423fffffffff", "integer beyond 64 bits": "a1 05 1b8000000000000000", "text that is not UTF-8": "a1 01 61ff",
		"key reference that is not UTF-8": "a1 0c 61ff", "bytes behind": "a0 00", "list longer than the input": "a1 07 9affffffff", "wrong item behind too many": "a1 07 84 6161 6161 6161 01",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v everyShape
			if err := shapes.DecodeCBOR(unhex(t, in), &v); api.KindOf(err) != api.KindSerialization || !strings.Contains(err.Error(), "everyShape: ") {
				t.Errorf("got %v, want a SerializationException that names the structure", err)
			}
		})
	}
}

// TestErrorsHoldNoValues checks that no error repeats a value of a member that
// an audit record would not show, however it is wrong.
func TestErrorsHoldNoValues(t *testing.T) {
	t.Parallel()
	const text = "hunter2!hunter2!"
	for _, body := range []string{
		`{"Secret":"aHVudGVyMiFodW50ZXIyIQ=="}`, `{"Blob":"aHVudGVyMiFodW50ZXIyIQ=="}`, `{"Hidden":"hunter2!hunter2!"}`, `{"Texts":["hunter2!hunter2!"]}`,
		`{"Secret":"hunter2!hunter2!x"}`, `{"Int":"hunter2!hunter2!"}`, `{"Bool":"hunter2!hunter2!"}`, `{"Pairs":{"hunter2!hunter2!":1}}`, `{"Hidden":"hunter2!hunter2!\ud800"}`,
		`{"Enums":["hunter2!hunter2!"]}`, `{"Pairs":"hunter2!hunter2!"}`, `{"When":"hunter2!hunter2!"}`, `{"Tags":[{"TagKey":"","TagValue":"hunter2!hunter2!"}]}`,
	} {
		var v everyShape
		err := shapes.DecodeJSON([]byte(body), &v)
		if err == nil {
			t.Errorf("%s was accepted", body)
			continue
		}
		checkHidden(t, body, err.Error(), text)
	}
}
