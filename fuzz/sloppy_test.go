package fuzz_test

import (
	"encoding/binary"
	"math/rand/v2"
	"unicode/utf8"
)

// sloppy writes an item of deterministic CBOR in some other of its many forms:
// heads longer than needed, unknown lengths, strings in pieces, pairs of maps in
// any order. item is a map; half of the time it gets members that nobody knows.
func sloppy(rng *rand.Rand, item []byte) []byte {
	_, n, rest := cutHead(item)
	out, rest := sloppyMap(rng, nil, int(n), rest, unknownMembers[:rng.IntN(len(unknownMembers)+1)])
	if len(rest) > 0 {
		panic("more than one item")
	}
	return out
}

// unknownMembers are pairs of a member that no request has and its value.
var unknownMembers = [][]byte{
	[]byte("\x65keyId\xf6"), []byte("\x7f\x61X\xff\xbf\x61a\x82\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00\xf7\xff"), []byte("\x60\xc2\x41\x01"),
}

// sloppyItem appends one item in another form and returns what follows it.
func sloppyItem(rng *rand.Rand, dst, b []byte) (out, rest []byte) {
	major, n, rest := cutHead(b)
	switch major {
	case byteString, textString:
		return sloppyString(rng, dst, major, rest[:n]), rest[n:]
	case array:
		return sloppyArray(rng, dst, int(n), rest)
	case object:
		return sloppyMap(rng, dst, int(n), rest, nil)
	case tag:
		return sloppyItem(rng, sloppyHead(rng, dst, major, n), rest)
	case other:
		return append(dst, b[:len(b)-len(rest)]...), rest
	}
	return sloppyHead(rng, dst, major, n), rest
}

// cutHead reads a head.
func cutHead(b []byte) (major int, n uint64, rest []byte) {
	major, n, b = int(b[0]>>5), uint64(b[0]&0x1f), b[1:]
	if n < 24 {
		return major, n, b
	}
	size := 1 << (n - 24)
	var whole [8]byte
	copy(whole[8-size:], b)
	return major, binary.BigEndian.Uint64(whole[:]), b[size:]
}

// sloppyHead appends a head with an argument of some width that holds it.
func sloppyHead(rng *rand.Rand, dst []byte, major int, n uint64) []byte {
	width := rng.IntN(4)
	for width < 3 && n>>(8<<width) > 0 {
		width++
	}
	if n < 24 && rng.IntN(2) == 0 {
		return append(dst, byte(major<<5)|byte(n))
	}
	whole := binary.BigEndian.AppendUint64(nil, n)
	return append(append(dst, byte(major<<5)|byte(24+width)), whole[8-1<<width:]...)
}

// sloppyString appends a string, in pieces half of the time.
func sloppyString(rng *rand.Rand, dst []byte, major int, s []byte) []byte {
	if rng.IntN(2) == 0 {
		return append(sloppyHead(rng, dst, major, uint64(len(s))), s...)
	}
	dst = append(dst, byte(major<<5)|0x1f)
	for len(s) > 0 || rng.IntN(4) == 0 {
		n := rng.IntN(min(len(s), 50) + 1)
		for major == textString && n < len(s) && !utf8.RuneStart(s[n]) {
			n++
		}
		dst = append(sloppyHead(rng, dst, major, uint64(n)), s[:n]...)
		s = s[n:]
	}
	return append(dst, 0xff)
}

// sloppyArray appends the array of n items in b.
func sloppyArray(rng *rand.Rand, dst []byte, n int, b []byte) (out, rest []byte) {
	dst, end := sloppyBegin(rng, dst, array, n)
	for range n {
		dst, b = sloppyItem(rng, dst, b)
	}
	return append(dst, end...), b
}

// sloppyMap appends the map of n pairs in b and of more pairs as they stand.
func sloppyMap(rng *rand.Rand, dst []byte, n int, b []byte, more [][]byte) (out, rest []byte) {
	var pairs [][]byte
	for range n {
		pair, behind := sloppyItem(rng, nil, b)
		pair, b = sloppyItem(rng, pair, behind)
		pairs = append(pairs, pair)
	}
	pairs = append(pairs, more...)
	rng.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	dst, end := sloppyBegin(rng, dst, object, len(pairs))
	for _, pair := range pairs {
		dst = append(dst, pair...)
	}
	return append(dst, end...), b
}

// sloppyBegin appends the head of an array or map of n, and returns what ends it.
func sloppyBegin(rng *rand.Rand, dst []byte, major, n int) (out, end []byte) {
	if rng.IntN(2) == 0 {
		return append(dst, byte(major<<5)|0x1f), []byte{0xff}
	}
	return sloppyHead(rng, dst, major, uint64(n)), nil
}
