// Package securemem keeps raw secrets out of the Go heap: in pages that are locked in memory (mlock), left out of core
// dumps (MADV_DONTDUMP), absent in forked children (MADV_DONTFORK) and fenced by guard pages, and that are wiped when
// a secret is freed. Read Buffer, Do and Status first.
//
// The garbage collector never sees these pages, so a secret in them is copied nowhere by the runtime. What the standard
// library expands from a secret (AES key schedules, HMAC states) does live on the heap: make such things inside Do.
//
// The package does not hide secrets from root, from a debugger, or from code of this process that holds the slice.
package securemem

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
)

var (
	// ErrNotLocked is wrapped by New and From when the kernel refuses to lock pages or to keep them out of dumps and
	// AllowUnlocked was not called.
	ErrNotLocked = errors.New("securemem: memory cannot be locked")

	// ErrFull is wrapped by New and From when the arena's limit is reached; freeing buffers makes room again.
	ErrFull = errors.New("securemem: arena is full")

	// ErrSize is returned by New and From for a length below 1.
	ErrSize = errors.New("securemem: a buffer holds at least one byte")
)

// std is the arena of the process: RLIMIT_MEMLOCK is one for all, so the bound must be too.
var std = newArena(systemLimit(), lockPages, hidePages)

// Buffer is one secret in locked memory. It is made by New or From and must be freed: memory off the heap is not
// collected. All methods are safe for concurrent use, but the slice of Bytes must not be touched after Free, when its
// memory may already hold another secret: whoever shares a Buffer makes sure that its users are done before it is freed.
type Buffer struct {
	mem   []byte
	home  *slab
	slot  int
	freed atomic.Bool
}

// New returns a zeroed buffer of n bytes, n at least 1. It returns ErrSize, or an error that wraps ErrFull or ErrNotLocked.
func New(n int) (*Buffer, error) { return std.new(n) }

// Taken returns how many bytes of locked memory a buffer of n bytes takes, n at least 1, beside others of its size.
func Taken(n int) int {
	if n > largest {
		return roundUp(n, os.Getpagesize())
	}
	return smallest << classOf(n)
}

// From returns a buffer that holds a copy of b. The caller still owns b and wipes it. Errors are those of New.
func From(b []byte) (*Buffer, error) {
	buf, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(buf.mem, b)
	return buf, nil
}

// Bytes returns the secret itself, not a copy; its capacity equals its length. It returns nil after Free.
func (b *Buffer) Bytes() []byte {
	if b.freed.Load() {
		return nil
	}
	return b.mem
}

// Len returns the length in bytes given to New, also after Free.
func (b *Buffer) Len() int { return len(b.mem) }

// Free wipes the buffer and gives its memory back. Only the first of any number of calls, concurrent ones included,
// has an effect. A nil Buffer may be freed.
func (b *Buffer) Free() {
	if b != nil && b.freed.CompareAndSwap(false, true) {
		b.home.arena.release(b)
	}
}

// String returns a constant: a secret never reaches a log or an error.
func (b *Buffer) String() string { return "[secret]" }

// Format prints what String returns for every verb; without it %d would print the bytes.
func (b *Buffer) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, b.String()) }

// LogValue returns the buffer's length alone.
func (b *Buffer) LogValue() slog.Value { return slog.GroupValue(slog.Int("bytes", b.Len())) }

// Wipe sets every byte of b to zero. It is never inlined: the compiler may drop a store to a local array that nothing
// reads afterwards, but not a call.
//
//go:noinline
func Wipe(b []byte) { clear(b) }

// State says how well the process guards its secrets.
type State struct {
	Locked   bool   // every page of the arena is locked in memory
	DontDump bool   // every page of the arena is left out of core dumps
	Secret   bool   // Do erases: built with GOEXPERIMENT=runtimesecret on a platform that has it
	InUse    int    // bytes of the pages that the arena holds now, counted against Limit
	Limit    int    // bytes that the arena may hold: RLIMIT_MEMLOCK when the process started, at most 64 MiB
	Reason   string // why Locked or DontDump is false, else empty
}

// Status returns the present state of the arena; before the first New it asks the kernel for one slab. It is safe for
// concurrent use.
func Status() State { return std.status() }

// AllowUnlocked says whether New may go on with ordinary pages when the kernel refuses to lock them, as `dev` does.
// Status reports such pages. The default is false.
func AllowUnlocked(allow bool) { std.allowUnlocked(allow) }

// Do runs f and then erases what it left in registers, on its stack and, once the collector finds it dead, on the heap,
// when the program was built with GOEXPERIMENT=runtimesecret for linux/amd64 or linux/arm64; otherwise it only runs f.
// Goroutines started by f and global variables are not covered. Calls may nest: then
// the outermost erases. A panic of f passes through. Package runtime/secret is the source; a call costs about 70 ns and the
// clearing of the whole stack that the goroutine has left, so several steps that follow each other are better done in one.
//
// f computes: it calls no C, waits for nothing, sets no deadline or other timer and locks no thread, or the process may die of
// it, as spareThreads tells; and it is short, for a goroutine inside is stopped at calls of functions only.
func Do(f func()) { do(f) }
