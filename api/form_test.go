package api_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
)

// formed has a member of each form.
type formed struct {
	Key    api.KeyRef `n:"1" rule:"key" audit:"show"`
	Target api.KeyRef `n:"2" rule:"target" audit:"show"`
	Name   string     `n:"3" rule:"len=1:256,alias" audit:"show"`
	Limit  int64      `n:"4" rule:"range=1:9"`
	Any    api.KeyRef `n:"5"`
}

var forms = api.StructOf(reflect.TypeFor[formed]())

// TestForms: what each form takes, on both wires and as a flag, and what is
// answered first where more than one thing is wrong.
func TestForms(t *testing.T) {
	t.Parallel()
	const id, invalid, pattern = "00000000-0000-4000-8000-000000000001", "NotFoundException: Invalid keyId '", "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"
	const prefix, target = `ValidationException: Alias must start with the prefix "alias/"`, "ValidationException: Aliases must refer to keys. Not aliases"
	for _, c := range []struct{ json, want string }{
		{`{"Key":"` + id + `","Target":"` + id + `","Name":"alias/a","Any":"alias/a"}`, ""},
		{`{"Key":"arn:aws:kms:r:000000000042:key/` + id + `","Target":"arn:aws:kms:r:000000000042:key/` + id + `"}`, ""},
		{`{"Key":"nonsense","Target":"alias/ no alias"}`, ""}, // the operation knows what to say
		{`{"Name":"alias/` + strings.Repeat("x", 250) + `"}`, ""},
		{`{"Name":"alias/a:/_-Z9"}`, ""},
		{`{"Key":"alias/a"}`, invalid + "alias/a'"},
		{`{"Key":"arn:aws:kms:r:000000000042:alias/a"}`, invalid + "arn:aws:kms:r:000000000042:alias/a'"},
		{`{"Target":"alias/a"}`, target},
		{`{"Target":"arn:aws:kms:r:000000000042:alias/a"}`, target},
		{`{"Key":"alias/a","Target":"alias/a"}`, invalid},
		{`{"Key":"alias/a","Limit":10}`, "ValidationException: 1 validation error detected: Value '10' at 'limit'"},
		{`{"Name":"a b","Target":"alias/a","Limit":0}`, "ValidationException: 2 validation errors detected: Value 'a b' at 'name'"},
		{`{"Name":"a b"}`, "ValidationException: 1 validation error detected: Value 'a b' at 'name' failed to satisfy constraint: " + pattern},
		{`{"Name":"alias/a\nb"}`, "ValidationException: 1 validation error detected: Value at 'name' failed to satisfy constraint: " + pattern},
		{`{"Name":""}`, "ValidationException: 2 validation errors detected: Value '' at 'name' failed to satisfy constraint: " + pattern +
			"; Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{`{"Name":"alias/ ` + strings.Repeat("x", 250) + `"}`, "ValidationException: 2 validation errors detected: Value at 'name' failed to satisfy constraint: " + pattern +
			"; Value at 'name' failed to satisfy constraint: Member must have length less than or equal to 256"},
		{`{"Name":"alias/é"}`, "ValidationException: 1 validation error detected: Value 'alias/é' at 'name'"},
		{`{"Name":"alias"}`, prefix},
		{`{"Name":"alias/"}`, prefix},
		{`{"Name":"ALIAS/a"}`, prefix},
		{`{"Name":"/alias/a"}`, prefix},
	} {
		t.Run(c.json, func(t *testing.T) {
			t.Parallel()
			var in formed
			err := forms.DecodeJSON([]byte(c.json), &in)
			checkBegins(t, err, c.want)
			if err != nil && (in.Key.Form != api.RefAbsent || in.Target.Form != api.RefAbsent || in.Name != "") {
				t.Errorf("what was refused is kept: %+v", in)
			}
			var loose struct {
				Key    api.KeyRef `n:"1"`
				Target api.KeyRef `n:"2"`
				Name   string     `n:"3"`
				Limit  int64      `n:"4"`
				Any    api.KeyRef `n:"5"`
			}
			s := api.StructOf(reflect.TypeOf(loose))
			if err := s.DecodeJSON([]byte(c.json), &loose); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.json, `"Limit":0`) || strings.Contains(c.json, `""`) {
				return // not written
			}
			checkBegins(t, forms.DecodeCBOR(s.AppendCBOR(nil, &loose), new(formed)), c.want)
		})
	}
	var in formed
	checkBegins(t, forms.Flag("key").SetText(&in, "alias/a"), invalid)
	checkBegins(t, forms.Flag("name").SetText(&in, "a"), prefix)
}

func checkBegins(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestFormsOfOtherShapes: a form on a member that cannot have it is a mistake.
func TestFormsOfOtherShapes(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		struct {
			A string `n:"1" rule:"key"`
		}{},
		struct {
			A string `n:"1" rule:"target"`
		}{},
		struct {
			A api.KeyRef `n:"1" rule:"alias"`
		}{},
		struct {
			A int64 `n:"1" rule:"key"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T is accepted", v)
				}
			}()
			api.StructOf(reflect.TypeOf(v))
		}()
	}
}
