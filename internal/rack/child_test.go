package rack_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// TestFolderWhileAChildStarts: a program that is being started has copies of all open files until it runs. The folder is free
// all the same as soon as the appliance has ended.
func TestFolderWhileAChildStarts(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	copies := 0
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); target == filepath.Join(r.Dir, "lock") {
			var fd int
			if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
				t.Fatal(err)
			}
			child, err := unix.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(child)
			copies++
		}
	}
	r.Stop()
	_, err = rack.Create(t.Context(), rack.Config{Dir: r.Dir, Logger: racktest.Logger(t), AllowUnlockedMemory: true})
	if copies == 0 || !errors.Is(err, rack.ErrExists) {
		t.Errorf("with %d copies of the lock: %v", copies, err)
	}
}
