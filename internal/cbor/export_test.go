package cbor

import (
	"errors"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Library decodes b into any and encodes that again with the library's two
// modes alone, without our own check of the form.
func Library(b []byte) (v any, again []byte, err error) {
	enc, dec := modes()
	if err = dec.Unmarshal(b, &v); err == nil {
		again, err = enc.Marshal(v)
	}
	return v, again, err
}

// Unread returns what was not read yet.
func (r *Lenient) Unread() []byte { return r.b[r.i:] }

// lenient is the library as lenient as it gets, but for repeated keys.
var lenient, _ = cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 65535, TagsMd: cbor.TagsAllowed}.DecMode()

// LenientLibrary checks that b is one item whose maps have text keys, each once,
// and returns how deeply arrays and maps are nested in it.
func LenientLibrary(b []byte) (depth int, err error) {
	if err := lenient.Wellformed(b); err != nil {
		return 0, err
	}
	return libraryDepth(b)
}

func libraryDepth(b []byte) (depth int, err error) {
	var items []cbor.RawMessage
	switch b[0] & 0xe0 {
	case majorTag:
		size := 1
		if long := b[0] & 0x1f; long >= 24 {
			size += 1 << (long - 24)
		}
		return libraryDepth(b[size:])
	case majorArray:
		err = lenient.Unmarshal(b, &items)
	case majorMap:
		var pairs map[textKey]cbor.RawMessage
		err = lenient.Unmarshal(b, &pairs)
		for _, v := range pairs {
			items = append(items, v)
		}
	case majorText:
		var s string
		return 0, lenient.Unmarshal(b, &s)
	default:
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, item := range items {
		below, fault := libraryDepth(item)
		depth, err = max(depth, below), errors.Join(err, fault)
	}
	return depth + 1, err
}

// OfTag reports whether the library refused what a tag stands before, as its own
// types for the tag do not take it.
func OfTag(err error) bool { return err != nil && strings.Contains(err.Error(), "must be followed by") }

// textKey is a key that is text and nothing else that the library takes for it.
type textKey string

// UnmarshalCBOR refuses everything but text.
func (k *textKey) UnmarshalCBOR(b []byte) error {
	if b[0]&0xe0 != majorText {
		return errors.New("a map's key is not text")
	}
	return lenient.Unmarshal(b, (*string)(k))
}

// LibraryTime returns the seconds of a tag 1 with a float.
func LibraryTime(b []byte) (seconds float64, ok bool) {
	var tag cbor.RawTag
	if lenient.Unmarshal(b, &tag) != nil || tag.Number != tagTime || tag.Content[0] < half || tag.Content[0] > double {
		return 0, false
	}
	return seconds, lenient.Unmarshal(tag.Content, &seconds) == nil
}
