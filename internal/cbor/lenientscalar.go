package cbor

import (
	"encoding/binary"
	"math"
)

const (
	simpleNull      = majorOther | 22
	simpleUndefined = majorOther | 23
	half            = majorOther | 25
	single          = majorOther | 26
	double          = majorOther | 27

	tagTime = 1 // RFC 8949 §3.4.2: seconds since 1970
)

// AppendMicros appends a time in microseconds since 1970 as tag 1 and a double
// of seconds, ten bytes. A double tells microseconds apart up to 2^32 seconds
// from 1970.
func AppendMicros(dst []byte, micros int64) []byte {
	dst = append(appendHead(dst, majorTag, tagTime), double)
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(float64(micros)/1e6))
}

// Null reads null, or undefined, which rpc-v2-cbor has servers take for it, if
// that comes next, and reports whether it did.
func (r *Lenient) Null() bool {
	if r.err != nil || r.i >= len(r.b) || r.b[r.i] != simpleNull && r.b[r.i] != simpleUndefined || r.begin(false) != nil {
		return false
	}
	r.i++
	return true
}

// Bool reads true or false.
func (r *Lenient) Bool() (bool, error) {
	if err := r.begin(false); err != nil {
		return false, err
	}
	b := r.b[r.i]
	if b != simpleFalse && b != simpleTrue {
		return false, r.found("a boolean")
	}
	r.i++
	return b == simpleTrue, nil
}

// Int reads a signed integer that fits 64 bits; a float never is one.
func (r *Lenient) Int() (int64, error) {
	if err := r.begin(false); err != nil {
		return 0, err
	}
	return r.integer()
}

// integer reads an integer that was counted.
func (r *Lenient) integer() (int64, error) {
	if r.i < len(r.b) && r.b[r.i] >= majorBytes {
		return 0, r.found("an integer")
	}
	major, n, err := r.head()
	switch {
	case err != nil:
		return 0, err
	case n > math.MaxInt64:
		return 0, r.fail("integer does not fit 64 bits")
	case major == majorNint:
		return -1 - int64(n), nil
	}
	return int64(n), nil
}

// Micros reads a time, tag 1 with an integer or a float of seconds since 1970,
// and returns it in microseconds, rounded to the nearest: at most 2^53 either way.
func (r *Lenient) Micros() (int64, error) {
	tag, err := r.next(majorTag, "a time")
	if err != nil {
		return 0, err
	}
	if tag != tagTime {
		return 0, r.fail("want a time, found another tag")
	}
	seconds, err := r.seconds()
	if err != nil {
		return 0, err
	}
	micros := math.Round(seconds * 1e6)
	if !(math.Abs(micros) <= 1<<53) { // also not a number
		return 0, r.fail("time out of range")
	}
	return int64(micros), nil
}

// seconds reads a number. Integers that a float64 does not hold are beyond every
// time's range as well.
func (r *Lenient) seconds() (float64, error) {
	if r.i < len(r.b) && r.b[r.i]&0xe0 != majorOther {
		n, err := r.integer()
		return float64(n), err
	}
	if r.i >= len(r.b) || r.b[r.i] < half || r.b[r.i] > double {
		return 0, r.fail("want a number of seconds")
	}
	width := r.b[r.i]
	_, bits, err := r.head()
	switch width {
	case half:
		return fromHalf(uint16(bits)), err
	case single:
		return float64(math.Float32frombits(uint32(bits))), err
	}
	return math.Float64frombits(bits), err
}

// fromHalf returns the value of an IEEE 754 binary16 (RFC 8949, Appendix D).
func fromHalf(bits uint16) float64 {
	exponent, fraction := int(bits>>10&0x1f), float64(bits&0x3ff)
	var f float64
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 31:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(fraction+1024, exponent-25)
	}
	if bits>>15 != 0 {
		return -f
	}
	return f
}

// Skip reads one value of any kind with all that is in it, and checks its form:
// what a member that nobody knows holds may have tags, floats and any simple value.
func (r *Lenient) Skip() error {
	if err := r.begin(false); err != nil {
		return err
	}
	first, major, n, err := r.untagged()
	if err != nil {
		return err
	}
	switch major {
	case majorBytes, majorText:
		return r.skipString(major, n)
	case majorArray, majorMap:
		return r.skipItems(major == majorMap, n)
	case majorOther:
		if first == majorOther|24 && n < 32 {
			return r.fail("a simple value is not in its one form")
		}
	}
	return nil
}

// untagged reads a head and the tags before it, and returns its first byte too.
func (r *Lenient) untagged() (first, major byte, n uint64, err error) {
	for major = majorTag; major == majorTag && err == nil; {
		if r.i < len(r.b) {
			first = r.b[r.i]
		}
		major, n, err = r.head()
	}
	return first, major, n, err
}

// skipString passes over a string without putting it together.
func (r *Lenient) skipString(major byte, n uint64) error {
	if n != endless {
		_, _ = r.take(major, n) // the fault is r.err
		return r.err
	}
	for _, ok := r.piece(major); ok; {
		_, ok = r.piece(major)
	}
	return r.err
}

// skipItems passes over what an array or map holds.
func (r *Lenient) skipItems(isMap bool, n uint64) error {
	if err := r.enter(isMap, n); err != nil {
		return err
	}
	for r.More() {
		if isMap {
			if _, err := r.Name(); err != nil {
				return err
			}
		}
		if err := r.Skip(); err != nil {
			return err
		}
	}
	return r.End()
}
