package protocol_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// python runs testdata/check.py, which computes the vectors from PROTOCOL.md
// alone, and returns what it prints.
func python(t *testing.T, args ...string) (string, error) {
	t.Helper()
	for _, need := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Fatalf("%s is not installed; `make setup` installs it", need)
		}
	}
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"testdata/check.py"}, args...)...).CombinedOutput()
	return string(out), err
}

// Vectors that were made now and those of the repository are what they say by a
// second implementation, which notices when one digit of any line is turned.
func TestVectorsByAnotherImplementation(t *testing.T) {
	t.Parallel()
	fresh := t.TempDir()
	makeVectors(t, fresh)
	if out, err := python(t, "--self-test", vectorDir, fresh); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// The script itself ends with an error if a digit of a file is another.
func TestAnotherImplementationSeesATurnedDigit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(vectorDir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "messages.txt")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte("\nprk: ")) + len("\nprk: ")
	text[at] = map[bool]byte{true: '1', false: '0'}[text[at] == '0']
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := python(t, dir); err == nil || !strings.Contains(out, "messages.txt: empty-context: prk: computed") {
		t.Errorf("%v: %s", err, out)
	}
}
