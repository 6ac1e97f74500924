package securemem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapGuarded maps size bytes, a multiple of the page size, between two pages that fault on any touch. It returns the
// whole mapping, for unmap, and the part that may be used.
func mapGuarded(size int) (mapping, pages []byte, err error) {
	guard := os.Getpagesize()
	mapping, err = unix.Mmap(-1, 0, size+2*guard, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, err
	}
	pages = mapping[guard : guard+size : guard+size]
	if err := unix.Mprotect(pages, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, nil, errors.Join(err, unmap(mapping))
	}
	return mapping, pages, nil
}

func unmap(mapping []byte) error { return unix.Munmap(mapping) }

// lockPages keeps pages in memory, mlock(2): they are never written to swap.
func lockPages(pages []byte) error {
	if err := unix.Mlock(pages); err != nil {
		return fmt.Errorf("mlock %d bytes: %w", len(pages), err)
	}
	return nil
}

// hidePages keeps pages out of core dumps and out of children that a C library forks, madvise(2).
func hidePages(pages []byte) error {
	if err := unix.Madvise(pages, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("madvise dontdump: %w", err)
	}
	if err := unix.Madvise(pages, unix.MADV_DONTFORK); err != nil {
		return fmt.Errorf("madvise dontfork: %w", err)
	}
	return nil
}

// systemLimit returns the soft RLIMIT_MEMLOCK in bytes, at most maxArena. Every other user of locked memory in the
// process shares that limit; the kernel then refuses before the arena does, and New says so.
func systemLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &r); err != nil {
		return maxArena
	}
	return int(min(r.Cur, maxArena))
}

// Harden makes the process undumpable (PR_SET_DUMPABLE 0: no core, no ptrace or /proc/PID/mem by others of the same
// user) and sets its core size limit to zero. It acts on the whole process and cannot be undone. `serve` calls it before
// any secret exists; an error says which step the kernel refused.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("securemem: set undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("securemem: set core limit: %w", err)
	}
	return nil
}

// Pages returns n zero bytes off the Go heap, which take memory only where they are written to, and are kept out of
// core dumps. They are not locked: for what is sealed. FreePages
// gives them back.
func Pages(n int) ([]byte, error) {
	pages, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("securemem: map %d bytes: %w", n, err)
	}
	if err := hidePages(pages); err != nil {
		return nil, errors.Join(err, unmap(pages))
	}
	return pages, nil
}

// FreePages gives back what Pages returned: no byte of it may be touched any more.
func FreePages(pages []byte) error { return unmap(pages) }
