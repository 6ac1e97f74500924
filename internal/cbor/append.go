package cbor

import "encoding/binary"

// Major types of RFC 8949 §3.1, shifted into the three high bits of a head.
const (
	majorUint  = 0 << 5
	majorNint  = 1 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5
	majorTag   = 6 << 5
	majorOther = 7 << 5

	simpleFalse = majorOther | 20
	simpleTrue  = majorOther | 21
)

// appendHead appends the shortest head of a major type (RFC 8949 §4.2.1).
func appendHead(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n <= 0xff:
		return append(dst, major|24, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(n))
	case n <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, major|27), n)
}

// AppendUint appends an unsigned integer in 1 to 9 bytes.
func AppendUint(dst []byte, n uint64) []byte { return appendHead(dst, majorUint, n) }

// AppendInt appends a signed integer in 1 to 9 bytes.
func AppendInt(dst []byte, n int64) []byte {
	if n < 0 {
		return appendHead(dst, majorNint, uint64(-1-n))
	}
	return appendHead(dst, majorUint, uint64(n))
}

// AppendBytes appends b as a byte string.
func AppendBytes(dst, b []byte) []byte {
	return append(appendHead(dst, majorBytes, uint64(len(b))), b...)
}

// AppendText appends s as a text string. The caller vouches that s is UTF-8.
func AppendText[T string | []byte](dst []byte, s T) []byte {
	return append(appendHead(dst, majorText, uint64(len(s))), s...)
}

// AppendBool appends true or false.
func AppendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, simpleTrue)
	}
	return append(dst, simpleFalse)
}

// AppendArray appends the head of an array; the caller appends its n items.
func AppendArray(dst []byte, n int) []byte { return appendHead(dst, majorArray, uint64(n)) }

// AppendMap appends the head of a map; the caller appends its n pairs with
// keys in ascending bytewise order of their encodings (RFC 8949 §4.2.1).
func AppendMap(dst []byte, n int) []byte { return appendHead(dst, majorMap, uint64(n)) }
