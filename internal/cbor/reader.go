package cbor

import (
	"bytes"
	"fmt"
	"math"
	"unicode/utf8"
)

// MaxDepth is how many arrays and maps may stand inside each other in an item
// that [Reader.Raw] passes over or [Unmarshal] reads. No message of the product
// needs more than four.
const MaxDepth = 8

// Error says what is wrong with an encoding and at which byte. It never
// carries the bytes themselves: they may be secret.
type Error struct {
	Offset int // of the item's first byte, from the start of the input
	Reason string
}

// Error returns the reason and the offset.
func (e *Error) Error() string { return fmt.Sprintf("cbor: %s at byte %d", e.Reason, e.Offset) }

// Reader reads one deterministic CBOR item after the other from a byte slice.
// It allocates nothing; byte and text strings alias the input. After an error
// its position is undefined. A Reader is for one goroutine.
type Reader struct {
	b []byte
	i int
}

// NewReader returns a Reader over b, which must not change while it is used.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Offset returns how many bytes were read.
func (r *Reader) Offset() int { return r.i }

// Rest returns what was not read yet; it aliases the input.
func (r *Reader) Rest() []byte { return r.b[r.i:] }

// fail returns an error at the place where the Reader stands.
func (r *Reader) fail(reason string) error { return &Error{Offset: r.i, Reason: reason} }

// head reads one head. Heads longer than needed, indefinite lengths and the
// reserved forms are refused here, so everything above reads one form only.
func (r *Reader) head() (major byte, n uint64, err error) {
	if r.i >= len(r.b) {
		return 0, 0, r.fail("input ends where an item should begin")
	}
	first := r.b[r.i]
	major, n = first&0xe0, uint64(first&0x1f)
	if n < 24 {
		r.i++
		return major, n, nil
	}
	if n > 27 {
		return 0, 0, r.fail("indefinite length or reserved head")
	}
	return r.longHead(major, 1<<(n-24))
}

// longHead reads the size bytes of argument behind the head's first byte.
func (r *Reader) longHead(major byte, size int) (byte, uint64, error) {
	if len(r.b)-r.i-1 < size {
		return 0, 0, r.fail("input ends inside a head")
	}
	var n uint64
	for _, c := range r.b[r.i+1 : r.i+1+size] {
		n = n<<8 | uint64(c)
	}
	if n < 24 || size > 1 && n>>(4*size) == 0 {
		return 0, 0, r.fail("head is not in its shortest form")
	}
	r.i += 1 + size
	return major, n, nil
}

// expect reads the head of an item that must be of a major type.
func (r *Reader) expect(major byte, what string) (uint64, error) {
	if r.i < len(r.b) && r.b[r.i]&0xe0 != major {
		return 0, r.found(what)
	}
	_, n, err := r.head()
	return n, err
}

// found says that another kind of item was wanted than the one that is next.
func (r *Reader) found(want string) error {
	return r.fail("want " + want + ", found " + kindName(r.b[r.i]))
}

// kindName names the kind of item that begins with the byte first.
func kindName(first byte) string {
	switch first {
	case simpleFalse, simpleTrue:
		return "a boolean"
	case majorOther | 22:
		return "null"
	case majorOther | 23:
		return "undefined"
	}
	return [...]string{"an unsigned integer", "a negative integer", "a byte string", "a text string",
		"an array", "a map", "a tag", "a float or simple value"}[first>>5]
}

// Uint reads an unsigned integer.
func (r *Reader) Uint() (uint64, error) { return r.expect(majorUint, "an unsigned integer") }

// Int reads a signed integer that fits 64 bits.
func (r *Reader) Int() (int64, error) {
	if r.i < len(r.b) && r.b[r.i] >= majorBytes {
		return 0, r.found("an integer")
	}
	at := r.i
	major, n, err := r.head()
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64 {
		r.i = at
		return 0, r.fail("integer does not fit 64 bits")
	}
	if major == majorNint {
		return -1 - int64(n), nil
	}
	return int64(n), nil
}

// Bytes reads a byte string; the result aliases the input.
func (r *Reader) Bytes() ([]byte, error) { return r.str(majorBytes, "a byte string") }

// Text reads a text string and checks its UTF-8; the result aliases the input.
func (r *Reader) Text() ([]byte, error) {
	at := r.i
	s, err := r.str(majorText, "a text string")
	if err == nil && !utf8.Valid(s) {
		r.i = at
		return nil, r.fail("text is not UTF-8")
	}
	return s, err
}

// str reads a byte or text string. Its capacity is its length, so that appending
// to it cannot write into the input.
func (r *Reader) str(major byte, what string) ([]byte, error) {
	at := r.i
	n, err := r.expect(major, what)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(r.b)-r.i) {
		r.i = at
		return nil, r.fail("string is longer than the input")
	}
	s := r.b[r.i : r.i+int(n) : r.i+int(n)]
	r.i += int(n)
	return s, nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if r.i >= len(r.b) {
		return false, r.fail("input ends where an item should begin")
	}
	if b := r.b[r.i]; b != simpleFalse && b != simpleTrue {
		return false, r.found("a boolean")
	}
	r.i++
	return r.b[r.i-1] == simpleTrue, nil
}

// Array reads the head of an array and returns its number of items. A count
// that the rest of the input cannot hold is an error, so it is safe to size by.
func (r *Reader) Array() (int, error) { return r.count(majorArray, "an array", 1) }

// Map reads the head of a map and returns its number of pairs. A count that
// the rest of the input cannot hold is an error, so it is safe to size by. The
// caller checks that keys ascend: with [Reader.UintKey], or with [KeyLess].
func (r *Reader) Map() (int, error) { return r.count(majorMap, "a map", 2) }

// count reads the head of an array or map whose items take at least each bytes.
func (r *Reader) count(major byte, what string, each uint64) (int, error) {
	at := r.i
	n, err := r.expect(major, what)
	if err != nil {
		return 0, err
	}
	if n > uint64(len(r.b)-r.i)/each {
		r.i = at
		return 0, r.fail(what + " has more items than the input has bytes")
	}
	return int(n), nil
}

// UintKey reads the next key of an integer-keyed map. *next is the least key
// that may follow: start with 0.
func (r *Reader) UintKey(next *uint64) (uint64, error) {
	at := r.i
	k, err := r.Uint()
	if err != nil {
		return 0, err
	}
	if k < *next || k == math.MaxUint64 {
		r.i = at
		return 0, r.fail("map keys are not in ascending order")
	}
	*next = k + 1
	return k, nil
}

// KeyLess reports whether the text key a stands before b in a deterministic
// map: by length first, then bytewise (RFC 8949 §4.2.1 for text of up to 2^64 bytes).
func KeyLess(a, b []byte) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return bytes.Compare(a, b) < 0
}

// Raw passes over one item, checks its form as the other methods would, and
// returns its bytes, which alias the input. The keys of maps inside are integers
// or text, and ascend.
func (r *Reader) Raw() ([]byte, error) {
	at := r.i
	if err := r.skip(MaxDepth); err != nil {
		return nil, err
	}
	return r.b[at:r.i:r.i], nil
}

// skip passes over one item in which depth arrays and maps may be nested.
func (r *Reader) skip(depth int) error {
	if r.i >= len(r.b) {
		return r.fail("input ends where an item should begin")
	}
	var err error
	switch major := r.b[r.i] & 0xe0; {
	case major == majorUint:
		_, err = r.Uint()
	case major == majorNint:
		_, err = r.Int()
	case major == majorBytes:
		_, err = r.Bytes()
	case major == majorText:
		_, err = r.Text()
	case major == majorTag:
		err = r.fail("tags are not allowed")
	case major == majorOther:
		_, err = r.Bool()
	case depth == 0:
		err = r.fail("arrays and maps are nested too deeply")
	case major == majorArray:
		err = r.skipArray(depth - 1)
	default:
		err = r.skipMap(depth - 1)
	}
	return err
}

// skipArray passes over an array in whose items depth more may be nested.
func (r *Reader) skipArray(depth int) error {
	n, err := r.Array()
	for ; n > 0 && err == nil; n-- {
		err = r.skip(depth)
	}
	return err
}

// skipMap passes over a map in whose values depth more may be nested.
func (r *Reader) skipMap(depth int) error {
	n, err := r.Map()
	var last []byte
	for ; n > 0 && err == nil; n-- {
		if last, err = r.skipKey(last); err == nil {
			err = r.skip(depth)
		}
	}
	return err
}

// skipKey passes over a map's key, which must stand behind the encoded key last
// (RFC 8949 §4.2.1), and returns its encoding.
func (r *Reader) skipKey(last []byte) ([]byte, error) {
	at := r.i
	if at < len(r.b) && r.b[at]&0xe0 != majorText && r.b[at] >= majorBytes {
		return nil, r.found("an integer or text as a map's key")
	}
	if err := r.skip(0); err != nil {
		return nil, err
	}
	key := r.b[at:r.i]
	if bytes.Compare(last, key) >= 0 {
		r.i = at
		return nil, r.fail("map keys are not in ascending order")
	}
	return key, nil
}

// Done returns an error if anything was left unread.
func (r *Reader) Done() error {
	if r.i != len(r.b) {
		return r.fail("more bytes follow the item")
	}
	return nil
}
