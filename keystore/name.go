package keystore

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
)

// MaxName is the largest encoded name in bytes: the longest parameter name AWS takes (2,048) and
// room for what stands around it.
const MaxName = 2304

// Name is the name of a row: a [Space] and length-prefixed components (FORMAT.md). Names are
// comparable, and == is equality of the row. The zero Name names nothing: as a bound of a Scan it
// means "no bound", and every other use is refused with [ErrName], as is the use of an upper bound
// that happens to be no name.
type Name struct {
	// encoded is the form of FORMAT.md. As a string it is immutable, comparable and a map key
	// without a copy.
	encoded string
}

// MakeName returns the name of a row in space s with these components. Packages wrap it in
// constructors of their own that take parsed ids (keyName(id)). Where the space is unknown or the
// result would be longer than [MaxName] it returns the zero Name, which no store accepts; so the
// error shows at the first use, in one place.
func MakeName(s Space, components ...string) Name {
	size := 1
	for _, c := range components {
		size += 2 + len(c)
	}
	if !s.Known() || size > MaxName {
		return Name{}
	}
	b := make([]byte, 0, size)
	b = append(b, byte(s))
	for _, c := range components {
		b = binary.BigEndian.AppendUint16(b, uint16(len(c)))
		b = append(b, c...)
	}
	return Name{string(b)}
}

// ParseName reads an encoded name as an engine finds it in its files. It accepts exactly what
// [MakeName] makes and returns [ErrName] for everything else. It keeps no reference to b.
func ParseName(b []byte) (Name, error) {
	if !ValidName(b) {
		return Name{}, ErrName
	}
	return Name{string(b)}, nil
}

// ValidName reports whether [ParseName] accepts b, and takes no memory.
func ValidName(b []byte) bool { return valid(b) }

// Valid reports whether n names a row: it came from [MakeName] or [ParseName], or is a bound that
// equals such a name.
func (n Name) Valid() bool { return valid(n.encoded) }

// valid reports whether s is a known space and whole components, in as many bytes as a name may have.
func valid[S string | []byte](s S) bool {
	if len(s) == 0 || len(s) > MaxName || !Space(s[0]).Known() {
		return false
	}
	at := 1
	for at+2 <= len(s) {
		at += 2 + (int(s[at])<<8 | int(s[at+1]))
	}
	return at == len(s)
}

// cutComponent splits the first component off s and reports whether there was a whole one.
func cutComponent(s string) (component, rest string, ok bool) {
	if len(s) < 2 {
		return "", "", false
	}
	end := 2 + (int(s[0])<<8 | int(s[1]))
	if len(s) < end {
		return "", "", false
	}
	return s[2:end], s[end:], true
}

// Range returns the bounds of a Scan over all rows of space s whose names begin with these
// components, the row with exactly these included: lo is the first such name and hi, which is
// excluded, the first one behind them. Bounds are zero as in [MakeName].
func Range(s Space, components ...string) (lo, hi Name) {
	lo = MakeName(s, components...)
	if lo == (Name{}) {
		return lo, lo
	}
	return lo, Name{successor(lo.encoded)}
}

// successor returns the least string that is greater than every string that begins with s, or "" if
// there is none.
func successor(s string) string {
	b := []byte(s)
	for len(b) > 0 {
		if last := len(b) - 1; b[last] < 0xff {
			b[last]++
			return string(b)
		}
		b = b[:len(b)-1]
	}
	return ""
}

// SealedRange returns the bounds of a Scan over the rows of all sealed spaces.
func SealedRange() (lo, hi Name) { return Name{string([]byte{byte(firstSealed)})}, Name{} }

// Compare orders names as a Scan does, byte by byte: -1, 0 or +1.
func (n Name) Compare(o Name) int { return strings.Compare(n.encoded, o.encoded) }

// Append appends the encoded name, 1 to [MaxName] bytes for a name that is not zero: what an engine
// stores and a seal binds.
func (n Name) Append(dst []byte) []byte { return append(dst, n.encoded...) }

// Len returns the encoded length in bytes.
func (n Name) Len() int { return len(n.encoded) }

// Space returns the row's kind, 0 for the zero Name.
func (n Name) Space() Space {
	if n.encoded == "" {
		return 0
	}
	return Space(n.encoded[0])
}

// Components returns the components given to [MakeName].
func (n Name) Components() (components []string) {
	if n.encoded == "" {
		return nil
	}
	for c, rest, ok := cutComponent(n.encoded[1:]); ok; c, rest, ok = cutComponent(rest) {
		components = append(components, c)
	}
	return components
}

// String returns the name for people, as in alias/000000000042/billing. Components of plain words
// stand as they are, other text is quoted, and the rest is hexadecimal. It cannot be parsed back.
func (n Name) String() string {
	if n.encoded == "" {
		return "no name"
	}
	var b strings.Builder
	b.WriteString(n.Space().String())
	for _, c := range n.Components() {
		b.WriteByte('/')
		b.WriteString(display(c))
	}
	return b.String()
}

func display(component string) string {
	plain, text := component != "", true
	for _, c := range []byte(component) {
		text = text && c >= ' ' && c <= '~'
		plain = plain && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("_.-+=@", c) >= 0)
	}
	switch {
	case plain:
		return component
	case text:
		return strconv.Quote(component)
	}
	return "0x" + hex.EncodeToString([]byte(component))
}
