package iam_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/iam"
)

var update = flag.Bool("update", false, "rewrite the example in FORMAT.md")

// exampleKey is the key hash of FORMAT.md.
func exampleKey() (h identity.KeyHash) {
	for i := range h {
		h[i] = byte(i)
	}
	return h
}

// TestFormatExample compares the rows of FORMAT.md with those that are written,
// and reads them.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	const begin, end = "```rows\n", "```\n"
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(doc), begin)
	example, tail, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatal("FORMAT.md has no block of rows")
	}
	store := keystore.NewMemory()
	at := api.TimeOf(time.Date(2027, 1, 31, 12, 0, 0, 123_456_000, time.UTC))
	if err := iam.Write(t.Context(), store, tenant, "web", exampleKey(), at); err != nil {
		t.Fatal(err)
	}
	if got := rowsOf(t, store); got != example {
		if *update {
			err = os.WriteFile("FORMAT.md", []byte(head+begin+got+end+tail), 0o644)
		}
		t.Errorf("the rows are\n%swant\n%srun with -update, %v", got, example, err)
	}
	copied := keystore.NewMemory()
	for line := range strings.Lines(example) {
		var name, value []byte
		if _, err := fmt.Sscanf(line, "%x %x", &name, &value); err != nil {
			t.Fatal(err)
		}
		n, err := keystore.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		put(t, copied, n, string(value))
	}
	n := mustOpen(t, copied)
	problems(t, n, 0)
	if !n.lets(exampleKey()) {
		t.Error("the client of the example is kept out")
	}
}

// rowsOf returns every row of a store, a line each.
func rowsOf(t *testing.T, store keystore.Store) string {
	t.Helper()
	var b strings.Builder
	err := store.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.SealedRange()) {
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s %s\n", hex.EncodeToString(e.Name.Append(nil)), hex.EncodeToString(e.Value))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
