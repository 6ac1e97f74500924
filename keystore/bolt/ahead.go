package bolt

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// window is how many bytes the kernel is asked for at a time.
const window = 1 << 20

// readAhead asks the kernel for a whole file in the order in which it lies on the medium, in a
// goroutine: the walk over the tree would ask for one page after the other, all over it. What is in
// memory already costs next to nothing. The caller calls stop before it closes f.
func readAhead(f *os.File, size int64) (stop func()) {
	if !readsAhead(size) {
		return func() {}
	}
	var stopped atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for at := int64(0); at < size && !stopped.Load(); at += window {
			if unix.Fadvise(int(f.Fd()), at, window, unix.FADV_WILLNEED) != nil { // then pages come when they are read
				return
			}
		}
	})
	return func() { stopped.Store(true); done.Wait() }
}

// readsAhead reports whether a file of this size is worth it, and takes at most half of the machine's
// memory: of a larger one, pages would be gone again before the walk comes to them.
func readsAhead(size int64) bool {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return false
	}
	memory := uint64(info.Totalram) * uint64(info.Unit)
	return size > window && uint64(size) <= memory/2
}
