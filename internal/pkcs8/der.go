package pkcs8

import "math/big"

// Tags of DER that private keys are made of (X.690, section 8).
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagSequence    = 0x30
	tagContext0    = 0xa0 // [0], constructed
	tagContext1    = 0xa1 // [1], constructed
	tagImplicit0   = 0x80 // [0] in the place of a primitive tag
	tagImplicit1   = 0x81 // [1] likewise
)

// reader reads DER from its front. What it returns aliases it. The first fault makes bad true and all that follows empty,
// so that a caller asks once, at the end.
type reader struct {
	rest []byte
	bad  bool
}

// next returns the content of the element in front, which must have that tag and the one shortest length (X.690, section
// 10.1) that two bytes can say.
func (r *reader) next(tag byte) []byte {
	b := r.rest
	if len(b) < 2 || b[0] != tag {
		return r.fail()
	}
	n, head := int(b[1]), 2
	switch {
	case n == 0x81 && len(b) > 2 && b[2] >= 0x80:
		n, head = int(b[2]), 3
	case n == 0x82 && len(b) > 3 && b[2] != 0:
		n, head = int(b[2])<<8|int(b[3]), 4
	case n >= 0x80:
		return r.fail()
	}
	if len(b)-head < n {
		return r.fail()
	}
	r.rest = b[head+n:]
	return b[head : head+n : head+n]
}

// in returns a reader of the element in front.
func (r *reader) in(tag byte) *reader {
	content := r.next(tag)
	return &reader{content, r.bad}
}

// has reports whether the element in front has that tag.
func (r *reader) has(tag byte) bool { return len(r.rest) > 0 && r.rest[0] == tag }

// integer returns a number that is not negative, in its one shortest form (X.690, section 8.3).
func (r *reader) integer() *big.Int {
	b := r.next(tagInteger)
	if len(b) == 0 || b[0] >= 0x80 || len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		r.fail()
		return new(big.Int)
	}
	return new(big.Int).SetBytes(b)
}

// bits returns the bytes of a bit string of whole bytes.
func (r *reader) bits(tag byte) []byte {
	b := r.next(tag)
	if len(b) == 0 || b[0] != 0 {
		return r.fail()
	}
	return b[1:]
}

// end reports whether all was well, and nothing is left.
func (r *reader) end() bool { return !r.bad && len(r.rest) == 0 }

func (r *reader) fail() []byte {
	r.rest, r.bad = nil, true
	return nil
}
