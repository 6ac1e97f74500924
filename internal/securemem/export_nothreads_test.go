//go:build !(goexperiment.runtimesecret && linux && amd64 && cgo)

package securemem

// Threads returns how many threads a process with this many processors has after its first Do, at least.
func Threads(int) int { return 1 }
