package sealed_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// exampleName is the row of the example in FORMAT.md.
var exampleName = keystore.MakeName(keystore.SpaceAlias, "000000000042", "billing")

// example returns what FORMAT.md says that the medium holds.
func example(t testing.TB) map[keystore.Name][]byte {
	t.Helper()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```rows\n")
	lines, _, _ := strings.Cut(rest, "```")
	all := make(map[keystore.Name][]byte)
	for line := range strings.Lines(lines) {
		encoded, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := keystore.ParseName(unhex(t, encoded))
		if err != nil {
			t.Fatalf("%q: %v", encoded, err)
		}
		all[n] = unhex(t, value)
	}
	return all
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exampleStore is a store below that holds the example.
func exampleStore(t testing.TB) keystore.Memory {
	t.Helper()
	below := keystore.NewMemory()
	for n, value := range example(t) {
		put(t, below, n, value)
	}
	return below
}

func TestFormatExample(t *testing.T) {
	t.Parallel()
	s := open(t, exampleStore(t), theKeys)
	got, err := get(s, false, exampleName)
	if string(got) != "a row" || err != nil {
		t.Errorf("the example is %q, %v, want %q", got, err, "a row")
	}
	if state := s.State(); state.Generation != 2 || state.Buckets != 1 || state.Rows != 1 {
		t.Errorf("the example is in state %+v", state)
	}
}

// kdf is the KDF of SP 800-108r1 for 256 bits, in the words of the standard.
func kdf(key []byte, label string, context []byte) []byte {
	return mac(key, []byte{0, 0, 0, 1}, []byte(label), []byte{0}, context, []byte{0, 0, 1, 0})
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// TestFormulas computes what FORMAT.md defines, without this package, and compares the example.
func TestFormulas(t *testing.T) {
	t.Parallel()
	domain := theKeys[1]
	names := kdf(domain, "n1", theAppliance[:])
	h := mac(names, exampleName.Append(nil))
	bucketName := keystore.MakeName(keystore.SpaceBucket, string(h[:2]))
	stored := example(t)
	row, record := stored[bucketName], stored[exampleName]
	if len(stored) != 4 || row == nil || record == nil {
		t.Fatalf("the example has %d rows; bucket %x is %x", len(stored), h[:2], row)
	}
	bucket := binary.BigEndian.Uint16(h)
	open := func(n keystore.Name, bucket uint16, row []byte) []byte {
		place := seal.Place{Appliance: theAppliance, Bucket: bucket, Number: 1}
		value, err := seal.OpenRecord(nil, kdf(domain, "w1", theAppliance[:]), place, n.Append(nil), row)
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		return value
	}
	if got := open(nameKeyName, 0, stored[nameKeyName]); !bytes.Equal(got, names) {
		t.Errorf("the name key is %x, want %x", got, names)
	}
	value := open(bucketName, bucket, row)
	entry := slices.Concat(h[2:18], record[29:45], record[len(record)-16:])
	if len(value) != 36+48 || !bytes.Equal(value[36:], entry) {
		t.Errorf("the bucket row holds %x, want the entry %x", value, entry)
	}
	state := kdf(domain, "s1", theAppliance[:])
	digests := make([]byte, 32<<16)
	copy(digests[32*int(bucket):], mac(state, h[:2], row))
	anchor := slices.Concat(theNode[:], make([]byte, 8), []byte{0, 0, 0, 0, 0, 0, 0, 2})
	anchor = append(anchor, mac(state, theAppliance[:], anchor, treeRoot(digests))...)
	if !bytes.Equal(stored[anchorName], anchor) {
		t.Errorf("the anchor row is %x, want %x", stored[anchorName], anchor)
	}
}

// treeRoot is the tree of FORMAT.md, level by level.
func treeRoot(level []byte) []byte {
	zero := make([]byte, 16*32)
	for len(level) > 32 {
		var next []byte
		for children := range slices.Chunk(level, 16*32) {
			node := sha256.Sum256(children)
			if bytes.Equal(children, zero) {
				node = [32]byte{}
			}
			next = append(next, node[:]...)
		}
		level = next
	}
	return level
}

// TestTreeOfMany compares the tree that is kept with the definition, with many buckets in use and
// some emptied again.
func TestTreeOfMany(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	for i := range 700 {
		put(t, s, name(i), []byte("v"))
	}
	for i := range 300 {
		remove(t, s, name(2*i))
	}
	state := kdf(theKeys[1], "s1", theAppliance[:])
	digests := make([]byte, 32<<16)
	all := rows(t, below)
	for _, n := range bucketNames(all) {
		bucket := []byte(n.Components()[0])
		copy(digests[32*int(binary.BigEndian.Uint16(bucket)):], mac(state, bucket, all[n]))
	}
	head := all[anchorName][:32]
	if want := mac(state, theAppliance[:], head, treeRoot(digests)); !bytes.Equal(all[anchorName][32:], want) {
		t.Errorf("the state root is %x, want %x", all[anchorName][32:], want)
	}
	if root := s.State().Root; !bytes.Equal(root[:], all[anchorName][32:]) {
		t.Errorf("the state is said to have root %x", root)
	}
}
