package bolt_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// resident returns how many bytes of a file's mapping are in the memory of this process.
func resident(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open("/proc/self/smaps") // proc(5)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours, mappings, all := false, 0, 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		var kib int
		switch {
		case strings.HasSuffix(line, "kB") && ours:
			if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kib); n == 1 {
				all += kib << 10
			}
		case strings.Contains(strings.Fields(line)[0], "-"): // the first line of a mapping
			if ours = strings.HasSuffix(line, path); ours {
				mappings++
			}
		}
	}
	if mappings != 1 {
		t.Fatalf("%d mappings of %s", mappings, path)
	}
	return all
}

// TestWritingAllOverTakesNoMemory writes rows in all parts of a store: its file does not become part of the process, and
// the rows are there.
func TestWritingAllOverTakesNoMemory(t *testing.T) {
	t.Parallel()
	path, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(path, "store.db")
	closeStore(t, create(t, path))
	s := open(t, path) // under its own name
	defer func() { closeStore(t, s) }()
	const rows = 20_000
	values := make([]string, keystore.MaxRows)
	for i := range values {
		values[i] = strings.Repeat("v", 1000)
	}
	for i := 0; i < rows; i += len(values) {
		mustPut(t, s, i, values...)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	least := int(info.Size())
	for i := range 2 * 256 {
		mustPut(t, s, i*7919%rows, fmt.Sprint(i))
		if i > 256 && i%8 == 0 {
			least = min(least, resident(t, path))
		}
	}
	if int64(least) > info.Size()/4 {
		t.Errorf("%d of %d bytes are never out of memory", least, info.Size())
	}
	for i := range 2 * 256 {
		if got, err := get(s, i*7919%rows); err != nil || got != fmt.Sprint(i) {
			t.Fatalf("row %d: got %.20q, %v", i, got, err)
		}
	}
}
