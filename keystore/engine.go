package keystore

import "iter"

// Engine is the medium under a [Local]: it keeps committed rows and shows snapshots of them.
// Snapshot is called concurrently with everything; Commit by one goroutine at a time; Close once,
// when no Snapshot is open and no Commit runs.
type Engine interface {
	// Snapshot returns the newest committed state, which later commits do not change. It must be
	// closed, soon.
	Snapshot() (Snapshot, error)

	// Commit applies all rows (one a name, in the order of names, and never none) as revision r, or
	// nothing. When it returns nil they are durable, and every later Snapshot shows them and r. The
	// engine keeps no reference to the slice, but may keep the values, which nobody changes. After
	// an error that leaves open whether the rows are durable, the engine refuses all that follows.
	Commit(r Revision, rows []Row) error

	// Close releases the medium.
	Close() error
}

// Snapshot is a state of an [Engine], for one goroutine. Get returns ErrNotFound where there is no
// row; values are valid until Close. Scan's bounds are those of [Reader.Scan].
type Snapshot interface {
	Get(Name) ([]byte, error)
	Scan(lo, hi Name) iter.Seq2[Entry, error]
	Revision() Revision
	Close()
}

// Row is a row to be written, or to be Deleted.
type Row struct {
	Name    Name
	Value   []byte
	Deleted bool
}
