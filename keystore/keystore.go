// Package keystore is the record store: small rows under typed names, point reads and writes in
// serializable transactions, ordered reads of one snapshot, and a feed of every change.
//
// Read [Store] first, then [Name] and [Local], the group commit, limits and feed that every engine
// inside this process shares. [Memory] is the smallest engine. keystore/sealed puts authenticated
// encryption over any Store, and keystore/storetest is the contract as a test suite that each of
// them runs.
//
// The package knows no key, no account and no cryptography: values are bytes.
//
// # Filling a cache
//
// A cache over a Store follows it with one Watch and drops what changed. A reader that misses opens
// a View, takes the value and the snapshot's Revision r, and puts the value into the cache, but by
// then a later change of the row may have been delivered, and the value would stay in the cache for
// ever. So a fill is announced before its View begins; the watcher notes at each announced fill of
// a changed name the revision of the change; and a fill is dropped when the revision noted is
// greater than r:
//
//	announce(name) ; View: value, r ; under the cache's lock: if noted(name) > r { drop } else { insert }
//
// storetest holds such a cache against each engine.
package keystore

import (
	"context"
	"errors"
	"iter"
)

// Limits of one transaction and of its rows. The first engine across a network (etcd) takes 120
// operations and 1.5 MiB at once; what a sealing layer adds must fit in there too ([Widen]).
const (
	// MaxRows is how many different rows an Update may read or write.
	MaxRows = 40
	// MaxValue is the largest value in bytes.
	MaxValue = 128 << 10
	// MaxBytes is how many bytes of names and values an Update may write.
	MaxBytes = 1 << 20
)

// Errors of a Store, compared with errors.Is. Beside them methods return the context's error and
// what an engine says of its medium.
var (
	// ErrNotFound says that there is no row of that name.
	ErrNotFound = errors.New("keystore: not found")
	// ErrName says that a Name names no row, or a row that this layer does not keep.
	ErrName = errors.New("keystore: name is not valid here")
	// ErrTooManyRows says that a transaction touched more rows than it may.
	ErrTooManyRows = errors.New("keystore: too many rows in one transaction")
	// ErrTooLarge says that a value, or all that a transaction writes, is larger than it may be.
	ErrTooLarge = errors.New("keystore: too large")
	// ErrCompacted says that the changes after a revision are no longer known, or that the store
	// never had that revision: read everything again and watch from there.
	ErrCompacted = errors.New("keystore: changes since that revision are not known")
	// ErrClosed says that the store is closed, or a transaction's function has returned.
	ErrClosed = errors.New("keystore: closed")
	// ErrDamaged says that a row or a file is not what was written: its medium is failing, or
	// somebody edited it. An engine, or a layer over it, wraps it and names what is damaged; the
	// rest of the store may be well.
	ErrDamaged = errors.New("keystore: row or file is not what was written")
	// ErrFull says that the medium has no space left for what a transaction writes. Nothing was
	// written; reads go on. An engine wraps it, and its system's error beside it.
	ErrFull = errors.New("keystore: no space left")
	// ErrLocked says that the key under which rows are sealed is not in memory. What hands that key
	// out wraps it.
	ErrLocked = errors.New("keystore: the key of the rows is not in memory")
)

// Revision orders the states of a store: 0 before the first change, and greater for every later
// one. Changes of several Updates that were committed together share one.
type Revision uint64

// Entry is a row in a Scan. Value is valid until the next step of the iteration and must not be
// changed.
type Entry struct {
	Name  Name
	Value []byte
}

// Change says that a row was written, or that it was Deleted. It does not carry the value: who
// needs it reads it, with View, and so never holds an older one than the newest.
type Change struct {
	Name    Name
	Deleted bool
}

// Store keeps rows. All methods are safe for concurrent use.
//
// The functions given to View and Update run on the caller's goroutine and use only the Reader or
// Tx they get: calling the same Store from inside them may deadlock. A panic in them reaches the
// caller, and the store is as if they had returned an error.
type Store interface {
	// View runs f over one snapshot: no change committed after View began is seen in it, every
	// change whose Update returned before is. It returns f's error, the context's when it ended
	// before f began, or ErrClosed.
	View(ctx context.Context, f func(Reader) error) error

	// Update runs f in a transaction and commits what it wrote; all Updates are serializable. f may
	// run several times, alone or as part of a larger commit, so it has no effect outside its Tx,
	// and sets what it hands out anew in each run. Where f returns an error, panics, or had an
	// error other than ErrNotFound from its Tx (even if it then returned nil), or ctx ends before f
	// has returned, nothing is written and others do not notice. From then on the context no longer
	// counts.
	//
	// When Update returns, the change is durable and the function of every Watch of this Store has
	// returned for it. The revision is the one at which the store holds what f wrote, and what f
	// read is durable.
	Update(ctx context.Context, f func(Tx) error) (Revision, error)

	// Watch calls f for every change with a revision greater than after, in the order of revisions
	// and once each, until ctx ends or f returns an error, and returns that error. Each call has
	// one revision and its changes, in the order of names, one a row; f must not change the slice.
	//
	// When all changes known at the start were delivered, f is called once with the newest revision
	// and no changes: from then on, and not before, the caller may rely on Update waiting for f. A
	// store where nothing reads old revisions any more forgets them: Watch then returns
	// ErrCompacted.
	//
	// f runs on the caller's goroutine and holds up all Updates, so it is quick. It may call View,
	// which shows that revision or a later one. It must not call Update or Close, which wait for f.
	Watch(ctx context.Context, after Revision, f func(Revision, []Change) error) error

	// Close waits for the Views and Updates that run, ends the Watches with ErrClosed and releases
	// the medium. Every later call of another method returns ErrClosed; Close itself may be called
	// again.
	Close() error
}

// Reader reads one snapshot. It is for the goroutine of its View alone, until f returns; then its
// methods return ErrClosed.
type Reader interface {
	// Get returns the value of a row, ErrNotFound, or ErrName. The value is valid until f returns
	// and must not be changed. A store that keeps opened values in locked memory answers
	// ErrTooManyRows or ErrTooLarge when one View holds very many.
	Get(Name) ([]byte, error)

	// Scan ranges over the rows from lo to before hi, in the order of names; a zero Name is no
	// bound. The iteration ends after it has yielded an error, which may be the context's. Get may
	// be called within it.
	Scan(lo, hi Name) iter.Seq2[Entry, error]

	// Revision is the revision of the snapshot: the newest one whose changes it shows.
	Revision() Revision
}

// Tx reads and writes single rows. There is no Scan: an engine across a network can prove that the
// rows read are unchanged, not that a range has no new ones. Whatever counts or lists rows for a
// decision is a row itself.
//
// It is for the goroutine of its Update alone, until f returns; then its methods return ErrClosed.
type Tx interface {
	// Get returns the value of a row as this transaction wrote it, else as it was before; otherwise
	// like [Reader.Get].
	Get(Name) ([]byte, error)

	// Put writes a row. It keeps no reference to the value, which may be empty. Errors are ErrName,
	// ErrTooLarge, ErrTooManyRows.
	Put(Name, []byte) error

	// Delete removes a row. Where there is none it does nothing, and watchers are not told of
	// anything.
	Delete(Name) error
}
