package keystore_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// TestFormatExample decodes the example of FORMAT.md.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```name\n")
	example, _, ok := strings.Cut(rest, "\n")
	encoded, err := hex.DecodeString(strings.ReplaceAll(example, " ", ""))
	if !ok || err != nil {
		t.Fatalf("FORMAT.md has no example: %q, %v", example, err)
	}
	want := keystore.MakeName(keystore.SpaceAlias, "000000000042", "billing")
	got, err := keystore.ParseName(encoded)
	if got != want || err != nil {
		t.Errorf("the example is %v, %v, want %v", got, err, want)
	}
	if got := want.Append(nil); !bytes.Equal(got, encoded) {
		t.Errorf("%v is encoded as %x, want %x", want, got, encoded)
	}
}

// TestSpaces freezes the numbers: they are on disk.
func TestSpaces(t *testing.T) {
	t.Parallel()
	want := map[keystore.Space]string{
		1: "bucket", 2: "slot", 3: "slot-table",
		16: "key", 17: "material", 18: "alias", 19: "outbox", 20: "account", 21: "principal", 22: "client",
		4: "anchor", 5: "name-key", 6: "domain-key", 7: "retired-root", 8: "token-key",
		23: "account-key", 24: "key-alias", 25: "clock", 26: "slot-digest", 27: "name-owner", 28: "outbox-count", 29: "key-tags", 30: "token-keys", 31: "key-count",
		32: "key-materials",
		33: "due", 34: "tombstone", 35: "key-usage", 36: "usage-position", 37: "key-import",
	}
	for i := range 256 {
		s := keystore.Space(i)
		if s.Known() != (want[s] != "") || s.Known() && s.String() != want[s] {
			t.Errorf("space %d is %q, want %q", i, s, want[s])
		}
		if s.Sealed() != (i >= 16) {
			t.Errorf("space %d: sealed = %v", i, s.Sealed())
		}
	}
	if got := keystore.Space(99).String(); got != "space 99" {
		t.Errorf("an unknown space is %q", got)
	}
}

func TestNameParts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		components []string
		want       string
	}{
		{nil, "alias"},
		{[]string{""}, `alias/""`},
		{[]string{"000000000042", "billing"}, "alias/000000000042/billing"},
		{[]string{"a/b", "c d", `"`}, `alias/"a/b"/"c d"/"\""`},
		{[]string{"\x00\x01", "é"}, "alias/0x0001/0xc3a9"},
	} {
		n := keystore.MakeName(keystore.SpaceAlias, c.components...)
		if got := n.String(); got != c.want {
			t.Errorf("String() = %s, want %s", got, c.want)
		}
		if got := n.Components(); !slices.Equal(got, c.components) {
			t.Errorf("Components() = %q, want %q", got, c.components)
		}
		if n.Space() != keystore.SpaceAlias || !n.Valid() || n.Len() != len(n.Append(nil)) {
			t.Errorf("%v: space %v, valid %v, length %d", n, n.Space(), n.Valid(), n.Len())
		}
	}
}

func TestZeroName(t *testing.T) {
	t.Parallel()
	var zero keystore.Name
	if zero.Valid() || zero.Space() != 0 || zero.Components() != nil || zero.Len() != 0 || zero.String() != "no name" {
		t.Errorf("the zero Name is %v, space %v, %d bytes, valid %v", zero, zero.Space(), zero.Len(), zero.Valid())
	}
	long := strings.Repeat("n", keystore.MaxName)
	for what, n := range map[string]keystore.Name{
		"unknown space":     keystore.MakeName(200, "x"),
		"space 0":           keystore.MakeName(0, "x"),
		"one byte too long": keystore.MakeName(keystore.SpaceKey, long[:keystore.MaxName-2]),
		"length over 2^16":  keystore.MakeName(keystore.SpaceKey, strings.Repeat("n", 1<<16)),
	} {
		if n != zero {
			t.Errorf("%s: made %v", what, n)
		}
	}
	if lo, hi := keystore.Range(keystore.SpaceKey, long); lo != zero || hi != zero {
		t.Errorf("Range of a name too long: %v, %v", lo, hi)
	}
}

// TestComponentsDoNotRunTogether: names that would be equal if components were joined are not.
func TestComponentsDoNotRunTogether(t *testing.T) {
	t.Parallel()
	seen := map[keystore.Name][]string{}
	for _, c := range [][]string{nil, {""}, {"", ""}, {"ab"}, {"a", "b"}, {"ab", ""}, {"", "ab"}, {"a\x00\x01b"}, {"a/b"}} {
		n := keystore.MakeName(keystore.SpaceAlias, c...)
		if other, ok := seen[n]; ok {
			t.Errorf("%q and %q have the same name", c, other)
		}
		seen[n] = c
	}
}

func TestRange(t *testing.T) {
	t.Parallel()
	lo, hi := keystore.Range(keystore.SpaceAlias, "team", "\xff\xff")
	sealedLo, sealedHi := keystore.SealedRange()
	for _, c := range []struct {
		name   keystore.Name
		in     bool
		sealed bool
	}{
		{keystore.MakeName(keystore.SpaceAlias, "team", "\xff\xff"), true, true},
		{keystore.MakeName(keystore.SpaceAlias, "team", "\xff\xff", ""), true, true},
		{keystore.MakeName(keystore.SpaceAlias, "team", "\xff\xff", "\xff\xff\xff"), true, true},
		{keystore.MakeName(keystore.SpaceAlias, "team"), false, true},
		{keystore.MakeName(keystore.SpaceAlias, "team", "\xff\xfe"), false, true},
		{keystore.MakeName(keystore.SpaceAlias, "team", "\xff\xff\x00"), false, true},
		{keystore.MakeName(keystore.SpaceAlias, "teams", "\xff\xff"), false, true},
		{keystore.MakeName(keystore.SpaceClient, "team", "\xff\xff"), false, true},
		{keystore.MakeName(keystore.SpaceSlot, "team", "\xff\xff"), false, false},
		{keystore.MakeName(keystore.SpaceKey), false, true},
	} {
		if in := within(c.name, lo, hi); in != c.in {
			t.Errorf("%v in the range: %v, want %v", c.name, in, c.in)
		}
		if in := within(c.name, sealedLo, sealedHi); in != c.sealed {
			t.Errorf("%v in the sealed range: %v, want %v", c.name, in, c.sealed)
		}
	}
}

func within(n, lo, hi keystore.Name) bool {
	return lo.Compare(n) <= 0 && (hi == keystore.Name{} || n.Compare(hi) < 0)
}

func TestParseNameRefuses(t *testing.T) {
	t.Parallel()
	for what, encoded := range map[string]string{
		"empty":               "",
		"space 0":             "\x00\x00\x01x",
		"unknown space":       "\xc8\x00\x01x",
		"half a length":       "\x12\x00",
		"component cut off":   "\x12\x00\x02x",
		"something left over": "\x12\x00\x01xy",
		"too long":            "\x12" + strings.Repeat("\x00\x00", keystore.MaxName/2),
	} {
		if n, err := keystore.ParseName([]byte(encoded)); !errors.Is(err, keystore.ErrName) || n != (keystore.Name{}) {
			t.Errorf("%s: got %v, %v, want ErrName", what, n, err)
		}
	}
}

// FuzzParseName: what is accepted is canonical, and is what MakeName makes of its parts.
func FuzzParseName(f *testing.F) {
	f.Add(keystore.MakeName(keystore.SpaceAlias, "000000000042", "billing").Append(nil))
	f.Add(keystore.MakeName(keystore.SpaceSlotTable).Append(nil))
	f.Add([]byte("\x12\x00\x02x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := keystore.ParseName(b)
		if err != nil {
			return
		}
		if !bytes.Equal(n.Append(nil), b) || n != keystore.MakeName(n.Space(), n.Components()...) || !n.Valid() {
			t.Errorf("%x is accepted as %v", b, n)
		}
	})
}
