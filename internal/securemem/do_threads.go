//go:build goexperiment.runtimesecret && linux && amd64 && cgo

package securemem

import (
	"crypto/rand"
	"runtime"
	"runtime/secret"
	"sync"
)

// spareThreads is how many threads a process has beyond one for each processor, from its first Do on.
//
// With Go 1.26 (1.26.8 is the last that was looked at) a goroutine inside secret.Do must start no thread in a program with cgo: on
// amd64 runtime.asmcgocall erases registers that it needs afterwards, and the process ends by SIGSEGV without a word
// (go.dev/issue/78999). The runtime starts a thread on the goroutine's own stack when it wakes a processor and no thread is idle. It wakes one when f sets
// a timer that is due before all others, as deadlines do and the first use of crypto/rand; and when an allocation of f ends a cycle of
// the garbage collector for which others wait, which no f can help. The runtime keeps idle threads, so with these there is
// one, unless as many block in the kernel at a time.
const spareThreads = 32

var spare sync.Once

func do(f func()) {
	if secret.Enabled() { // the outer call erases all of it, once
		f()
		return
	}
	spare.Do(makeThreads)
	secret.Do(f)
}

// makeThreads returns when the process has the threads, and has used crypto/rand.
func makeThreads() {
	n := runtime.GOMAXPROCS(0) + spareThreads
	var met, gone sync.WaitGroup
	met.Add(n)
	for range n {
		gone.Go(func() {
			runtime.LockOSThread() // until all have one
			defer runtime.UnlockOSThread()
			met.Done()
			met.Wait()
		})
	}
	gone.Wait()
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
}
