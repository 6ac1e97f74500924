package audit

import "io"

// Mode says what an existing file is opened for.
type Mode uint8

// Modes of [Files.Open].
const (
	ReadOnly Mode = iota
	ReadWrite
)

// Files is the folder of a log. Names are those of FORMAT.md: lower-case letters, digits and
// dots. Its methods and those of its files are safe for concurrent use. [Dir] is the operating
// system's; tests have one that loses what was not synced.
type Files interface {
	// List returns the names of all files, in any order.
	List() ([]string, error)
	// Create makes a file of size zero bytes, whose blocks are allocated so that writing within
	// it cannot run out of space. A name that exists is an error (fs.ErrExist), and no file is
	// left behind on error. Neither contents nor name are durable before File.Sync and SyncDir.
	Create(name string, size int64) (File, error)
	// Open opens an existing file; fs.ErrNotExist if there is none.
	Open(name string, mode Mode) (File, error)
	// Rename gives the file another name, replacing what bore it, in one step: after a crash
	// one or the other is there, whole.
	Rename(from, to string) error
	// Remove takes a file away.
	Remove(name string) error
	// SyncDir makes all Creates, Renames and Removes so far durable.
	SyncDir() error
}

// File is one file of a log. After [Files.Create] its size changes by Truncate alone.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Truncate cuts the file to size bytes, which it is not shorter than. A crash leaves it whole
	// or cut, and what stands before the cut as it was.
	Truncate(size int64) error
	// Sync makes all writes so far durable. After an error nothing may be assumed about them.
	Sync() error
	// Size returns the file's size in bytes.
	Size() (int64, error)
	io.Closer
}

// locker is implemented by Files that can keep a second process out. The function returned
// gives the lock back.
type locker interface {
	Lock() (unlock func() error, err error)
}
