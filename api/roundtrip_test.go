package api_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/fuzz"
)

const rounds = 25 // random values of each type

// TestRoundTrip writes random values of every request and response on every
// wire and reads the same back.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	for _, op := range table.All() {
		for range rounds {
			roundTrip(t, op.In, fuzz.Request(rng, op))
			out := op.NewOut()
			fuzz.Fill(rng, op.Out, out)
			roundTrip(t, op.Out, out)
		}
	}
	for range 10 * rounds {
		v := &everyShape{}
		fuzz.Fill(rng, shapes, v)
		roundTrip(t, shapes, v)
	}
}

// roundTrip checks that v survives each wire, and that writing it again gives
// the same bytes.
func roundTrip(t *testing.T, s *api.Struct, v any) {
	t.Helper()
	body := s.AppendCBOR([]byte("before"), v)[len("before"):]
	got := fresh(v)
	if err := s.DecodeCBOR(body, got); err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%s in CBOR: %v\ngot  %+v\nwant %+v", s.Name, err, got, v)
	}
	if again := s.AppendCBOR(nil, got); !bytes.Equal(again, body) {
		t.Fatalf("%s in CBOR: %x became %x", s.Name, body, again)
	}
	for _, mode := range []api.JSONMode{0, api.AWSJSON, api.Partial} {
		text, got := s.AppendJSON(nil, v, mode), fresh(v)
		if err := s.DecodeJSON(text, got, mode); err != nil || !reflect.DeepEqual(got, v) {
			t.Fatalf("%s in JSON: %v\n%s\ngot  %+v\nwant %+v", s.Name, err, text, got, v)
		}
	}
	roundTripRPC(t, s, v)
}

// roundTripRPC does the same with AWS's CBOR.
func roundTripRPC(t *testing.T, s *api.Struct, v any) {
	t.Helper()
	body, got := s.AppendRPC([]byte("before"), v)[len("before"):], fresh(v)
	if err := s.DecodeRPC(body, got, nil); err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%s in AWS's CBOR: %v\n%x\ngot  %+v\nwant %+v", s.Name, err, body, got, v)
	}
	if again := s.AppendRPC(nil, got); !bytes.Equal(again, body) {
		t.Fatalf("%s in AWS's CBOR: %x became %x", s.Name, body, again)
	}
}

// TestWiresAgree damages random requests in the same way on both wires: what
// one refuses the other refuses with the same kind and, of constraints, words.
func TestWiresAgree(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 8))
	kinds := map[api.Kind]int{}
	for range 40 * rounds {
		v := &everyShape{}
		fuzz.Fill(rng, shapes, v)
		breakRule(rng, v)
		fromCBOR, fromJSON := &everyShape{}, &everyShape{}
		errCBOR := shapes.DecodeCBOR(shapes.AppendCBOR(nil, v), fromCBOR)
		errJSON := shapes.DecodeJSON(shapes.AppendJSON(nil, v), fromJSON)
		if kinds[api.KindOf(errCBOR)]++; api.KindOf(errCBOR) != api.KindOf(errJSON) || !reflect.DeepEqual(fromCBOR, fromJSON) {
			t.Fatalf("CBOR: %v\n%+v\nJSON: %v\n%+v", errCBOR, fromCBOR, errJSON, fromJSON)
		}
		if api.KindOf(errCBOR) == api.KindValidation && errCBOR.Error() != errJSON.Error() {
			t.Fatalf("CBOR: %v\nJSON: %v", errCBOR, errJSON)
		}
	}
	if len(kinds) != 3 {
		t.Errorf("the damage led to these kinds only: %v", kinds)
	}
}

// breakRule breaks one rule of v, or none.
func breakRule(rng *rand.Rand, v *everyShape) {
	breaks := []func(){
		func() {},
		func() { v.Text += "123456" },
		func() { v.Text = "a" },
		func() { v.Secret = make([]byte, 6+rng.IntN(100)) },
		func() { v.Int = -4 - rng.Int64N(9) },
		func() { v.Int = 6 + rng.Int64N(1<<60) },
		func() { v.Texts = append(v.Texts, "a", "b", "c") },
		func() { v.Texts = []string{"a", "12345"} },
		func() { v.Ints = []int64{1, -1} },
		func() { v.Tags = []kmsapi.Tag{{TagKey: "k"}, {}} },
		func() { v.Inner = inner{Must: "1234", Tags: []kmsapi.Tag{{}}} },
		func() { v.When = 1e6<<32 + api.Time(rng.Int64N(1<<40)) },
		func() {
			v.Pairs = api.NewEncryptionContext(map[string]string{"k": string(make([]byte, api.MaxEncryptionContext))})
		},
	}
	for range 1 + rng.IntN(2) {
		breaks[rng.IntN(len(breaks))]()
	}
}

// TestZeroOnTheWire checks which zeros are written: those that say something.
func TestZeroOnTheWire(t *testing.T) {
	t.Parallel()
	type message struct {
		Absent   string          `n:"1"`
		Always   bool            `n:"2" rule:"always"`
		Zero     int64           `n:"3" rule:"required,range=0:9"`
		NotZero  int64           `n:"4" rule:"required,range=1:9"`
		Empty    string          `n:"5" rule:"required,len=0:9"`
		NotEmpty api.Secret      `n:"6" rule:"required,len=1:9"`
		Tags     []kmsapi.Tag    `n:"7" rule:"always"`
		Inner    kmsapi.Tag      `n:"8"`
		Ref      api.KeyRef      `n:"9" rule:"required,len=1:9"`
		Usage    kmsapi.KeyUsage `n:"10" rule:"required"`
	}
	s := api.StructOf(reflect.TypeFor[message]())
	if got, want := s.AppendCBOR(nil, &message{}), unhex(t, "a4 02f4 0300 0560 0780"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := string(s.AppendJSON(nil, &message{})), `{"Always":false,"Zero":0,"Empty":"","Tags":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	empty := message{Inner: kmsapi.Tag{TagKey: "k"}, NotEmpty: api.Secret{}}
	if got, want := s.AppendCBOR(nil, &empty), unhex(t, "a5 02f4 0300 0560 0780 08a201616b0260"); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestDefaults checks that an absent enum gets its default on each wire, and
// that the rest stays absent.
func TestDefaults(t *testing.T) {
	t.Parallel()
	for name, decode := range map[string]func(in *kmsapi.CreateKeyRequest) error{
		"CBOR": func(in *kmsapi.CreateKeyRequest) error { return kmsapi.CreateKey.In.DecodeCBOR([]byte{0xa0}, in) },
		"JSON": func(in *kmsapi.CreateKeyRequest) error {
			return kmsapi.CreateKey.In.DecodeJSON([]byte(`{"Origin":null}`), in)
		},
	} {
		var in kmsapi.CreateKeyRequest
		if err := decode(&in); err != nil || !reflect.DeepEqual(in, kmsapi.CreateKeyRequest{Origin: kmsapi.OriginAWSKMS}) {
			t.Errorf("%s: got %+v, %v", name, in, err)
		}
	}
}

// TestManyMembers checks a map whose head needs two bytes.
func TestManyMembers(t *testing.T) {
	t.Parallel()
	var members []reflect.StructField
	for n := 1; n <= 30; n++ {
		name := string(rune('A'+n/26)) + string(rune('A'+n%26))
		members = append(members, reflect.StructField{Name: name, Type: reflect.TypeFor[bool](), Tag: reflect.StructTag(`n:"` + string(rune('0'+n/10)) + string(rune('0'+n%10)) + `"`)})
	}
	typ := reflect.StructOf(members)
	s := api.StructOf(typ)
	for _, set := range []int{0, 1, 23, 24, 30} {
		v := reflect.New(typ)
		for i := range set {
			v.Elem().Field(i).SetBool(true)
		}
		roundTrip(t, s, v.Interface())
	}
}

// TestBodyIsAliased checks the promise that makes a request free of copies, and
// that nothing aliases it where Go strings are handed out.
func TestBodyIsAliased(t *testing.T) {
	t.Parallel()
	want := kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte("alias/a")), Plaintext: api.Secret("plain"), GrantTokens: []string{"token"}}
	body := kmsapi.Encrypt.In.AppendCBOR(nil, &want)
	var in kmsapi.EncryptRequest
	if err := kmsapi.Encrypt.In.DecodeCBOR(body, &in); err != nil {
		t.Fatal(err)
	}
	for i := range body {
		body[i] = 'x'
	}
	if string(in.Plaintext) != "xxxxx" || in.KeyId.String() != "xxxxxxx" || in.GrantTokens[0] != "token" {
		t.Errorf("got %s, %s, %s", []byte(in.Plaintext), in.KeyId, in.GrantTokens)
	}
}
