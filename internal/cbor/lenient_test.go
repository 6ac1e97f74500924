package cbor_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/cbor"
)

// TestLenientReads lists what [cbor.Reader] refuses and rpc-v2-cbor allows.
func TestLenientReads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, hex, want string }{
		{"long head of an integer", "1b0000000000000001", "1"},
		{"long head of a text", "79000161", `"a"`},
		{"long head of a map", "b90001616101", `{"a": 1}`},
		{"least integer", "3b7fffffffffffffff", "-9223372036854775808"},
		{"text in pieces", "7f657374726561646d696e67ff", `"streaming"`},
		{"text in one piece", "7f7803616263ff", `"abc"`},
		{"text in no piece", "7fff", `""`},
		{"text in empty pieces", "7f60606161ff", `"a"`},
		{"bytes in pieces", "5f42010243030405ff", "h'0102030405'"},
		{"map of unknown length", "bf616101616202ff", `{"a": 1, "b": 2}`},
		{"keys in any order", "a2616202616101", `{"b": 2, "a": 1}`},
		{"key in pieces", "a17f61616162ff01", `{"ab": 1}`},
		{"empty key", "a16001", `{"": 1}`},
		{"array of unknown length", "9f018202039f0405ffff", "[1, [2, 3], [4, 5]]"},
		{"empty ones", "849fffbfff80a0", "[[], {}, [], {}]"},
		{"null", "f6", "null"},
		{"undefined", "f7", "null"},
		{"booleans", "82f4f5", "[false, true]"},
		{"time as an integer", "c11a514b67b0", "1363896240000000 µs"},
		{"time as a negative integer", "c120", "-1000000 µs"},
		{"time as a double", "c1fb41d452d9ec200000", "1363896240500000 µs"},
		{"time as a single", "c1fa47c35000", "100000000000 µs"},
		{"time as a half", "c1f93e00", "1500000 µs"},
		{"time as a half below 1", "c1f90001", "0 µs"},
		{"time as a negative half", "c1f9c400", "-4000000 µs"},
		{"time with a long tag", "d8011a514b67b0", "1363896240000000 µs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := cbor.NewLenient(unhex(t, c.hex), nil)
			got, err := show(r)
			if err == nil {
				err = r.Done()
			}
			if err != nil || got != c.want {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
			skip := cbor.NewLenient(unhex(t, c.hex), nil)
			if err := skip.Skip(); err != nil || skip.Done() != nil {
				t.Errorf("passed over: %v, %v", err, skip.Done())
			}
		})
	}
}

// show reads any value through the methods for it, as diagnostic notation.
func show(r *cbor.Lenient) (string, error) {
	first := byte(0)
	if rest := r.Unread(); len(rest) > 0 {
		first = rest[0]
	}
	switch first >> 5 {
	case 0, 1:
		n, err := r.Int()
		return fmt.Sprint(n), err
	case 2:
		b, err := r.Blob()
		return "h'" + hex.EncodeToString(b) + "'", err
	case 3:
		b, err := r.Text()
		return fmt.Sprintf("%q", b), err
	case 4:
		return showItems(r, r.BeginArray(), false, "[]")
	case 5:
		return showItems(r, r.BeginObject(), true, "{}")
	case 6:
		n, err := r.Micros()
		return fmt.Sprintf("%d µs", n), err
	}
	if r.Null() {
		return "null", nil
	}
	b, err := r.Bool()
	return fmt.Sprint(b), err
}

func showItems(r *cbor.Lenient, err error, named bool, around string) (string, error) {
	var items []string
	for err == nil && r.More() {
		key, item := "", ""
		if named {
			var name []byte
			name, err = r.Name()
			key = fmt.Sprintf("%q: ", name)
		}
		if err == nil {
			item, err = show(r)
		}
		items = append(items, key+item)
	}
	if err == nil {
		err = r.End()
	}
	return around[:1] + strings.Join(items, ", ") + around[1:], err
}

// TestLenientSkips lists what only stands in a member that nobody knows.
func TestLenientSkips(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"fb3ff199999999999a", "f97e00", "fa7f800000", "c249010000000000000000", "c0627878", "d9d9f7a0", "c1c1c1f6", "f0", "f8ff", "3bffffffffffffffff", "a16161bf616280ff",
		strings.Repeat("81", cbor.LenientDepth) + "00", strings.Repeat("a160", cbor.LenientDepth) + "00", strings.Repeat("c1", 1000) + "00",
	} {
		r := cbor.NewLenient(unhex(t, in), nil)
		if err := r.Skip(); err != nil || r.Done() != nil {
			t.Errorf("%.40s: %v, %v", in, err, r.Done())
		}
	}
}

// TestLenientRefuses lists what is no CBOR, or none that a request has, with a
// word of the reason; the fault stays.
func TestLenientRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, hex, reason string }{
		{"nothing", "", "input ends"}, {"head cut off", "19 01", "inside a head"}, {"reserved head", "1c", "reserved"}, {"break", "ff", "break"},
		{"integer of no known length", "1f", "reserved"}, {"tag of no known length", "df", "reserved"}, {"tag without an item", "c1", "input ends"},
		{"text cut off", "62 61", "longer"}, {"text of 2^64-1 bytes", "7bffffffffffffffff", "longer"}, {"text that is not UTF-8", "61 ff", "UTF-8"}, {"character over two pieces", "7f 61c3 61a4 ff", "UTF-8"},
		{"bytes in text", "7f 4161 ff", "piece"}, {"pieces in a piece", "7f 7f6161ff ff", "piece"}, {"pieces without an end", "7f 6161", "input ends"}, {"piece cut off", "5f 42 61", "longer"},
		{"array longer than the input", "9affffffff", "more items"}, {"array of 2^64-1 items", "9bffffffffffffffff", "longer"}, {"map longer than the input", "a3 616101 6162", "more items"},
		{"array without an end", "9f 01", "input ends"}, {"map without an end", "bf 6161", "input ends"}, {"key without a value", "bf 6161 ff", "break"}, {"key that is a number", "a1 0101", "key"}, {"key that is null", "a1 f601", "key"},
		{"key twice", "a2 616101 616102", "twice"}, {"key twice in other forms", "a2 616101 7f6161ff02", "twice"}, {"key twice inside", "81 a2 616101 616102", "twice"}, {"key twice of many", manyKeys(40) + "613001 ff", "twice"},
		{"simple value in two bytes", "f818", "simple"}, {"too deep", strings.Repeat("81", cbor.LenientDepth+1) + "00", "deeply"}, {"too deep without lengths", strings.Repeat("9f", 1<<16), "deeply"}, {"more behind", "00 00", "more bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := cbor.NewLenient(unhex(t, c.hex), nil)
			err := r.Skip()
			if err == nil {
				err = r.Done()
			}
			if err == nil || !strings.Contains(err.Error(), c.reason) || r.Skip() != err || r.Done() != err || r.More() || r.Null() {
				t.Errorf("got %v, want %q, and again", err, c.reason)
			}
		})
	}
}

// manyKeys begins a map of no known length with n keys, "0" the first.
func manyKeys(n int) string {
	b := []byte{0xbf}
	for i := range n {
		b = append(cbor.AppendText(b, fmt.Sprint(i)), 0xf6)
	}
	return hex.EncodeToString(b)
}

// TestLenientWrongKind reads each kind with every method: only its own takes it.
func TestLenientWrongKind(t *testing.T) {
	t.Parallel()
	reads := []func(r *cbor.Lenient) error{
		func(r *cbor.Lenient) error { _, err := r.Text(); return err },
		func(r *cbor.Lenient) error { _, err := r.Blob(); return err },
		func(r *cbor.Lenient) error { _, err := r.Int(); return err },
		func(r *cbor.Lenient) error { _, err := r.Bool(); return err },
		func(r *cbor.Lenient) error { _, err := r.Micros(); return err },
		(*cbor.Lenient).BeginArray, (*cbor.Lenient).BeginObject,
		func(r *cbor.Lenient) error { _, err := r.Name(); return err },
	}
	for own, in := range []string{"6161", "4161", "01", "f5", "c101", "80", "a0"} {
		for i, read := range reads {
			if err := read(cbor.NewLenient(unhex(t, in), nil)); (err == nil) != (i == own) {
				t.Errorf("%s read by method %d: %v", in, i, err)
			}
		}
	}
	for _, in := range []string{"fb3ff0000000000000", "f93c00", "1b8000000000000000", "3b8000000000000000", "c101"} {
		if n, err := cbor.NewLenient(unhex(t, in), nil).Int(); err == nil {
			t.Errorf("%s read as the integer %d", in, n)
		}
	}
	for _, in := range []string{"c0627878", "c201", "01", "fb3ff0000000000000", "c1f6", "c1f5", "c16131", "c1c101", "c1f97e00", "c1f97c00", "c1f9fc00", "c11b0020000000000001", "c1fb7e37e43c8800759c", "c1fb3ff0", "c1"} {
		if n, err := cbor.NewLenient(unhex(t, in), nil).Micros(); err == nil {
			t.Errorf("%s read as the time %d", in, n)
		}
	}
}

// TestLenientPlace: names and values are not mixed up even by a walk that has lost its place.
func TestLenientPlace(t *testing.T) {
	t.Parallel()
	for name, walk := range map[string]func(r *cbor.Lenient) error{
		"key as a value":     func(r *cbor.Lenient) error { _, err := r.Text(); return err },
		"key as null":        func(r *cbor.Lenient) error { r.Null(); return r.End() },
		"value as a key":     func(r *cbor.Lenient) error { r.Name(); _, err := r.Name(); return err },
		"end before the end": (*cbor.Lenient).End,
		"end after a key":    func(r *cbor.Lenient) error { r.Name(); return r.End() },
		"done inside":        (*cbor.Lenient).Done,
		"behind the last":    func(r *cbor.Lenient) error { r.Name(); r.Skip(); _, err := r.Name(); return err },
		"behind the item":    func(r *cbor.Lenient) error { r.Name(); r.Skip(); r.End(); return r.Skip() },
	} {
		r := cbor.NewLenient(unhex(t, "a1 6161 6162"), nil)
		if err := r.BeginObject(); err != nil {
			t.Fatal(err)
		}
		if err := walk(r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if r := new(cbor.Lenient); r.Done() == nil || r.Skip() == nil || r.End() == nil {
		t.Error("the zero Lenient read something")
	}
}

// TestLenientMemory: strings alias the input where they stand in one piece, and
// nothing takes more memory than the input is long.
func TestLenientMemory(t *testing.T) {
	t.Parallel()
	b := unhex(t, "82 426161 5f 426161 ff")
	r := cbor.NewLenient(b, nil)
	if err := r.BeginArray(); err != nil {
		t.Fatal(err)
	}
	one, _ := r.Blob()
	other, _ := r.Blob()
	if &one[0] != &b[2] || &other[0] != &b[6] || cap(one) != 2 || cap(other) != 2 {
		t.Errorf("got %x and %x, not of the input", one, other)
	}
	pieces := append(append([]byte{0x5f}, bytes.Repeat([]byte{0x42, 1, 2}, 1000)...), 0xff)
	if got, err := cbor.NewLenient(pieces, nil).Blob(); err != nil || len(got) != 2000 || cap(got) != 2000 {
		t.Errorf("%d bytes, capacity %d, %v", len(got), cap(got), err)
	}
}

// TestMicros writes times and reads the same: any microsecond, near 2^32 seconds too.
func TestMicros(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	const limit = 1e6<<32 - 1
	for i := range int64(20000) {
		for _, n := range []int64{i, limit - i, -limit + i, rng.Int64N(2*limit) - limit} {
			b := cbor.AppendMicros(nil, n)
			if got, err := cbor.NewLenient(b, nil).Micros(); err != nil || got != n || len(b) != 10 {
				t.Fatalf("%d is %x, read as %d, %v", n, b, got, err)
			}
		}
	}
	if got := cbor.AppendMicros(nil, 1363896240500000); !bytes.Equal(got, unhex(t, "c1fb41d452d9ec200000")) {
		t.Errorf("got %x, want RFC 8949's example", got)
	}
}

// FuzzLenient holds the Lenient to the library: it accepts what the library does,
// and finds the same in it.
func FuzzLenient(f *testing.F) {
	for _, c := range appendixA {
		f.Add(unhex(f, c.hex))
	}
	for _, in := range []string{"bf617f7f61616162ff61629f01ffff", "c1fb41d452d9ec200000", "82c1f93c00f7", "a2616101616102", "7f61c361a4ff", "f818", "c249010000000000000000"} {
		f.Add(unhex(f, in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := cbor.NewLenient(b, nil)
		err := r.Skip()
		if err == nil {
			err = r.Done()
		}
		depth, library := cbor.LenientLibrary(b)
		if library == nil && depth > cbor.LenientDepth || cbor.OfTag(library) {
			return
		}
		if (err == nil) != (library == nil) {
			t.Fatalf("%x: %v, by the library %v", b, err, library)
		}
		var want float64
		if seconds, ok := cbor.LibraryTime(b); ok {
			want = math.Round(seconds * 1e6)
		} else {
			return
		}
		if got, err := cbor.NewLenient(b, nil).Micros(); math.Abs(want) <= 1<<53 && (err != nil || float64(got) != want) {
			t.Errorf("%x is the time %d, %v, want %v", b, got, err, want)
		}
	})
}
