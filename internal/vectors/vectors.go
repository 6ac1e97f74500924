// Package vectors reads known answers for tests: those of NIST's validation programs from Debian's package
// python3-cryptography-vectors, which make setup installs, those of Wycheproof from its Go module, and those of NIST's
// ACVP server, which circl carries. Read NIST, Wycheproof and JSON first. It computes nothing; a file that is missing,
// or that has not what is asked for, ends the test.
package vectors

import (
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// debian is where the package has its files.
const debian = "/usr/lib/python3/dist-packages/cryptography_vectors"

// Case is a block of lines "name = value" between blank lines, with the sections "[name = value]" before it. A line or a
// section without = is a name whose value is empty.
type Case map[string]string

// Text returns a file of Debian's package: path is below cryptography_vectors.
func Text(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(debian, path))
	if err != nil {
		tb.Fatalf("%v (make setup installs python3-cryptography-vectors)", err)
	}
	return string(text)
}

// NIST returns the cases of a file of Debian's package in the format of NIST's CAVS. A section without = holds until the
// next section, one with = until another one has its name.
func NIST(tb testing.TB, path string) (all []Case) {
	tb.Helper()
	sections, block, begun := Case{}, Case{}, false
	flush := func() {
		if len(block) == 0 {
			return
		}
		for name, value := range sections {
			block[name] = value
		}
		all, block, begun = append(all, block), Case{}, true
	}
	for line := range strings.Lines(Text(tb, path)) {
		switch line = strings.TrimSpace(line); {
		case line == "":
			flush()
		case line[0] == '[':
			flush()
			if begun {
				maps.DeleteFunc(sections, func(_, value string) bool { return value == "" })
			}
			sections.add(strings.Trim(line, "[]"))
			begun = false
		case line[0] != '#':
			block.add(line)
		}
	}
	flush()
	if len(all) == 0 {
		tb.Fatalf("%s has no cases", path)
	}
	return all
}

func (c Case) add(line string) {
	name, value, _ := strings.Cut(line, "=")
	c[strings.TrimSpace(name)] = strings.TrimSpace(value)
}

// Has reports whether the case, or a section before it, has a name.
func (c Case) Has(name string) bool {
	_, ok := c[name]
	return ok
}

// Bytes returns the value of a name in hexadecimal; an odd digit stands for itself.
func (c Case) Bytes(tb testing.TB, name string) []byte {
	tb.Helper()
	if !c.Has(name) {
		tb.Fatalf("no %s in %v", name, c)
	}
	return Hex(tb, c[name])
}

// Hex returns what hexadecimal digits mean; an odd one stands for itself.
func Hex(tb testing.TB, digits string) []byte {
	tb.Helper()
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Octets are bytes in hexadecimal, for a member of what JSON fills.
type Octets []byte

// UnmarshalText is part of encoding.TextUnmarshaler.
func (o *Octets) UnmarshalText(text []byte) error {
	*o = make([]byte, hex.DecodedLen(len(text)))
	_, err := hex.Decode(*o, text)
	return err
}

// JSON fills v from a file, path.json.gz, that a module of go.mod carries.
func JSON(tb testing.TB, module, path string, v any) {
	tb.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		tb.Fatalf("go list -m %s: %v", module, err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), path+".json.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		tb.Fatal(err)
	}
}
