package cbor

import (
	"bytes"
	"fmt"
	"math"
	"unicode/utf8"
)

// MaxDepth is how many arrays and maps may stand inside each other in an item
// that [Reader.Raw] passes over. No message of the product needs more than four.
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

func (r *Reader) expect(major byte, what string) (uint64, error) {
	at := r.i
	got, n, err := r.head()
	if err != nil {
		return 0, err
	}
	if got != major {
		r.i = at
		return 0, r.fail("want " + what + ", found " + kindName(r.b[at]))
	}
	return n, nil
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
	at := r.i
	major, n, err := r.head()
	if err != nil {
		return 0, err
	}
	if major != majorUint && major != majorNint {
		r.i = at
		return 0, r.fail("want an integer, found " + kindName(r.b[at]))
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
	switch r.b[r.i] {
	case simpleFalse, simpleTrue:
		r.i++
		return r.b[r.i-1] == simpleTrue, nil
	}
	return false, r.fail("want a boolean, found " + kindName(r.b[r.i]))
}

// Array reads the head of an array and returns its number of items. A count
// that the rest of the input cannot hold is an error, so it is safe to size by.
func (r *Reader) Array() (int, error) { return r.count(majorArray, "an array", 1) }

// Map reads the head of a map and returns its number of pairs. A count that
// the rest of the input cannot hold is an error, so it is safe to size by. The
// caller checks that keys ascend: with [Reader.UintKey], or with [KeyLess].
func (r *Reader) Map() (int, error) { return r.count(majorMap, "a map", 2) }

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
// returns its bytes, which alias the input. Maps inside must have ascending keys.
func (r *Reader) Raw() ([]byte, error) {
	at := r.i
	if err := r.skip(MaxDepth); err != nil {
		return nil, err
	}
	return r.b[at:r.i:r.i], nil
}

func (r *Reader) skip(depth int) error {
	if r.i >= len(r.b) {
		return r.fail("input ends where an item should begin")
	}
	if depth == 0 {
		return r.fail("items are nested too deeply")
	}
	var err error
	switch r.b[r.i] & 0xe0 {
	case majorUint, majorNint:
		_, err = r.Int()
	case majorBytes:
		_, err = r.Bytes()
	case majorText:
		_, err = r.Text()
	case majorArray:
		err = r.skipArray(depth)
	case majorMap:
		err = r.skipMap(depth)
	case majorTag:
		err = r.fail("tags are not allowed")
	default:
		_, err = r.Bool()
	}
	return err
}

func (r *Reader) skipArray(depth int) error {
	n, err := r.Array()
	for ; n > 0 && err == nil; n-- {
		err = r.skip(depth - 1)
	}
	return err
}

func (r *Reader) skipMap(depth int) error {
	n, err := r.Map()
	var last []byte
	for ; n > 0 && err == nil; n-- {
		at := r.i
		if err = r.skip(depth - 1); err != nil {
			break
		}
		key := r.b[at:r.i]
		if last != nil && bytes.Compare(last, key) >= 0 {
			r.i = at
			return r.fail("map keys are not in ascending order")
		}
		last = key
		err = r.skip(depth - 1)
	}
	return err
}

// Done returns an error if anything was left unread.
func (r *Reader) Done() error {
	if r.i != len(r.b) {
		return r.fail("more bytes follow the item")
	}
	return nil
}
