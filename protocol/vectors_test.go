package protocol_test

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/api/table"
)

// update rewrites what is printed from the field tables (keyrack.cddl, the
// tables of PROTOCOL.md) and appends vectors that the files do not have yet.
// A vector that stands in a file is never made again.
var update = flag.Bool("update", false, "rewrite generated text; add missing vectors")

const vectorDir = "testdata/vectors"

// vector is one block of a vector file: lines "name: value", the first of them
// its own name. PROTOCOL.md, "Test vectors", says what the lines mean.
type vector struct {
	lines [][2]string
}

func (v *vector) name() string { return v.text("vector") }

// has reports whether v has a line.
func (v *vector) has(name string) bool {
	for _, l := range v.lines {
		if l[0] == name {
			return true
		}
	}
	return false
}

// text returns the value of a line, "" if v has none.
func (v *vector) text(name string) string {
	for _, l := range v.lines {
		if l[0] == name {
			return l[1]
		}
	}
	return ""
}

// bytes returns the value of a line of hex digits, which v must have.
func (v *vector) bytes(t *testing.T, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.text(name))
	if err != nil || !v.has(name) {
		t.Fatalf("line %s is missing or not hex: %v", name, err)
	}
	return b
}

// number returns the value of a decimal line, which v must have.
func (v *vector) number(t *testing.T, name string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(v.text(name), 10, 64)
	if err != nil {
		t.Fatalf("line %s: %v", name, err)
	}
	return n
}

// with appends a line: bytes become hex digits.
func (v vector) with(name string, value any) vector {
	text := ""
	switch value := value.(type) {
	case []byte:
		text = hex.EncodeToString(value)
	default:
		text = fmt.Sprint(value)
	}
	v.lines = append(v.lines[:len(v.lines):len(v.lines)], [2]string{name, text})
	return v
}

func (v *vector) String() string {
	var b strings.Builder
	for _, l := range v.lines {
		b.WriteString(strings.TrimSuffix(l[0]+": "+l[1], " ") + "\n")
	}
	return b.String()
}

// parseVectors reads the blocks of a file; comments begin with #.
func parseVectors(text []byte) (all []vector, err error) {
	for block := range strings.SplitSeq(string(text), "\n\n") {
		var v vector
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "#") || line == "" {
				continue
			}
			name, value, ok := strings.Cut(line, ":")
			if !ok || v.has(name) || len(v.lines) == 0 && name != "vector" {
				return nil, fmt.Errorf("line %q is not name: value, comes twice, or stands before its vector's name", line)
			}
			v.lines = append(v.lines, [2]string{name, strings.TrimPrefix(value, " ")})
		}
		if len(v.lines) > 0 {
			all = append(all, v)
		}
	}
	return all, nil
}

// vectorFiles says how the vectors of each file are made and checked.
var vectorFiles = []struct {
	file  string
	about string // the file's head
	make  func(t *testing.T, m *maker)
	check func(t *testing.T, v *vector)
}{
	{"kdf.txt", "The key derivation function, for every label. Lines but label and bits are hex.", makeKDF, checkKDF},
	{"contexts.txt", "Encryption contexts: pairs as a JSON object, and the bytes a ciphertext is bound to.", makeContexts, checkContext},
	{"messages.txt", "Ciphertexts with everything they are computed from, and what decrypting them answers.", makeMessages, checkMessage},
	{"frames.txt", "Requests as bytes on the wire: what is a frame and an envelope, before any operation looks at it.", makeFrames, checkFrame},
	{"requests.txt", "Whole requests, frame by frame, with what they say in CBOR diagnostic notation.", makeRequests, checkRequest},
	{"replies.txt", "Whole replies and hellos, and what a client must take them for.", makeReplies, checkReply},
}

// readVectors reads one file below dir. A file that does not exist has none.
func readVectors(t *testing.T, dir, file string) []vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	all, err := parseVectors(text)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all
}

// TestVectors holds our code to the vectors of the repository, which were made
// once, and to ones made now. Both must have the same names, so that none is lost.
func TestVectors(t *testing.T) {
	t.Parallel()
	fresh := t.TempDir()
	makeVectors(t, fresh)
	if *update {
		makeVectors(t, vectorDir)
	}
	for _, f := range vectorFiles {
		kept, made := readVectors(t, vectorDir, f.file), readVectors(t, fresh, f.file)
		if got, want := vectorNames(kept), vectorNames(made); got != want {
			t.Errorf("%s: the file has the vectors\n%s\nwant\n%s\nrun with -update to add what is missing", f.file, got, want)
		}
		for _, v := range append(kept, made...) {
			t.Run(f.file+"/"+v.name(), func(t *testing.T) {
				t.Parallel()
				f.check(t, &v)
			})
		}
	}
}

// Whoever adds an operation adds a request and a reply for clients to test against.
func TestEveryOperationHasVectors(t *testing.T) {
	t.Parallel()
	for _, op := range table.All() {
		for file, line := range map[string]string{"requests.txt": "op", "replies.txt": "of"} {
			if !slices.ContainsFunc(readVectors(t, vectorDir, file), func(v vector) bool {
				return v.text(line) == strconv.Itoa(int(op.Number)) && v.text("expect") == "ok"
			}) {
				t.Errorf("%s has no good vector of %s: add one to the table that makes the file, and run with -update", file, op)
			}
		}
	}
}

// vectorNames lists names in one order: files grow at their end, tables anywhere.
func vectorNames(all []vector) string {
	var names []string
	for _, v := range all {
		names = append(names, v.name())
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// maker gathers the vectors of one file.
type maker struct {
	kept  map[string]vector // of all files, by file and name: these are not made again
	file  string
	added []vector
}

// add adds a vector, unless the file has one of its name, and returns that which stays.
func (m *maker) add(v vector) vector {
	key := m.file + "/" + v.name()
	if _, known := m.kept[key]; !known {
		m.kept[key] = v
		m.added = append(m.added, v)
	}
	return m.kept[key]
}

func named(name string) vector { return vector{}.with("vector", name) }

// makeVectors appends what the files of dir do not have.
func makeVectors(t *testing.T, dir string) {
	t.Helper()
	m := &maker{kept: map[string]vector{}}
	for _, f := range vectorFiles {
		for _, v := range readVectors(t, dir, f.file) {
			m.kept[f.file+"/"+v.name()] = v
		}
	}
	for _, f := range vectorFiles {
		m.file, m.added = f.file, nil
		f.make(t, m)
		if err := appendVectors(filepath.Join(dir, f.file), f.about, m.added); err != nil {
			t.Fatal(err)
		}
	}
}

func appendVectors(path, about string, added []vector) error {
	if len(added) == 0 {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if len(text) == 0 {
		text = fmt.Appendf(nil, "# %s\n# PROTOCOL.md, \"Test vectors\", says what the lines mean. Vectors are never changed, only added.\n", about)
	}
	for i := range added {
		text = append(text, "\n"+added[i].String()...)
	}
	return os.WriteFile(path, text, 0o644)
}

// expectOutcome compares what happened with the vector's last line.
func expectOutcome(t *testing.T, v *vector, got string) {
	t.Helper()
	if want := v.text("expect"); got != want {
		t.Errorf("got %s, want %s", got, cmp.Or(want, "an expect line"))
	}
}

// expectLine compares bytes with a line.
func expectLine(t *testing.T, v *vector, name string, got []byte) {
	t.Helper()
	if want := v.bytes(t, name); !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", name, got, want)
	}
}
