// Package cbor is the product's CBOR: deterministic encoding only (RFC 8949
// §4.2.1), integers, strings, booleans, arrays and maps, nothing else. What it
// accepts it would have written itself, so bytes can be compared, hashed and
// authenticated as they came.
//
// Read first: [Reader] and the Append functions, which the wire and the audit
// log are walked with, and [Marshal] and [Unmarshal] for stored records.
//
// It does not do streams, indefinite lengths, tags, floats or null, except in
// [Lenient], which stands apart: it reads requests of AWS's clients, who write CBOR
// in other forms, and nothing that is stored or authenticated. It is the only
// package that imports github.com/fxamacker/cbor.
package cbor

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// modes returns the library's encoder and decoder in the one form we write
// and read. The options are constants, so an error here is a programmer's.
var modes = sync.OnceValues(func() (cbor.EncMode, cbor.DecMode) {
	opts := cbor.CoreDetEncOptions()
	opts.NilContainers = cbor.NilContainerAsEmpty // the library's default is null
	enc, err := opts.EncMode()
	if err != nil {
		panic(err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   MaxDepth,
		MaxArrayElements:  math.MaxInt32, // plain has held the counts to the length of the input
		MaxMapPairs:       math.MaxInt32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
})

// ErrNotDeterministic is returned by [Unmarshal] for an encoding that is well
// formed but not the one that [Marshal] writes.
var ErrNotDeterministic = errors.New("cbor: encoding is not deterministic")

// Marshal encodes v, a struct with cbor tags, deterministically. It is for
// stored records and documents, not for the request path. What [Unmarshal] would
// not read back is an error: a float, a nil pointer, a map with other keys than
// integers and text, more nesting than [MaxDepth].
func Marshal(v any) ([]byte, error) {
	enc, _ := modes()
	b, err := enc.Marshal(v)
	if err == nil {
		err = plain(b)
	}
	if err != nil {
		return nil, fmt.Errorf("cbor: encode %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal decodes b into v, a pointer to a struct with cbor tags. Unknown
// members, duplicates, trailing bytes and every encoding that [Marshal] would
// not have written are errors. The result shares no memory with b.
func Unmarshal(b []byte, v any) error {
	if err := plain(b); err != nil {
		return err
	}
	_, dec := modes()
	if err := dec.Unmarshal(b, v); err != nil {
		return fmt.Errorf("cbor: %w", err)
	}
	again, err := Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return ErrNotDeterministic
	}
	return nil
}

// plain checks that b is one item as [Reader] reads it: the library knows more
// kinds than we want to.
func plain(b []byte) error {
	r := NewReader(b)
	if _, err := r.Raw(); err != nil {
		return err
	}
	return r.Done()
}
