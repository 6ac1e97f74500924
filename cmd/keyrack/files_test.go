package main_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	main "github.com/keyrack/keyrack/cmd/keyrack"
)

// TestOneOfTwoWrites: of commands that write to one place at a time one does, and the others say that it is taken.
func TestOneOfTwoWrites(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for round := range 20 {
		path := filepath.Join(folder, strconv.Itoa(round))
		var errs [3]error
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = main.WriteOutput(path, []byte{byte(i)}) })
		}
		all.Wait()
		b, err := os.ReadFile(path)
		if err != nil || len(b) != 1 {
			t.Fatalf("%x, %v", b, err)
		}
		for i, err := range errs {
			if won := i == int(b[0]); won && err != nil || !won && !errors.Is(err, fs.ErrExist) {
				t.Errorf("round %d: %d, and %d says %v", round, b[0], i, err)
			}
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 20 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}
