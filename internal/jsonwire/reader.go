package jsonwire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind is what comes next in a document.
type Kind byte

// The kinds. Name and value strings are both Text; End closes an object or an array.
const (
	Invalid Kind = 0 // a fault, which the next method returns, or the end of the document
	Null    Kind = 'n'
	Bool    Kind = 't'
	Number  Kind = '0'
	Text    Kind = '"'
	Object  Kind = '{'
	Array   Kind = '['
	End     Kind = '}'
)

// Reader hands out the tokens of one document in order, to a caller who knows what should come:
//
//	err := r.BeginObject()
//	for r.More() {
//		name, err := r.Name()
//		…one of Text, Blob, Int, Micros, Bool, Null, Raw, Skip, BeginObject, BeginArray
//	}
//	err = r.End()
//	err = r.Done()
//
// Every error is an *Error; the first one ends the reading and is returned by all later calls, so a caller may check
// late. The wrong type is ErrType. Slices handed out alias the document or the Reader's own memory and are valid
// until Reset; they must not be written to. A Reader is for one goroutine; reused through Reset it does not allocate.
// The zero value reads an empty document.
type Reader struct {
	data  []byte
	depth int // Limits.Depth
	dec   jsontext.Decoder
	src   bytes.Buffer // dec reads the document in place through it and copies nothing but names
	// arena holds unescaped and decoded text. Its capacity is fixed at first use to twice the document, of which
	// no document needs more; so slices of it stay where they are and one Reset wipes all of them.
	arena []byte
	mem   Memory // where arena comes from, nil = the heap
	err   error
}

// Memory gives out n zero bytes, which their owner wipes.
type Memory interface {
	Bytes(n int) []byte
}

// Lend has the Reader take what it needs for this document, up to twice its length, from mem instead of its own
// memory, unless mem is nil. The next Reset does not wipe it: that is its owner's.
func (r *Reader) Lend(mem Memory) {
	if r.mem = mem; mem != nil {
		r.arena = nil
	}
}

// Reset starts reading data, which must not change until the next Reset, and wipes what was handed out of the
// Reader's own memory. Reset(nil, Limits{}) drops every reference to the last document. A document that breaks
// Limits.Bytes or is not UTF-8 is refused by the first method called.
func (r *Reader) Reset(data []byte, limits Limits) {
	if r.mem != nil { // lent: by now somebody else's
		r.mem, r.arena = nil, nil
	}
	clear(r.arena)
	r.arena, r.data, r.err = r.arena[:0], data, nil
	r.depth = limits.Depth
	if r.depth == 0 {
		r.depth = MaxDepth
	}
	if limits.Bytes == 0 {
		limits.Bytes = MaxBytes
	}
	r.src = *bytes.NewBuffer(data)
	r.dec.Reset(&r.src)
	if len(data) > limits.Bytes {
		r.err = &Error{Offset: limits.Bytes, Reason: ErrSize}
	} else if !utf8.Valid(data) {
		r.err = &Error{Offset: validPrefix(data), Reason: ErrUTF8}
	}
}

func validPrefix(b []byte) (n int) {
	for n < len(b) {
		c, size := utf8.DecodeRune(b[n:])
		if c == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	return n
}

// Kind returns what comes next without reading it.
func (r *Reader) Kind() Kind {
	if r.data == nil || r.err != nil {
		return Invalid
	}
	switch k := Kind(r.dec.PeekKind()); k {
	case 'f':
		return Bool
	case ']':
		return End
	default:
		return k
	}
}

// More reports whether the open object or array has another member or element. It is false after a fault, which End
// then returns.
func (r *Reader) More() bool {
	k := r.Kind()
	return k != End && k != Invalid
}

// BeginObject reads the start of an object. Deeper than Limits.Depth is ErrDepth.
func (r *Reader) BeginObject() error { return r.begin(Object) }

// BeginArray reads the start of an array. Deeper than Limits.Depth is ErrDepth.
func (r *Reader) BeginArray() error { return r.begin(Array) }

func (r *Reader) begin(want Kind) error {
	if err := r.expect(want, false); err != nil {
		return err
	}
	return r.token()
}

// End reads the end of the open object or array; a member or element left there is ErrType.
func (r *Reader) End() error {
	if k := r.Kind(); k != End {
		return r.mismatch(k)
	}
	return r.token()
}

// Done checks that one whole value was read and that only white space follows it.
func (r *Reader) Done() error {
	if r.err != nil {
		return r.err
	}
	if r.data == nil || r.dec.InputOffset() == 0 || r.dec.StackDepth() > 0 || r.dec.PeekKind() != 0 {
		return r.refuse(ErrSyntax)
	}
	if len(bytes.TrimLeft(r.data[r.dec.InputOffset():], " \t\r\n")) > 0 {
		return r.refuse(ErrSyntax)
	}
	return nil
}

// Name reads a member's name, unescaped. A name that the object had before is ErrDuplicate.
func (r *Reader) Name() ([]byte, error) {
	if err := r.expect(Text, true); err != nil {
		return nil, err
	}
	return r.unquote(r.value())
}

// Text reads a string, unescaped: UTF-8 of any length. A lone surrogate is ErrSyntax.
func (r *Reader) Text() ([]byte, error) {
	if err := r.expect(Text, false); err != nil {
		return nil, err
	}
	return r.unquote(r.value())
}

// Blob reads a string and returns the bytes that it encodes, as DecodeBase64 does.
func (r *Reader) Blob() ([]byte, error) {
	text, err := r.Text()
	if err != nil {
		return nil, err
	}
	r.reserve()
	start := len(r.arena)
	if r.arena, err = DecodeBase64(r.arena, text); err != nil {
		return nil, r.refuse(err)
	}
	return r.arena[start:len(r.arena):len(r.arena)], nil
}

// Int reads an integer written without fraction, exponent or sign of zero. Beyond int64 it is ErrRange.
func (r *Reader) Int() (int64, error) {
	raw, err := r.scalar(Number)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, r.refuse(ErrRange)
	case err != nil || raw[0] == '-' && n == 0:
		return 0, r.refuse(ErrType)
	}
	return n, nil
}

// Micros reads a time as AWS's JSON has it, seconds since 1970 as any number (2^53 microseconds either way, else
// ErrRange), and returns it in microseconds, rounded to the nearest. It goes through a float64 and is exact all the
// same for what is written in whole microseconds less than 2^32 seconds from 1970: there the float is within 0.24 µs
// of the number, and its product with 10^6, below 2^52, is rounded by 0.25 µs at most.
func (r *Reader) Micros() (int64, error) {
	raw, err := r.scalar(Number)
	if err != nil {
		return 0, err
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	micros := math.Round(seconds * 1e6)
	if err != nil || math.Abs(micros) > 1<<53 {
		return 0, r.refuse(ErrRange)
	}
	return int64(micros), nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	raw, err := r.scalar(Bool)
	return err == nil && raw[0] == 't', err
}

// Null reads null if that comes next, and reports whether it did.
func (r *Reader) Null() bool {
	if r.Kind() != Null {
		return false
	}
	_, err := r.scalar(Null)
	return err == nil
}

// Skip reads one value of any kind with all that is in it, checked as everything else.
func (r *Reader) Skip() error {
	_, err := r.Raw()
	return err
}

// Raw reads one value of any kind and returns its text as it stands in the document, without surrounding space.
func (r *Reader) Raw() ([]byte, error) {
	k := r.Kind()
	if k != Object && k != Array {
		return r.scalar(k)
	}
	if err := r.begin(k); err != nil {
		return nil, err
	}
	start, outside := r.dec.InputOffset()-1, r.dec.StackDepth()-1
	for r.dec.StackDepth() > outside {
		if err := r.token(); err != nil {
			return nil, err
		}
	}
	end := r.dec.InputOffset()
	return r.data[start:end:end], nil
}

// Offset returns how many bytes of the document have been read.
func (r *Reader) Offset() int { return int(r.dec.InputOffset()) }

// token reads one token of whatever kind, within the depth.
func (r *Reader) token() error {
	k := r.Kind()
	if (k == Object || k == Array) && r.dec.StackDepth() >= r.depth {
		return r.refuse(ErrDepth)
	}
	if r.err != nil {
		return r.err
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return r.refuse(err)
	}
	return nil
}

func (r *Reader) scalar(want Kind) ([]byte, error) {
	if err := r.expect(want, false); err != nil {
		return nil, err
	}
	return r.value()
}

// value reads a string, number or literal as it stands.
func (r *Reader) value() ([]byte, error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return nil, r.refuse(err)
	}
	return raw, nil
}

// expect checks that what comes next is of a kind, and is a member's name or is not one.
func (r *Reader) expect(want Kind, name bool) error {
	k := r.Kind()
	if k != want || k == Invalid || k == End {
		return r.mismatch(k)
	}
	if in, n := r.dec.StackIndex(r.dec.StackDepth()); name != (in == '{' && n%2 == 0) {
		return r.mismatch(k)
	}
	return nil
}

func (r *Reader) mismatch(got Kind) error {
	if got != Invalid || r.err != nil {
		return r.refuse(ErrType)
	}
	if r.data == nil {
		return r.refuse(ErrSyntax)
	}
	_, err := r.dec.ReadToken() // returns the fault that Kind met
	return r.refuse(err)
}

// unquote takes the result of value for a string and returns the text in it.
func (r *Reader) unquote(raw []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1 : len(raw)-1], nil
	}
	r.reserve()
	start := len(r.arena)
	if r.arena, err = jsontext.AppendUnquote(r.arena, raw); err != nil {
		return nil, r.refuse(err)
	}
	return r.arena[start:len(r.arena):len(r.arena)], nil
}

// reserve gives the arena its capacity: unescaping never lengthens a string and decoding base64 shortens it, so both
// copies of all strings fit.
func (r *Reader) reserve() {
	switch {
	case cap(r.arena) >= 2*len(r.data):
	case r.mem != nil:
		r.arena = r.mem.Bytes(2 * len(r.data))[:0]
	default:
		r.arena = make([]byte, 0, 2*len(r.data))
	}
}

// refuse ends the reading. It keeps the first error, and of the library's errors only kind and offset.
func (r *Reader) refuse(err error) error {
	if r.err != nil {
		return r.err
	}
	e := &Error{Offset: r.Offset(), Reason: err}
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		e.Offset, e.Reason = int(syntax.ByteOffset), ErrSyntax
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		e.Reason = ErrDuplicate
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Reason = ErrSyntax
	}
	r.err = e
	return e
}
