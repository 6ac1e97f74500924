package cbor

import (
	"bytes"
	"math"
	"unicode/utf8"
)

// LenientDepth is how many arrays and maps may be open at once in what
// [Lenient] reads: as many as the reader of JSON allows.
const LenientDepth = 32

// Lenient reads one item of CBOR as clients of Smithy's rpc-v2-cbor write it:
// heads longer than needed, strings, arrays and maps of no known length (RFC 8949
// §3.2), keys in any order, floats, and tags before what is passed over. [Reader]
// is for everything that is compared, hashed or stored.
//
//	err := r.BeginObject()
//	for r.More() {
//		name, err := r.Name()
//		…one of Null, Text, Blob, Int, Micros, Bool, Skip, BeginObject, BeginArray
//	}
//	err = r.End()
//	err = r.Done()
//
// The keys of maps are text, and each occurs once. Every error is an *[Error]; the
// first one ends the reading and is returned by all later calls. Strings alias the
// input, which is never written to; only those that came in pieces are put
// together elsewhere ([NewLenient]), all of them together no longer than the input.
// No count or length in a head is believed beyond the length of the input. A
// Lenient is for one goroutine; the zero value reads nothing.
type Lenient struct {
	b    []byte
	i    int
	open []level // arrays and maps that were begun and not ended
	mem  Memory  // for strings that came in pieces, nil = the heap
	err  error
}

// Memory gives out n zero bytes, which their owner wipes.
type Memory interface {
	Bytes(n int) []byte
}

// level is an array or map that is being read. In a map keys and values both
// count as items, so a key is next if n is even.
type level struct {
	isMap bool
	n     uint64 // items begun
	all   uint64 // items there are; endless if a break ends them
	names names
}

const (
	endless = math.MaxUint64
	brk     = 0xff // ends what has no known length
)

// NewLenient returns a Lenient over b, which must not change while it is used.
// Strings that came in pieces are put together in bytes of mem, the heap's if it is nil.
func NewLenient(b []byte, mem Memory) *Lenient { return &Lenient{b: b, mem: mem} }

// fail keeps the first fault.
func (r *Lenient) fail(reason string) error {
	if r.err == nil {
		r.err = &Error{Offset: r.i, Reason: reason}
	}
	return r.err
}

// found says that another kind of item was wanted than the one that is next.
func (r *Lenient) found(want string) error {
	return r.fail("want " + want + ", found " + kindName(r.b[r.i]))
}

// begin counts the item that is read next, a key or a value, in what holds it.
func (r *Lenient) begin(key bool) error {
	if r.err != nil {
		return r.err
	}
	if len(r.open) > 0 {
		l := &r.open[len(r.open)-1]
		if l.n >= l.all || key != (l.isMap && l.n%2 == 0) {
			return r.fail("an item is read where none or another stands")
		}
		l.n++
	} else if key || r.i > 0 {
		return r.fail("an item is read where none stands")
	}
	if r.i >= len(r.b) {
		return r.fail("input ends where an item should begin")
	}
	return nil
}

// head reads one head in any form: n is its argument, or endless for one of no
// known length. Input is left.
func (r *Lenient) head() (major byte, n uint64, err error) {
	if r.i >= len(r.b) {
		return 0, 0, r.fail("input ends where an item should begin")
	}
	first := r.b[r.i]
	major, n = first&0xe0, uint64(first&0x1f)
	switch {
	case n < 24:
		r.i++
		return major, n, nil
	case n < 28:
		return r.longHead(major, 1<<(n-24))
	case n == 31 && major >= majorBytes && major <= majorMap:
		r.i++
		return major, endless, nil
	}
	return 0, 0, r.fail("reserved head, or a break where an item should begin")
}

// longHead reads the size bytes of argument behind the head's first byte. Lengths
// that would be taken for endless are beyond any input and refused.
func (r *Lenient) longHead(major byte, size int) (byte, uint64, error) {
	if len(r.b)-r.i-1 < size {
		return 0, 0, r.fail("input ends inside a head")
	}
	var n uint64
	for _, c := range r.b[r.i+1 : r.i+1+size] {
		n = n<<8 | uint64(c)
	}
	if n == endless && major >= majorBytes && major <= majorMap {
		return 0, 0, r.fail("string is longer than the input")
	}
	r.i += 1 + size
	return major, n, nil
}

// next reads the head of a value that must be of a major type.
func (r *Lenient) next(major byte, what string) (n uint64, err error) {
	if err := r.begin(false); err != nil {
		return 0, err
	}
	if r.b[r.i]&0xe0 != major {
		return 0, r.found(what)
	}
	_, n, err = r.head()
	return n, err
}

// BeginObject reads the head of a map. More than [LenientDepth] at once is an error.
func (r *Lenient) BeginObject() error {
	n, err := r.next(majorMap, "a map")
	if err != nil {
		return err
	}
	return r.enter(true, n)
}

// BeginArray reads the head of an array, as BeginObject does.
func (r *Lenient) BeginArray() error {
	n, err := r.next(majorArray, "an array")
	if err != nil {
		return err
	}
	return r.enter(false, n)
}

// enter opens an array or map of n items or pairs.
func (r *Lenient) enter(isMap bool, n uint64) error {
	each := uint64(1)
	if isMap {
		each = 2
	}
	switch {
	case len(r.open) == LenientDepth:
		return r.fail("arrays and maps are nested too deeply")
	case n == endless:
		each = 1
	case n > uint64(len(r.b)-r.i)/each:
		return r.fail("an array or map has more items than the input has bytes")
	}
	r.open = append(r.open, level{isMap: isMap, all: n * each})
	return nil
}

// More reports whether the open array or map has another item or pair. It is
// false after a fault, which End then returns.
func (r *Lenient) More() bool {
	if r.err != nil || len(r.open) == 0 {
		return false
	}
	l := &r.open[len(r.open)-1]
	if l.all == endless {
		return r.i >= len(r.b) || r.b[r.i] != brk
	}
	return l.n < l.all
}

// End reads the end of the open array or map; an item left there is an error.
func (r *Lenient) End() error {
	if r.err != nil {
		return r.err
	}
	if len(r.open) == 0 || r.More() {
		return r.fail("items are left, or nothing is open")
	}
	l := &r.open[len(r.open)-1]
	if l.isMap && l.n%2 != 0 {
		return r.fail("a map's key has no value")
	}
	if l.all == endless {
		r.i++
	}
	r.open = r.open[:len(r.open)-1]
	return nil
}

// Done checks that one whole item was read and nothing follows it.
func (r *Lenient) Done() error {
	switch {
	case r.err != nil:
		return r.err
	case r.i == 0 || len(r.open) > 0:
		return r.fail("the item was not read to its end")
	case r.i != len(r.b):
		return r.fail("more bytes follow the item")
	}
	return nil
}

// Name reads the key of a pair, which must be text that the map did not have yet.
func (r *Lenient) Name() ([]byte, error) {
	if err := r.begin(true); err != nil {
		return nil, err
	}
	if r.b[r.i]&0xe0 != majorText {
		return nil, r.found("text as a map's key")
	}
	_, n, err := r.head()
	if err != nil {
		return nil, err
	}
	name, err := r.join(majorText, n)
	if err == nil && !r.open[len(r.open)-1].names.add(name) {
		err = r.fail("a map has a key twice")
	}
	return name, err
}

// Text reads a text string and checks its UTF-8.
func (r *Lenient) Text() ([]byte, error) {
	n, err := r.next(majorText, "a text string")
	if err != nil {
		return nil, err
	}
	return r.join(majorText, n)
}

// Blob reads a byte string.
func (r *Lenient) Blob() ([]byte, error) {
	n, err := r.next(majorBytes, "a byte string")
	if err != nil {
		return nil, err
	}
	return r.join(majorBytes, n)
}

// join returns the string whose head with n was read. Its pieces are looked at
// twice, so that their copy is made in its final size.
func (r *Lenient) join(major byte, n uint64) ([]byte, error) {
	if n != endless {
		s, _ := r.take(major, n)
		return s, r.err
	}
	start := r.i
	only, count, size := []byte(nil), 0, 0
	for p, ok := r.piece(major); ok; p, ok = r.piece(major) {
		only, count, size = p, count+1, size+len(p)
	}
	if r.err != nil || count < 2 {
		return only, r.err
	}
	r.i = start
	whole := r.room(size)
	for p, ok := r.piece(major); ok; p, ok = r.piece(major) {
		whole = append(whole, p...)
	}
	return whole, nil
}

// room returns memory for size bytes.
func (r *Lenient) room(size int) []byte {
	if r.mem != nil {
		return r.mem.Bytes(size)[:0]
	}
	return make([]byte, 0, size)
}

// piece reads a piece of a string of no known length: a string of its kind that
// has one. ok is false at the end of the string, and after a fault.
func (r *Lenient) piece(major byte) (p []byte, ok bool) {
	if r.i < len(r.b) && r.b[r.i] == brk {
		r.i++
		return nil, false
	}
	got, n, err := r.head()
	if err != nil {
		return nil, false
	}
	if got != major || n == endless {
		_ = r.fail("a piece of a string is no string of its kind") // the caller sees r.err
		return nil, false
	}
	return r.take(major, n)
}

// take returns the next n bytes as they stand, and whether they are there and,
// of text, UTF-8. No character may span two pieces (RFC 8949 §3.2.3). Their
// capacity is their length.
func (r *Lenient) take(major byte, n uint64) (s []byte, ok bool) {
	if n > uint64(len(r.b)-r.i) {
		_ = r.fail("string is longer than the input") // the caller sees r.err
		return nil, false
	}
	s = r.b[r.i : r.i+int(n) : r.i+int(n)]
	if major == majorText && !utf8.Valid(s) {
		_ = r.fail("text is not UTF-8") // the caller sees r.err
		return nil, false
	}
	r.i += int(n)
	return s, true
}

// names are the keys that a map had so far.
type names struct {
	few  [][]byte // in the input, up to fewNames
	many map[string]struct{}
}

// fewNames is how many keys are cheaper to compare than to hash.
const fewNames = 16

// add adds a key, and reports whether it is new.
func (s *names) add(name []byte) (isNew bool) {
	if s.many == nil {
		for _, other := range s.few {
			if bytes.Equal(other, name) {
				return false
			}
		}
		if len(s.few) < fewNames {
			s.few = append(s.few, name)
			return true
		}
		s.many = make(map[string]struct{}, 2*fewNames)
		for _, other := range s.few {
			s.many[string(other)] = struct{}{}
		}
	}
	_, known := s.many[string(name)]
	s.many[string(name)] = struct{}{}
	return !known
}
