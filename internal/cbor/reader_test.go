package cbor_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/cbor"
)

// Trees of items, as write takes and read returns them: uint64, negative (an
// int64), []byte, string, bool, []any and object (keys and values in turn).
type (
	object   []any
	negative = int64
)

// appendixA is RFC 8949, Appendix A, as far as the product's CBOR reaches.
var appendixA = []struct {
	hex  string
	item any
}{
	{"00", uint64(0)},
	{"01", uint64(1)},
	{"0a", uint64(10)},
	{"17", uint64(23)},
	{"1818", uint64(24)},
	{"1819", uint64(25)},
	{"1864", uint64(100)},
	{"1903e8", uint64(1000)},
	{"1a000f4240", uint64(1000000)},
	{"1b000000e8d4a51000", uint64(1000000000000)},
	{"1bffffffffffffffff", uint64(math.MaxUint64)},
	{"20", negative(-1)},
	{"29", negative(-10)},
	{"3863", negative(-100)},
	{"3903e7", negative(-1000)},
	{"f4", false},
	{"f5", true},
	{"40", []byte{}},
	{"4401020304", []byte{1, 2, 3, 4}},
	{"60", ""},
	{"6161", "a"},
	{"6449455446", "IETF"},
	{"62225c", `"\`},
	{"62c3bc", "ü"},
	{"63e6b0b4", "水"},
	{"64f0908591", "\U00010151"},
	{"80", []any{}},
	{"83010203", []any{uint64(1), uint64(2), uint64(3)}},
	{"8301820203820405", []any{uint64(1), []any{uint64(2), uint64(3)}, []any{uint64(4), uint64(5)}}},
	{"98190102030405060708090a0b0c0d0e0f101112131415161718181819", oneTo25()},
	{"a0", object{}},
	{"a201020304", object{uint64(1), uint64(2), uint64(3), uint64(4)}},
	{"a26161016162820203", object{"a", uint64(1), "b", []any{uint64(2), uint64(3)}}},
	{"826161a161626163", []any{"a", object{"b", "c"}}},
	{"a56161614161626142616361436164614461656145", object{"a", "A", "b", "B", "c", "C", "d", "D", "e", "E"}},
	// The ends of the ranges, which the appendix does not have.
	{"3b7fffffffffffffff", negative(math.MinInt64)},
	{"1b7fffffffffffffff", uint64(math.MaxInt64)},
	{"18ff", uint64(255)},
	{"190100", uint64(256)},
	{"19ffff", uint64(65535)},
	{"1a00010000", uint64(65536)},
	{"1affffffff", uint64(math.MaxUint32)},
	{"1b0000000100000000", uint64(1 << 32)},
	{"a30a00200060 00", object{uint64(10), uint64(0), negative(-1), uint64(0), "", uint64(0)}},
}

func oneTo25() (list []any) {
	for i := range uint64(25) {
		list = append(list, i+1)
	}
	return list
}

func TestAppendixA(t *testing.T) {
	t.Parallel()
	for _, c := range appendixA {
		t.Run(c.hex, func(t *testing.T) {
			t.Parallel()
			b := unhex(t, c.hex)
			if got := write(nil, c.item); !bytes.Equal(got, b) {
				t.Errorf("%v is written as %x", c.item, got)
			}
			r := cbor.NewReader(b)
			if got, err := read(&r); err != nil || r.Done() != nil || !reflect.DeepEqual(got, c.item) {
				t.Errorf("read as %#v, %v, want %#v", got, err, c.item)
			}
			agree(t, b)
		})
	}
}

// refused lists encodings that are not ours, with a word of the reason: first
// the rest of Appendix A, then what each rule of RFC 8949 §4.2.1 forbids.
var refused = []struct{ name, hex, reason string }{
	{"2^64 as a bignum", "c249010000000000000000", "tag"},
	{"-2^64", "3bffffffffffffffff", "64 bits"},
	{"-2^63-1", "3b8000000000000000", "64 bits"},
	{"-2^64-1 as a bignum", "c349010000000000000000", "tag"},
	{"half float", "f90000", "float"},
	{"single float", "fa47c35000", "float"},
	{"double float", "fb3ff199999999999a", "float"},
	{"NaN", "f97e00", "float"},
	{"null", "f6", "null"},
	{"undefined", "f7", "undefined"},
	{"simple(16)", "f0", "simple"},
	{"simple(255)", "f8ff", "simple"},
	{"date", "c074323031332d30332d32315432303a30343a30305a", "tag"},
	{"epoch", "c11a514b67b0", "tag"},
	{"encoded item", "d818456449455446", "tag"},
	{"bytes of no known length", "5f42010243030405ff", "indefinite"},
	{"text of no known length", "7f657374726561646d696e67ff", "indefinite"},
	{"array of no known length", "9fff", "indefinite"},
	{"array of no known length inside", "83018202039f0405ff", "indefinite"},
	{"map of no known length", "bf61610161629f0203ffff", "indefinite"},
	{"a break alone", "ff", "simple"},

	{"nothing", "", "ends"},
	{"23 in two bytes", "1817", "shortest"},
	{"255 in three bytes", "1900ff", "shortest"},
	{"65535 in five bytes", "1a0000ffff", "shortest"},
	{"2^32-1 in nine bytes", "1b00000000ffffffff", "shortest"},
	{"-24 in two bytes", "3817", "shortest"},
	{"length of text in two bytes", "780161", "shortest"},
	{"length of bytes in three bytes", "59000101", "shortest"},
	{"count of an array in two bytes", "980100", "shortest"},
	{"count of a map in five bytes", "ba000000010000", "shortest"},
	{"false in two bytes", "f814", "simple"},
	{"reserved head 28", "1c", "reserved"},
	{"reserved head 30", "5e", "reserved"},
	{"head cut off", "1901", "inside a head"},
	{"text longer than the input", "6261", "longer than the input"},
	{"bytes of 2^64-1", "5bffffffffffffffff", "longer than the input"},
	{"text of 2^63", "7b8000000000000000", "longer than the input"},
	{"array of more items than bytes", "830000", "more items"},
	{"array of 2^64-1", "9bffffffffffffffff", "more items"},
	{"map of more pairs than bytes", "a2000000", "more items"},
	{"map of 2^63", "bb8000000000000000", "more items"},
	{"text that is not UTF-8", "61ff", "UTF-8"},
	{"a surrogate in UTF-8", "63eda080", "UTF-8"},
	{"UTF-8 longer than needed", "62c080", "UTF-8"},
	{"key repeated", "a201000100", "ascending"},
	{"keys out of order", "a202000100", "ascending"},
	{"longer key first", "a262616100616200", "ascending"},
	{"text key before a number", "a261610001 00", "ascending"},
	{"negative key before a positive one", "a220000000", "ascending"},
	{"key that is not UTF-8", "a161ff00", "UTF-8"},
	{"bytes as key", "a1410000", "key"},
	{"array as key", "a18000", "key"},
	{"boolean as key", "a1f400", "key"},
	{"two items", "0000", "follow"},
	{"nine arrays", strings.Repeat("81", cbor.MaxDepth) + "80", "nested"},
	{"nine maps", strings.Repeat("a100", cbor.MaxDepth) + "a0", "nested"},
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := unhex(t, c.hex)
			r := cbor.NewReader(b)
			_, err := r.Raw()
			if err == nil {
				err = r.Done()
			}
			var at *cbor.Error
			if !errors.As(err, &at) || !strings.Contains(at.Reason, c.reason) || at.Offset > len(b) {
				t.Errorf("got %v, want an error that says %q", err, c.reason)
			}
			agree(t, b)
		})
	}
}

// TestWrongKind asks every method for every kind of item: only its own is read,
// and the error names what was found where.
func TestWrongKind(t *testing.T) {
	t.Parallel()
	items := []struct{ kind, hex string }{
		{"an unsigned integer", "01"}, {"a negative integer", "20"}, {"a byte string", "4101"}, {"a text string", "6161"},
		{"a boolean", "f5"}, {"an array", "8101"}, {"a map", "a10101"}, {"null", "f6"}, {"a tag", "c101"}, {"a float or simple value", "f93c00"},
	}
	methods := map[string]func(r *cbor.Reader) error{
		"a boolean":     func(r *cbor.Reader) error { _, err := r.Bool(); return err },
		"a byte string": func(r *cbor.Reader) error { _, err := r.Bytes(); return err },
		"a text string": func(r *cbor.Reader) error { _, err := r.Text(); return err },
		"an array":      func(r *cbor.Reader) error { _, err := r.Array(); return err },
		"a map":         func(r *cbor.Reader) error { _, err := r.Map(); return err },
		"an integer":    func(r *cbor.Reader) error { _, err := r.Int(); return err },
		"an unsigned integer": func(r *cbor.Reader) error {
			_, err := r.Uint()
			return err
		},
	}
	for want, method := range methods {
		for _, item := range items {
			r := cbor.NewReader(unhex(t, "00"+item.hex))
			if _, err := r.Uint(); err != nil {
				t.Fatal(err)
			}
			err := method(&r)
			own := want == item.kind || want == "an integer" && strings.HasSuffix(item.kind, "integer")
			if text := fmt.Sprintf("cbor: want %s, found %s at byte 1", want, item.kind); !own && (err == nil || err.Error() != text) {
				t.Errorf("got %v, want %s", err, text)
			} else if own && err != nil {
				t.Errorf("%s: %v", want, err)
			}
		}
		r := cbor.NewReader(nil)
		if err := method(&r); err == nil {
			t.Errorf("%s was read from nothing", want)
		}
	}
}

func TestInt(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, 23, 24, -1, -24, -25, math.MaxInt64, math.MinInt64} {
		r := cbor.NewReader(cbor.AppendInt(nil, n))
		if got, err := r.Int(); err != nil || got != n || r.Done() != nil {
			t.Errorf("got %d, %v, want %d", got, err, n)
		}
	}
	r := cbor.NewReader(cbor.AppendUint(nil, math.MaxInt64+1))
	if n, err := r.Int(); err == nil {
		t.Errorf("2^63 was read as %d", n)
	}
}

func TestUintKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		keys []uint64
		ok   bool
	}{
		{[]uint64{0, 1, 63}, true},
		{[]uint64{math.MaxUint64 - 1}, true},
		{[]uint64{1, 1}, false},
		{[]uint64{2, 1}, false},
		{[]uint64{math.MaxUint64}, false},
	} {
		var b []byte
		for _, k := range c.keys {
			b = cbor.AppendUint(b, k)
		}
		r, next := cbor.NewReader(b), uint64(0)
		var err error
		for i := 0; i < len(c.keys) && err == nil; i++ {
			_, err = r.UintKey(&next)
		}
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.keys, err)
		}
	}
}

func TestKeyLessIsOrderOfEncodings(t *testing.T) {
	t.Parallel()
	keys := []string{"", "a", "b", "\x7f", "ü", "aa", "ab", strings.Repeat("z", 23), strings.Repeat("a", 24), strings.Repeat("a", 300)}
	for _, a := range keys {
		for _, b := range keys {
			want := bytes.Compare(cbor.AppendText(nil, a), cbor.AppendText(nil, b)) < 0
			if got := cbor.KeyLess([]byte(a), []byte(b)); got != want {
				t.Errorf("KeyLess(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// TestAliases checks what the Reader promises of slices: they are the input's
// own bytes, and appending to one does not overwrite the next item.
func TestAliases(t *testing.T) {
	t.Parallel()
	b := unhex(t, "42 0102 62 6162 81 03 00")
	r := cbor.NewReader(b)
	bytes1, _ := r.Bytes()
	text, _ := r.Text()
	raw, err := r.Raw()
	if err != nil || r.Offset() != 8 || len(r.Rest()) != 1 {
		t.Fatalf("offset %d, rest %x, %v", r.Offset(), r.Rest(), err)
	}
	if &bytes1[0] != &b[1] || &text[0] != &b[4] || &raw[0] != &b[6] {
		t.Error("a slice is a copy")
	}
	_, _, _ = append(bytes1, 0xee), append(text, 0xee), append(raw, 0xee)
	if bytes.IndexByte(b, 0xee) >= 0 {
		t.Error("appending to a slice wrote into the input")
	}
}

func TestErrorHoldsNoContent(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"82 67 736563726574ff 00", "a2 66736563726574 00 66736563726574 00", "66 7365637265"} {
		r := cbor.NewReader(unhex(t, in))
		if _, err := r.Raw(); err == nil || strings.Contains(err.Error(), "secre") {
			t.Errorf("%s: got %v", in, err)
		}
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	b := write(nil, object{uint64(1), "text", uint64(2), []byte("bytes"), uint64(3), []any{true, negative(-7)}, "k", object{"a", "b"}})
	dst := make([]byte, 0, 2*len(b))
	allocs := testing.AllocsPerRun(100, func() {
		r := cbor.NewReader(b)
		raw, err := r.Raw()
		if err != nil || r.Done() != nil {
			t.Fatal(err)
		}
		dst = cbor.AppendText(cbor.AppendBytes(dst[:0], raw), "x")
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// write encodes a tree with the Append functions.
func write(dst []byte, item any) []byte {
	switch v := item.(type) {
	case uint64:
		return cbor.AppendUint(dst, v)
	case negative:
		return cbor.AppendInt(dst, v)
	case []byte:
		return cbor.AppendBytes(dst, v)
	case string:
		return cbor.AppendText(dst, v)
	case bool:
		return cbor.AppendBool(dst, v)
	case []any:
		dst = cbor.AppendArray(dst, len(v))
		for _, e := range v {
			dst = write(dst, e)
		}
		return dst
	}
	pairs := item.(object)
	dst = cbor.AppendMap(dst, len(pairs)/2)
	for _, e := range pairs {
		dst = write(dst, e)
	}
	return dst
}

// read decodes a tree with the typed methods.
func read(r *cbor.Reader) (any, error) {
	if len(r.Rest()) == 0 {
		return nil, errors.New("no item")
	}
	switch r.Rest()[0] >> 5 {
	case 0:
		return r.Uint()
	case 1:
		return r.Int()
	case 2:
		return r.Bytes()
	case 3:
		s, err := r.Text()
		return string(s), err
	case 4:
		n, err := r.Array()
		list, err := items(r, n, err)
		return append([]any{}, list...), err
	case 5:
		n, err := r.Map()
		list, err := items(r, 2*n, err)
		return append(object{}, list...), err
	}
	return r.Bool()
}

func items(r *cbor.Reader, n int, err error) (list []any, _ error) {
	for ; n > 0 && err == nil; n-- {
		var v any
		v, err = read(r)
		list = append(list, v)
	}
	return list, err
}
