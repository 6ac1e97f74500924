package api_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
)

var verbs = []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%08b", "%U", "%c", "%t", "% x", "%20s"}

// TestSecretNeverPrints prints a secret alone, in what holds it, and by every
// printer a person may reach for.
func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	const text = "hunter2!hunter2!"
	s := api.Secret(text)
	holders := []any{s, &s, []api.Secret{s}, map[string]api.Secret{"k": s}, kmsapi.EncryptRequest{Plaintext: s}, &kmsapi.DecryptResponse{Plaintext: s}}
	for _, holder := range holders {
		for _, verb := range verbs {
			checkHidden(t, verb, fmt.Sprintf(verb, holder), text)
		}
		checkHidden(t, "slog", logged(holder), text)
		if b, err := json.Marshal(holder); err == nil {
			checkHidden(t, "encoding/json", string(b), text)
		}
	}
	if got := fmt.Sprint(s); got != "[16 secret bytes]" {
		t.Errorf("got %s, want the length", got)
	}
}

// TestBlobPrintsItsLength checks that only %x shows a blob.
func TestBlobPrintsItsLength(t *testing.T) {
	t.Parallel()
	const text = "blob of some text"
	holders := []any{api.Blob(text), kmsapi.EncryptResponse{CiphertextBlob: api.Blob(text)}}
	for _, holder := range holders {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
			checkHidden(t, verb, fmt.Sprintf(verb, holder), text)
		}
	}
	if got := fmt.Sprintf("%x %X %v", api.Blob{0xab, 1}, api.Blob{0xab}, api.Blob{1, 2, 3}); got != "ab01 AB [3 bytes]" {
		t.Errorf("got %s", got)
	}
}

// logged returns what slog writes of v, as text and as JSON.
func logged(v any) string {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", slog.Any("v", v), slog.Group("g", "v", v))
	return b.String()
}

// checkHidden looks for a text in the forms that printers give bytes.
func checkHidden(t *testing.T, how, printed, text string) {
	t.Helper()
	for _, form := range []string{
		text, hex.EncodeToString([]byte(text)), strings.ToUpper(hex.EncodeToString([]byte(text))), "aHVudGVyMiFodW50", "YmxvYiBvZiBzb21l",
		strings.Trim(fmt.Sprint([]byte(text)), "[]"), strings.Trim(fmt.Sprintf("% x", text), "[]"), fmt.Sprintf("%#x", text[0]) + ", ",
	} {
		if strings.Contains(printed, form) {
			t.Errorf("%s prints %s", how, printed)
		}
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_900, time.FixedZone("", 3600))
	if got, want := api.TimeOf(at).Time(), at.UTC().Truncate(time.Microsecond); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	n := api.Names{"A", "B"}
	for i, want := range []string{"", "A", "B", ""} {
		if got := n.Name(uint8(i)); got != want {
			t.Errorf("Name(%d) = %q, want %q", i, got, want)
		}
	}
	for name, want := range map[string]uint8{"A": 1, "B": 2, "a": 0, "": 0, "C": 0} {
		if got := n.Value(name); got != want {
			t.Errorf("Value(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestEncryptionContextIsCanonical(t *testing.T) {
	t.Parallel()
	pairs := map[string]string{"bb": "1", "a": "2", "": "", "ä": "ö", "aa": strings.Repeat("x", 300), "z": "6"}
	c := api.NewEncryptionContext(pairs)
	got := map[string]string{}
	var last []byte
	for k, v := range c.Pairs {
		if last != nil && !cbor.KeyLess(last, k) {
			t.Errorf("%q stands before %q", last, k)
		}
		last, got[string(k)] = append([]byte{}, k...), string(v)
	}
	if !maps.Equal(got, pairs) {
		t.Errorf("got %q, want %q", got, pairs)
	}
	if again, err := api.ParseEncryptionContext(c); err != nil || &again[0] != &c[0] {
		t.Errorf("it does not parse to itself: %v", err)
	}
	if got, want := api.NewEncryptionContext(map[string]string{"b": "1", "a": "\n"}).String(), `"a"="\n" "b"="1"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAbsentContextIsTheEmptyMap(t *testing.T) {
	t.Parallel()
	empty := api.NewEncryptionContext(nil)
	if got := api.EncryptionContext(nil).Canonical(); !bytes.Equal(got, empty) || len(got) != 1 {
		t.Errorf("got %x, want %x", got, empty)
	}
	for k := range api.EncryptionContext(nil).Pairs {
		t.Errorf("it has the key %q", k)
	}
}

func TestParseEncryptionContextRefuses(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"nothing": "", "an array": "80", "null": "f6", "numbers": "a10102", "a value that is bytes": "a1616140", "a key that is bytes": "a1406161",
		"a repeated key": "a2616160616160", "keys out of order": "a2616260616160", "a long key first": "a262616160616260",
		"a long head": "a178016160", "no known length": "bf616160ff", "a value cut off": "a16161", "bytes behind it": "a000",
		"a key that is not UTF-8": "a161ff60", "a value that is not UTF-8": "a1616161ff", "a tag": "d9d9f7a0", "nested": "a16161a0", "too many pairs": "b8ff6060",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := api.ParseEncryptionContext(b); err == nil {
			t.Errorf("%s: accepted as %s", name, c)
		}
	}
}
