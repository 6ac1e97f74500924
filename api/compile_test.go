package api_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
)

type (
	secrets struct {
		A []api.Secret `n:"1" audit:"show"`
	}
	nested struct {
		A struct {
			B string `n:"1" rule:"long"`
		} `n:"1"`
	}
)

// TestBadTags checks that a mistake in a struct's tags stops the program that
// uses it, with a text that says which member it is.
func TestBadTags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    any
		want string
	}{
		{struct{ A string }{}, "A: tag n must be a number from 1 to 63"},
		{struct {
			A string `n:"0"`
		}{}, "number from 1 to 63"},
		{struct {
			A string `n:"64"`
		}{}, "number from 1 to 63"},
		{struct {
			A string `n:"1x"`
		}{}, "number from 1 to 63"},
		{struct {
			A string `n:"1"`
			B string `n:"1"`
		}{}, "B: numbers must ascend"},
		{struct {
			A string `n:"2"`
			B string `n:"1"`
		}{}, "B: numbers must ascend"},
		{struct {
			a string `n:"1"` //lint:ignore U1000 only its tag is read
		}{}, "a: members must be exported"},
		{struct {
			A int `n:"1"`
		}{}, "no wire knows members of type int"},
		{struct {
			A uint8 `n:"1"`
		}{}, "no wire knows members of type uint8"},
		{struct {
			A *string `n:"1"`
		}{}, "no wire knows members of type *string"},
		{struct {
			A map[string]string `n:"1"`
		}{}, "no wire knows members of type map[string]string"},
		{struct {
			A [][]string `n:"1"`
		}{}, "no wire knows members of type [][]string"},
		{struct {
			A []byte `n:"1"`
		}{}, "no wire knows members of type []uint8"},
		{struct {
			A string `n:"1" rule:"need"`
		}{}, `bad rule "need" for text`},
		{struct {
			A string `n:"1" rule:""`
		}{}, `bad rule ""`},
		{struct {
			A string `n:"1" rule:"required,len=1"`
		}{}, `bad rule "len=1"`},
		{struct {
			A string `n:"1" rule:"len=2:1"`
		}{}, `bad rule "len=2:1"`},
		{struct {
			A string `n:"1" rule:"len=-1:1"`
		}{}, `bad rule "len=-1:1"`},
		{struct {
			A string `n:"1" rule:"range=1:2"`
		}{}, `bad rule "range=1:2" for text`},
		{struct {
			A int64 `n:"1" rule:"len=1:2"`
		}{}, `bad rule "len=1:2" for integer`},
		{struct {
			A string `n:"1" rule:"items=1:2"`
		}{}, `bad rule "items=1:2"`},
		{struct {
			A string `n:"1" rule:"each=1:2"`
		}{}, `bad rule "each=1:2"`},
		{struct {
			A []bool `n:"1" rule:"each=1:2"`
		}{}, `bad rule "each=1:2"`},
		{struct {
			A []string `n:"1" rule:"items=0:0"`
		}{}, `bad rule "items=0:0"`},
		{struct {
			A kmsapi.KeySpec `n:"1" rule:"always"`
		}{}, "its rules do not allow the zero"},
		{struct {
			A string `n:"1" rule:"always,len=1:2"`
		}{}, "its rules do not allow the zero"},
		{struct {
			A kmsapi.KeySpec `n:"1" default:"NONE"`
		}{}, `default "NONE" is not in the enum`},
		{struct {
			A string `n:"1" default:"x"`
		}{}, `default "x" is not in the enum`},
		{struct {
			A string `n:"1" audit:"yes"`
		}{}, `audit is "yes"`},
		{struct {
			A string `n:"1" rul:"len=1:2"`
		}{}, `unknown tag "rul"`},
		{struct {
			A api.Secret `n:"1" audit:"show"`
		}{}, "A: a secret cannot be shown"},
		{secrets{}, "secrets.A: a secret cannot be shown"},
		{nested{}, `B: bad rule "long"`},
	} {
		if got := compilePanic(reflect.TypeOf(c.v)); !strings.Contains(got, c.want) {
			t.Errorf("%T: got %q, want %q", c.v, got, c.want)
		}
	}
}

func compilePanic(t reflect.Type) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	api.StructOf(t)
	return ""
}

func TestFieldTable(t *testing.T) {
	t.Parallel()
	s := kmsapi.Encrypt.In
	if s != api.StructOf(reflect.TypeFor[kmsapi.EncryptRequest]()) {
		t.Error("a type has two tables")
	}
	f := s.Field("EncryptionAlgorithm")
	if f == nil || f.Member != "encryptionAlgorithm" || f.Flag != "encryption-algorithm" || f.N != 5 || f.Shape != api.ShapeEnum ||
		!f.Shown || f.Cond != "kms:EncryptionAlgorithm" || f.Default != uint8(kmsapi.SymmetricDefault) || f.Required {
		t.Errorf("got %+v", f)
	}
	if f := s.Field("Plaintext"); !f.Required || f.Min != 1 || f.Max != api.MaxPlaintext || f.Shown {
		t.Errorf("got %+v", f)
	}
	if f := s.Field("GrantTokens"); f.Items != [2]int{0, 10} || f.Elem.Min != 1 || f.Elem.Max != 8192 || f.Elem.Shape != api.ShapeText {
		t.Errorf("got %+v", f)
	}
	if s.Field("keyId") != nil || s.Flag("KeyId") != nil || s.Flag("key-id") != s.Field("KeyId") {
		t.Error("names are not compared byte for byte")
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	s := api.StructOf(reflect.TypeFor[kmsapi.KeyMetadata]())
	for name, want := range map[string]string{"AWSAccountId": "aws-account-id", "KeyId": "key-id", "Arn": "arn", "CurrentKeyMaterialId": "current-key-material-id"} {
		if f := s.Field(name); f.Flag != want || s.Flag(want) != f {
			t.Errorf("%s is the flag %s, want %s", name, f.Flag, want)
		}
	}
}
