package api

import (
	"reflect"
	"regexp"
	"strings"
	"sync"
)

// Pattern is what a text must look like besides its length: rule "like=hex". It
// matches the whole text.
type Pattern struct {
	Text    string // AWS's regular expression, as its errors repeat it
	Example string // a text that matches, no longer than any member with this pattern may be
	about   string // for people
	re      func() *regexp.Regexp
}

// patterns are those of AWS's model (botocore, KMS API version 2014-11-01), by the
// names that rules give them.
var patterns = map[string]*Pattern{
	"alias":        newPattern(`^[a-zA-Z0-9:/_-]+$`, "alias/x", "of `a-z A-Z 0-9 : / _ -`"),
	"hex":          newPattern(`^[a-f0-9]+$`, strings.Repeat("0f", 32), "of `a-f 0-9`"),
	"label":        newPattern(`^[a-zA-Z0-9:/_\s.-]+$`, "from 2026-01", "of `a-z A-Z 0-9 : / _ . -` and white space"),
	"marker":       newPattern(`[\u0020-\u00FF]*`, "x", "of U+0020 to U+00FF"),
	"policy":       newPattern(`[\u0009\u000A\u000D\u0020-\u00FF]+`, "{}", "of U+0020 to U+00FF, tabs and ends of lines"),
	"region":       newPattern(`^([a-z]+-){1,3}\d+$`, "rack-1", "words of `a-z` and a number, as in `us-east-1` or `rack-1`"), // AWS's has {2,3}: our own would not match
	"xks-key":      newPattern(`^[a-zA-Z0-9-_.]+$`, "key-1", "of `a-z A-Z 0-9 - _ .`"),
	"cluster":      newPattern(`cluster-[2-7a-zA-Z]{11,16}`, "cluster-22222222222", "`cluster-` and 11 to 16 of `2-7 a-z A-Z`"),
	"account":      newPattern(`[0-9]{12}`, "111122223333", "12 digits"),
	"xks-endpoint": newPattern(`^https://[a-zA-Z0-9.-]+$`, "https://example.com", "`https://` and a host"),
	"xks-path":     newPattern(`^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$`, "/kms/xks/v1", "a path that ends in `/kms/xks/v` and one or two digits"),
	"xks-service":  newPattern(`^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$`, "com.amazonaws.vpce.us-east-1.vpce-svc-1", "the name of an endpoint service of AWS"),
	"xks-id":       newPattern(`^[A-Z2-7]+$`, "ABCDEFGHIJKLMNOPQRST", "of `A-Z 2-7`"),
	"xks-secret":   newPattern(`^[a-zA-Z0-9\/+=]+$`, strings.Repeat("A", 43), "of base64's characters"),
}

// newPattern compiles text when it is first used: most patterns never are.
func newPattern(text, example, about string) *Pattern {
	return &Pattern{text, example, about, sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`\A(?:` + strings.ReplaceAll(text, `\u00`, `\x`) + `)\z`)
	})}
}

// String returns what the pattern takes, for people.
func (p *Pattern) String() string { return p.about }

// Matches reports whether the whole text matches.
func (p *Pattern) Matches(text string) bool { return p.re().MatchString(text) }

// putPatterned checks and stores a text with a pattern. As AWS's services answer it,
// it breaks the pattern and its length at once, and what an alias begins with counts last.
func (f *Field) putPatterned(v reflect.Value, b []byte, bad *violations) {
	before := len(*bad)
	if !f.Pattern.re().Match(b) {
		bad.add(f, f.echo(string(b)), "Member must satisfy regular expression pattern: %s", f.Pattern.Text)
	}
	if !f.fits(b) {
		f.badLength(b, bad)
	}
	switch {
	case len(*bad) > before:
	case f.Form == AliasForm && !isAlias(b):
		bad.refuse(Errorf(KindValidation, `Alias must start with the prefix "alias/" and a name behind it`))
	default:
		v.SetString(string(b))
	}
}
