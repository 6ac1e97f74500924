package api

import "bytes"

// Form is which names a member takes, where they are fewer than its shape
// allows: rule "key", "target" or "alias".
type Form uint8

// The forms. A key's are of ShapeKeyRef, an alias's of ShapeText.
const (
	AnyForm    Form = iota
	KeyForm         // a key id or a key ARN; an alias is NotFoundException
	TargetForm      // the same for what an alias is to name; an alias is ValidationException
	AliasForm       // an alias name: "alias/" and at least one of [a-zA-Z0-9:/_-]
)

var forms = Names{"key", "target", "alias"}

// String returns what the form takes, for people; "" for every name.
func (f Form) String() string {
	return [...]string{"", "a key id or a key ARN", "a key id or a key ARN", "`alias/` and a name of `a-z A-Z 0-9 : / _ -`"}[f]
}

// refuse returns the operation's own error for a reference that the form does
// not take. A text of no known form is left to the operation, see [KeyRef].
func (f Form) refuse(r KeyRef) *Error {
	switch alias := r.Form == RefAlias || r.Form == RefAliasARN; {
	case alias && f == KeyForm:
		return Errorf(KindNotFound, "Invalid keyId '%s': this operation takes a key id or a key ARN, not an alias", string(r.Text))
	case alias && f == TargetForm:
		return Errorf(KindValidation, "Aliases must refer to keys. Not aliases")
	}
	return nil
}

const aliasPrefix = "alias/"

// notInAlias reports whether no alias name holds c.
func notInAlias(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
	case c == ':', c == '/', c == '_', c == '-':
	default:
		return true
	}
	return false
}

// isAlias reports whether s is "alias/" and a name of at least one of
// [a-zA-Z0-9:/_-], at most 256 characters together.
func isAlias(s []byte) bool {
	name, ok := bytes.CutPrefix(s, []byte(aliasPrefix))
	return ok && len(name) > 0 && len(s) <= MaxAliasName && !bytes.ContainsFunc(name, notInAlias)
}
