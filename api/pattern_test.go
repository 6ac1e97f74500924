package api_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api"
)

// patterned has a member of each pattern, with the most bounds that AWS gives it.
type patterned struct {
	Alias    string `n:"1" rule:"len=1:256,alias" audit:"show"`
	Hex      string `n:"2" rule:"len=64:64,like=hex" audit:"show"`
	Label    string `n:"3" rule:"len=0:256,like=label" audit:"show"`
	Marker   string `n:"4" rule:"len=1:1024,like=marker" audit:"show"`
	Policy   string `n:"5" rule:"len=1:131072,like=policy" audit:"show"`
	XksKey   string `n:"6" rule:"len=1:128,like=xks-key" audit:"show"`
	Cluster  string `n:"7" rule:"len=19:24,like=cluster" audit:"show"`
	Account  string `n:"8" rule:"len=12:12,like=account" audit:"show"`
	Endpoint string `n:"9" rule:"len=10:128,like=xks-endpoint" audit:"show"`
	Path     string `n:"10" rule:"len=10:128,like=xks-path" audit:"show"`
	Service  string `n:"11" rule:"len=20:64,like=xks-service" audit:"show"`
	ID       string `n:"12" rule:"len=20:30,like=xks-id" audit:"show"`
	Secret   string `n:"13" rule:"len=43:64,like=xks-secret" audit:"show"`
}

var patterns = api.StructOf(reflect.TypeFor[patterned]())

// TestPatterns: every pattern takes its example and what stands here, and nothing
// that is only part of it or lies beyond it.
func TestPatterns(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("a", 63)
	for flag, c := range map[string]struct{ good, bad []string }{
		"alias":    {[]string{"alias/A:/_-9"}, []string{"alias/a b", "alias/é", "alias/a\n"}},
		"hex":      {[]string{hex + "0"}, []string{hex + "A", hex + "g", "\n" + hex}},
		"label":    {[]string{"a.b_c-d:e/f 9\t\n"}, []string{"", "a+b", "é"}},
		"marker":   {[]string{" ", "~", "ÿ", `"`}, []string{"\x1f", "Ā", "a\n"}},
		"policy":   {[]string{"\t\r\n{ÿ}"}, []string{"\x00", "\v", "Ā", "😀"}},
		"xks-key":  {[]string{"a-9_.Z"}, []string{"a/b", " a", "a\n"}},
		"cluster":  {[]string{"cluster-2345672abcdZ"}, []string{"cluster-12345678901", "Cluster-22222222222", "xcluster-22222222222"}},
		"account":  {[]string{"000000000000"}, []string{"00000000000x", "٠٠٠٠٠٠٠٠٠٠٠٠"}},
		"endpoint": {[]string{"https://a-b.c"}, []string{"http://example.com", "https://a/b", "https://a:8443"}},
		"path":     {[]string{"/a/b-c_d/kms/xks/v12", "/kms/xks/v1"}, []string{"/kms/xks/v123", "kms/xks/v1", "/a//b/xks/v1", "/kms/xks/v1/"}},
		"service":  {[]string{"eu.amazonaws.vpce.eusc-de-east-1.vpce-svc-0a"}, []string{"org.amazonaws.vpce.us-east-1.vpce-svc-0a", "com.amazonaws.vpce.useast1.vpce-svc-0"}},
		"id":       {[]string{strings.Repeat("7", 20)}, []string{strings.Repeat("1", 20), strings.Repeat("a", 20)}},
		"secret":   {[]string{strings.Repeat("+", 42) + "="}, []string{strings.Repeat("-", 43)}},
	} {
		f := patterns.Flag(flag)
		for _, text := range append(c.good, f.Pattern.Example) {
			if err := f.SetText(new(patterned), text); err != nil {
				t.Errorf("%s %q: %v", flag, text, err)
			}
		}
		for _, text := range c.bad {
			err := f.SetText(new(patterned), text)
			if err == nil || !strings.Contains(err.Error(), "failed to satisfy constraint: Member must satisfy regular expression pattern: "+f.Pattern.Text) {
				t.Errorf("%s %q: got %v", flag, text, err)
			}
		}
		if f.Pattern.String() == "" {
			t.Errorf("%s: people are not told what it takes", flag)
		}
	}
}

// TestPatternAndLength: a text breaks both at once, on every wire.
func TestPatternAndLength(t *testing.T) {
	t.Parallel()
	const want = "ValidationException: 2 validation errors detected: Value 'xyz' at 'hex' failed to satisfy constraint: " +
		"Member must satisfy regular expression pattern: ^[a-f0-9]+$; Value 'xyz' at 'hex' failed to satisfy constraint: Member must have length greater than or equal to 64"
	type loose struct {
		Hex string `n:"2"`
	}
	var in patterned
	checkBegins(t, patterns.DecodeJSON([]byte(`{"Hex":"xyz"}`), &in), want)
	checkBegins(t, patterns.DecodeCBOR(api.StructOf(reflect.TypeFor[loose]()).AppendCBOR(nil, &loose{"xyz"}), &in), want)
	checkBegins(t, patterns.Flag("hex").SetText(&in, "xyz"), want)
	if in.Hex != "" {
		t.Errorf("what was refused is kept: %q", in.Hex)
	}
}

// TestPatternsOfOtherShapes: a pattern on a member that cannot have it, or that there is not, is a mistake.
func TestPatternsOfOtherShapes(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		struct {
			A api.Blob `n:"1" rule:"like=hex"`
		}{},
		struct {
			A api.KeyRef `n:"1" rule:"like=hex"`
		}{},
		struct {
			A string `n:"1" rule:"like=hexadecimal"`
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
