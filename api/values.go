package api

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"time"

	"github.com/keyrack/keyrack/internal/cbor"
)

// Secret is bytes that must not be seen: plaintexts and keys. It never prints,
// in no verb and no log, and is never shown in an audit record.
type Secret []byte

// Format prints the length only.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "[%d secret bytes]", len(s)) }

// LogValue returns the length only.
func (s Secret) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// MarshalText returns the length only: for encoders of documents and logs that
// know nothing of this type. The wires have their own walk, AppendCBOR and AppendJSON.
func (s Secret) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

// Blob is bytes that are not secret: a ciphertext, a public key.
type Blob []byte

// Format prints hex digits for %x and %X and otherwise the length only: nobody
// reads a ciphertext in a log.
func (b Blob) Format(f fmt.State, verb rune) {
	if verb == 'x' || verb == 'X' {
		fmt.Fprintf(f, fmt.FormatString(f, verb), []byte(b))
		return
	}
	fmt.Fprintf(f, "[%d bytes]", len(b))
}

// Time is µs since 1970-01-01 UTC, less than 2^32 seconds either way (1833 to
// 2106: as far as a float of seconds, on AWS's wires, tells one µs from the next); 0
// is absent.
type Time int64

const maxTime = 1e6<<32 - 1

// checkTime returns an error for a time beyond the bounds.
func checkTime(n int64) error {
	if n < -maxTime || n > maxTime {
		return errors.New("the time is 2^32 seconds or more from 1970: want one before 2106-02-07")
	}
	return nil
}

// TimeOf returns t in microseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMicro()) }

// Time returns the time in UTC.
func (t Time) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }

// Names is the closed list of an enum's values: Names[i-1] is value i, because
// 0 is absent on every enum.
type Names []string

// Name returns the name of value v, or "" if v is absent or unknown.
func (n Names) Name(v uint8) string {
	if v == 0 || int(v) > len(n) {
		return ""
	}
	return n[v-1]
}

// Value returns the value called name, or 0.
func (n Names) Value(name string) uint8 {
	for i, s := range n {
		if s == name {
			return uint8(i + 1)
		}
	}
	return 0
}

// Enum is implemented by every enum type, on the value: an uint8 whose names
// are a closed list.
type Enum interface{ Names() Names }

// EncryptionContext is the bytes of a deterministic CBOR map of text to text
// (RFC 8949 §4.2.1). On the native wire they are the request's own bytes,
// checked and aliased, and they are what a ciphertext is bound to. nil is absent,
// which is the same as the empty map.
type EncryptionContext []byte

// emptyContext is the map of no pairs.
var emptyContext = EncryptionContext{0xa0}

// Canonical returns the bytes a ciphertext is bound to: the empty map if absent.
func (c EncryptionContext) Canonical() []byte {
	if len(c) == 0 {
		return emptyContext
	}
	return c
}

// Pairs calls yield for each key and value in canonical order; both alias c.
func (c EncryptionContext) Pairs(yield func(key, value []byte) bool) {
	r := cbor.NewReader(c.Canonical())
	n, err := r.Map()
	for ; n > 0 && err == nil; n-- {
		var k, v []byte
		if k, err = r.Text(); err != nil {
			return
		}
		if v, err = r.Text(); err != nil || !yield(k, v) {
			return
		}
	}
}

// String returns the context as key=value pairs, quoted, for people.
func (c EncryptionContext) String() string {
	var b bytes.Buffer
	for k, v := range c.Pairs {
		fmt.Fprintf(&b, "%q=%q ", k, v)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte(" ")))
}

// NewEncryptionContext encodes pairs canonically. Keys and values must be
// UTF-8 and are not normalised.
func NewEncryptionContext(pairs map[string]string) EncryptionContext {
	keys := make([]string, 0, len(pairs))
	for k := range pairs {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return cbor.KeyLess([]byte(keys[i]), []byte(keys[j])) })
	c := cbor.AppendMap(nil, len(keys))
	for _, k := range keys {
		c = cbor.AppendText(cbor.AppendText(c, k), pairs[k])
	}
	return c
}

// readContext reads a context from r, aliasing its bytes.
func readContext(r *cbor.Reader) (EncryptionContext, error) {
	whole, at := r.Rest(), r.Offset()
	n, err := r.Map()
	if err != nil {
		return nil, err
	}
	var last []byte
	for i := range n {
		key, err := r.Text()
		if err != nil {
			return nil, err
		}
		if i > 0 && !cbor.KeyLess(last, key) {
			return nil, &cbor.Error{Offset: r.Offset(), Reason: "encryption context keys are not unique and in canonical order"}
		}
		last = key
		if _, err := r.Text(); err != nil {
			return nil, err
		}
	}
	size := r.Offset() - at
	return EncryptionContext(whole[:size:size]), nil
}

// ParseEncryptionContext checks that b is one canonical context and returns
// it, aliasing b.
func ParseEncryptionContext(b []byte) (EncryptionContext, error) {
	r := cbor.NewReader(b)
	c, err := readContext(&r)
	if err == nil {
		err = r.Done()
	}
	return c, err
}
