package api_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

// TestAppendRPC writes each shape as rpc-v2-cbor has it.
func TestAppendRPC(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		v    *everyShape
		hex  string
	}{
		{"nothing", &everyShape{}, "a0"},
		{"text", &everyShape{Text: "abc"}, "a1 6454657874 63616263"},
		{"bytes", &everyShape{Secret: api.Secret{1, 2}, Blob: api.Blob{3, 4}}, "a2 66536563726574 420102 64426c6f62 420304"},
		{"numbers", &everyShape{Int: -3, Ints: []int64{1, 4}}, "a2 63496e74 22 64496e7473 820104"},
		{"enums are names", &everyShape{Enums: []kmsapi.KeyState{1}}, "a1 65456e756d73 81 67456e61626c6564"},
		{"structures", &everyShape{Tags: []kmsapi.Tag{{TagKey: "k"}}}, "a1 6454616773 81 a2 665461674b6579 616b 685461675 6616c7565 60"},
		{"times are doubles", &everyShape{When: 1363896240500000}, "a1 645768656e c1fb41d452d9ec200000"},
		{"whole seconds as well", &everyShape{When: 1e6}, "a1 645768656e c1fb3ff0000000000000"},
		{"context", &everyShape{Pairs: api.NewEncryptionContext(map[string]string{"bb": "1", "a": "2"})}, "a1 655061697273 a2 6161 6132 626262 6131"},
		{"boolean", &everyShape{Bool: true}, "a1 64426f6f6c f5"},
		{"key reference", &everyShape{Ref: api.ParseKeyRef([]byte("alias/a"))}, "a1 63526566 67616c6961732f61"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := unhex(t, c.hex)
			if got := shapes.AppendRPC([]byte("x"), c.v); !bytes.Equal(got, append([]byte("x"), want...)) {
				t.Errorf("got  %x\nwant 78%x", got, want)
			}
			var v everyShape
			if err := shapes.DecodeRPC(want, &v, nil); err != nil || !reflect.DeepEqual(&v, c.v) {
				t.Errorf("read as %+v, %v", v, err)
			}
		})
	}
}

// TestDecodeRPC lists the forms that rpc-v2-cbor has servers accept.
func TestDecodeRPC(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, hex string
		want      everyShape
	}{
		{"no body", "", everyShape{}},
		{"no known length", "bf ff", everyShape{}},
		{"null", "a2 6454657874 f6 63496e74 f6", everyShape{}},
		{"undefined", "a1 6454657874 f7", everyShape{}},
		{"unknown members", "bf 6474657874 01 6158 bf 6161 9f c1fb3ff8000000000000 f97c00 ff ff 60 d9d9f7 c24101 ff", everyShape{}},
		{"text in pieces", "a1 7f 625465 627874 ff 7f 6161 626263 ff", everyShape{Text: "abc"}},
		{"bytes in pieces", "a1 64426c6f62 5f 4101 40 4102 ff", everyShape{Blob: api.Blob{1, 2}}},
		{"long heads", "ba00000001 7900 03496e74 1b0000000000000005", everyShape{Int: 5}},
		{"list of no known length", "a1 655465787473 9f 6161 7f6162ff ff", everyShape{Texts: []string{"a", "b"}}},
		{"members in any order", "a2 63496e74 01 6454657874 626162", everyShape{Text: "ab", Int: 1}},
		{"integer as a time", "a1 645768656e c1 1a70dbd880", everyShape{When: 1893456000e6}},
		{"negative time", "a1 645768656e c1 20", everyShape{When: -1e6}},
		{"half as a time", "a1 645768656e c1f93e00", everyShape{When: 15e5}},
		{"single as a time", "a1 645768656e c1fa3fc00000", everyShape{When: 15e5}},
		{"a microsecond", "a1 645768656e c1fb3eb0c6f7a0b5ed8d", everyShape{When: 1}},
		{"context in any order", "a1 655061697273 bf 626262 6131 6161 7fff ff", everyShape{Pairs: api.NewEncryptionContext(map[string]string{"a": "", "bb": "1"})}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var v everyShape
			if err := shapes.DecodeRPC(unhex(t, c.hex), &v, nil); err != nil || !reflect.DeepEqual(v, c.want) {
				t.Errorf("got %+v, %v", v, err)
			}
		})
	}
}

// TestDecodeRPCRefuses lists what is no request in AWS's CBOR: KindSerialization.
func TestDecodeRPCRefuses(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"null": "f6", "an array": "80", "a tag": "d9d9f7a0", "cut off": "a1 64546578", "bytes behind": "a0 00", "no end": "bf", "two values": "a0 a0",
		"member by number": "a1 01 6161", "repeated member": "a2 6454657874 6161 6454657874 6161", "repeated null": "a2 6454657874 f6 6454657874 f6", "repeated unknown member": "a2 6158 01 6158 01",
		"bytes for text": "a1 6454657874 426161", "text for bytes": "a1 64426c6f62 6461414141", "base64 for bytes": "a1 66536563726574 6459574a6a", "number for an enum": "a1 64456e756d 01", "text for an integer": "a1 63496e74 6131",
		"float for an integer": "a1 63496e74 fb3ff0000000000000", "half for an integer": "a1 63496e74 f93c00", "beyond 64 bits": "a1 63496e74 1b8000000000000000", "bignum": "a1 63496e74 c24101", "time for an integer": "a1 63496e74 c101",
		"number for a boolean": "a1 64426f6f6c 01", "number for a time": "a1 645768656e 01", "float for a time": "a1 645768656e fb3ff0000000000000", "text for a time": "a1 645768656e c0 6131", "time that is no number": "a1 645768656e c1f97e00", "endless time": "a1 645768656e c1f97c00",
		"time 2^32 s after 1970": "a1 645768656e c11b0000000100000000", "time far off": "a1 645768656e c1fb7fefffffffffffff", "null for a time's number": "a1 645768656e c1f6",
		"null in a list": "a1 655465787473 82 6161 f6", "null in a context": "a1 655061697273 a1 616b f6", "number in a context": "a1 655061697273 a1 616b 01", "number as a key": "a1 655061697273 a1 01 616b", "repeated key in a context": "a1 655061697273 a2 616b 60 616b 60",
		"text for a list": "a1 655465787473 6161", "list for a structure": "a1 65496e6e6572 80", "text that is not UTF-8": "a1 6454657874 61ff", "unknown member too deep": "a1 6158 " + strings.Repeat("81", 32) + "00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v everyShape
			if err := shapes.DecodeRPC(unhex(t, in), &v, nil); api.KindOf(err) != api.KindSerialization || !strings.Contains(err.Error(), "everyShape: ") {
				t.Errorf("got %v, %+v", err, v)
			}
		})
	}
}

// TestLongContext: a context that is too long is told so, however it comes, and
// not put together first.
func TestLongContext(t *testing.T) {
	t.Parallel()
	for _, pairs := range []map[string]string{
		{"k": strings.Repeat("v", api.MaxEncryptionContext-6)}, {"k": strings.Repeat("v", api.MaxEncryptionContext-5)}, {strings.Repeat("k", 1<<17): "", "a": "b"},
	} {
		v := &everyShape{Pairs: api.NewEncryptionContext(pairs)}
		var native, json, rpc everyShape
		want := shapes.DecodeCBOR(shapes.AppendCBOR(nil, v), &native)
		for wire, err := range map[string]error{"JSON": shapes.DecodeJSON(shapes.AppendJSON(nil, v), &json), "AWS's CBOR": shapes.DecodeRPC(shapes.AppendRPC(nil, v), &rpc, nil)} {
			if (err == nil) != (want == nil) || want != nil && err.Error() != want.Error() {
				t.Errorf("%s: %d bytes: got %v, want %v", wire, len(v.Pairs), err, want)
			}
		}
		if fits := len(v.Pairs) <= api.MaxEncryptionContext; fits != (want == nil) || !reflect.DeepEqual(native, json) || !reflect.DeepEqual(native, rpc) {
			t.Errorf("%d bytes: %v", len(v.Pairs), want)
		}
	}
}

// TestGoSDK reads what the AWS SDK for Go (service/kms v1.62.4 with its
// rpcv2 protocol) sends for an Encrypt: members by name, every length unknown.
func TestGoSDK(t *testing.T) {
	t.Parallel()
	body := unhex(t, "bf6644727952756ef573456e6372797074696f6e416c676f726974686d7153594d4d45545249435f44454641554c54"+
		"71456e6372797074696f6e436f6e74657874bf616161316262626132ff6b4772616e74546f6b656e739f6174ff"+
		"654b6579496467616c6961732f6169506c61696e7465787445706c61696eff")
	want := kmsapi.EncryptRequest{
		KeyId: api.ParseKeyRef([]byte("alias/a")), Plaintext: api.Secret("plain"), EncryptionContext: api.NewEncryptionContext(map[string]string{"a": "1", "bb": "2"}),
		GrantTokens: []string{"t"}, EncryptionAlgorithm: kmsapi.SymmetricDefault, DryRun: true,
	}
	var got kmsapi.EncryptRequest
	if err := kmsapi.Encrypt.In.DecodeRPC(body, &got, nil); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}
