// Package sealed is a keystore.Store that believes nothing of the store below it: it encrypts and
// authenticates every value, and proves at each read that what it got is what it wrote last.
//
// Read [Create], [Open] and [Store], then FORMAT.md. Rows are spread over 65,536 buckets by a keyed
// hash of their names. Each bucket has a row of its own: a random key that seals the bucket's
// records, and an index of them. The digests of all bucket rows are the leaves of a hash tree, whose
// root, with a generation that every change raises, is in the anchor row. Keys come from the domain
// key; so a new domain key means new bucket rows and no new records ([Store.Rekey]).
//
// Who can write to the medium, also while the appliance runs, learns names, sizes and times, and no
// values. He can make reads fail with [ErrSealBroken], and nothing else: a row that he changed,
// moved, brought from elsewhere or from an earlier time, removed or brought back is refused at the
// read that meets it, also at a read that would find nothing. A process that runs never believes a
// state older than one it has acknowledged. Two things are not noticed: that a Scan misses rows,
// which [Store.Check] finds, so no decision rests on a Scan; and that the whole folder was brought
// back to an earlier state while no process ran, as long as no counter in a token stands against it.
//
// Keys and opened values are in locked memory. The hash tree is not: its nodes are authenticators of
// what is on the medium, no secrets, and on the ordinary heap with swap off.
//
// The package does not hide names, and does not seal the spaces below 16: their owners reach them in
// the store below, or beside sealed rows by [Store.UpdateBoth].
package sealed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Errors of this package, beside those of keystore.
var (
	// ErrSealBroken says that the store below does not hold what this appliance wrote last. The
	// error that wraps it names the row, or the bucket's, and says what is wrong with it. It wraps
	// keystore.ErrDamaged.
	ErrSealBroken error = sealBroken{}

	// ErrExists is returned by Create for a store that is not empty.
	ErrExists = errors.New("keystore/sealed: the store has sealed rows already")

	// ErrRotation is wrapped by a step of a rotation that is not the next one.
	ErrRotation = errors.New("keystore/sealed: not the next step of a rotation")
)

type sealBroken struct{}

func (sealBroken) Error() string { return "keystore/sealed: seal is broken" }
func (sealBroken) Unwrap() error { return keystore.ErrDamaged }

// damage is an ErrSealBroken that names a row; names are in clear anyway.
type damage struct {
	row  keystore.Name
	what string
}

func broken(row keystore.Name, what string) error { return &damage{row, what} }

func (d *damage) Error() string { return fmt.Sprintf("%v: %s: %s", ErrSealBroken, d.row, d.what) }
func (d *damage) Unwrap() error { return ErrSealBroken }

// Keys are versions of the domain key, as the keyring hands them out. They are asked by Create and
// Open, and not kept.
type Keys interface {
	// Versions returns one version, or two in ascending order while a rotation is under way; none
	// while they are not in memory, which is keystore.ErrLocked.
	Versions() []uint32
	// Derive fills out with seal.KDF(that version of the domain key, label, context). An error, as
	// of a locked appliance, is handed on as it is.
	Derive(out []byte, version uint32, label seal.Label, context []byte) error
}

// Store seals the rows of another store. It is safe for concurrent use.
type Store struct {
	below     keystore.Store
	appliance [16]byte
	node      [16]byte
	anchor    keystore.Name     // of this node's anchor row
	names     *securemem.Buffer // the name key
	ledger    ledger
	running   running

	maxBuckets, maxBucketBytes int // of one transaction; smaller only in tests
	spread                     int // buckets that names are spread over; fewer only in tests

	rotation sync.Mutex    // held by Rekey and Retire, which change the set of keys
	cursor   atomic.Uint32 // the bucket at which Rewrap goes on
}

var _ keystore.Store = (*Store)(nil)

// View implements keystore.Store. Values that Get returns are in locked memory and wiped when f has
// returned, so a View holds at most 128 of them and 1 MiB in all, and Get answers
// keystore.ErrTooManyRows or ErrTooLarge beyond; a Scan holds one at a time. Beside the errors of
// the store below, View, Get and Scan return [ErrSealBroken], and securemem's when locked memory is
// used up.
func (s *Store) View(ctx context.Context, f func(keystore.Reader) error) error {
	return s.view(ctx, func(r *reader) error { return f(r) })
}

// view runs f over a snapshot whose state root is one that this process knows, and not older than
// the newest acknowledged when view was called.
func (s *Store) view(ctx context.Context, f func(*reader) error) error {
	if err := s.running.enter(); err != nil {
		return err
	}
	defer s.running.leave()
	floor := s.ledger.announce()
	waiting := true
	defer func() {
		if waiting {
			s.ledger.withdraw(floor)
		}
	}()
	return s.below.View(ctx, func(r keystore.Reader) error {
		row, err := s.anchorRow(r.Get)
		if err != nil {
			return err
		}
		at, err := s.ledger.find(row, floor)
		waiting = false
		if err != nil {
			return err
		}
		o := newOpener(s, r.Get, at)
		defer o.close()
		return f(&reader{o, r})
	})
}

// anchorRow returns what the anchor row of this node holds, nil where there is none.
func (s *Store) anchorRow(get func(keystore.Name) ([]byte, error)) ([]byte, error) {
	row, err := get(s.anchor)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	return row, err
}

// Update implements keystore.Store, with the bounds and errors of [Store.View].
func (s *Store) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	return s.update(ctx, func(t *tx) error { return f(t) })
}

// UpdateBoth is Update over sealed and raw rows at once: all is written or nothing. Of the raw rows,
// those of this package answer keystore.ErrName, as do sealed rows. Each of the two takes as many
// rows as an Update, the store below as many as [keystore.Widen] says, this package's own included.
func (s *Store) UpdateBoth(ctx context.Context, f func(sealed, raw keystore.Tx) error) (keystore.Revision, error) {
	return s.update(ctx, func(t *tx) error { return f(t, t.raw) })
}

// update runs f in a transaction and writes what it left changed: bucket rows and the anchor row.
// The version that comes of it is known from the end of f's last run on, since the next transaction
// of the batch builds on it; it becomes the newest one when below says that it is durable, and is
// forgotten when it does not, also by a panic.
func (s *Store) update(ctx context.Context, f func(*tx) error) (keystore.Revision, error) {
	if err := s.running.enter(); err != nil {
		return 0, err
	}
	defer s.running.leave()
	var made *version // by the last run of the function, nil when it changed nothing
	defer func() { s.ledger.drop(made) }()
	r, err := s.below.Update(ctx, func(below keystore.Tx) (err error) {
		s.ledger.drop(made)
		made, err = s.run(below, f)
		return err
	})
	if err == nil {
		s.ledger.acknowledge(made)
		made = nil
	}
	return r, err
}

// run is one run of a transaction. It returns the version that it has made, nil when nothing has
// changed.
func (s *Store) run(below keystore.Tx, f func(*tx) error) (*version, error) {
	keystore.Widen(below)
	row, err := s.anchorRow(below.Get)
	if err != nil {
		return nil, err
	}
	at, err := s.ledger.findLatest(row)
	if err != nil {
		return nil, err
	}
	t := newTx(newOpener(s, below.Get, at), below)
	defer t.close()
	if err := f(t); err != nil {
		return nil, err
	}
	return t.finish()
}

// Watch implements keystore.Store. It tells of sealed rows only.
func (s *Store) Watch(ctx context.Context, after keystore.Revision, f func(keystore.Revision, []keystore.Change) error) error {
	return s.below.Watch(ctx, after, func(r keystore.Revision, changes []keystore.Change) error {
		own := ours(changes)
		if len(own) == 0 && len(changes) > 0 {
			return nil
		}
		return f(r, own)
	})
}

// ours returns the changes from the first sealed row on: changes come in the order of names, and
// sealed spaces after all others.
func ours(changes []keystore.Change) []keystore.Change {
	for i, c := range changes {
		if c.Name.Space().Sealed() {
			return changes[i:]
		}
	}
	return nil
}

// Close closes the store below, and wipes the keys once no transaction runs any more, also where the
// store below only seems to close.
func (s *Store) Close() error {
	err := s.below.Close()
	s.running.close()
	s.ledger.end()
	s.names.Free()
	return err
}

// running counts the transactions inside, and lets none in once it is closed: one that lost its keys
// on the way would put rows where nobody finds them. The zero value is open.
type running struct {
	mu     sync.RWMutex // guards closed; an enter is either before close or refused
	closed bool
	inside sync.WaitGroup
}

func (r *running) enter() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return keystore.ErrClosed
	}
	r.inside.Add(1)
	return nil
}

func (r *running) leave() { r.inside.Done() }

// close waits until all who entered have left.
func (r *running) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.inside.Wait()
}

// State is what is known of a store without reading it.
type State struct {
	Generation uint64   // one more with each change
	Root       [32]byte // the state root
	Versions   []uint32 // of the domain key, ascending; two while a rotation is under way
	Buckets    int      // bucket rows
	Left       int      // of them, those that are sealed under the older of two versions
	Rows       int      // sealed rows
}

// State returns the newest state that is acknowledged.
func (s *Store) State() State {
	v := s.ledger.current()
	state := State{
		Generation: v.anchor.generation(), Root: [32]byte(v.anchor[rootAt:]), Versions: v.keys.numbers(),
		Buckets: v.tree.buckets(), Rows: v.tree.records(),
	}
	if old := v.keys.older(); old != nil {
		state.Left = v.tree.sealedBy(old.slot)
	}
	return state
}

// reader is the Reader of a View.
type reader struct {
	*opener
	below keystore.Reader
}

func (r *reader) Get(n keystore.Name) ([]byte, error) {
	if !ownName(n) {
		return nil, keystore.ErrName
	}
	return r.get(n)
}

// Scan leaves out the spaces below the sealed ones, whatever lo is. Its error comes with the name of the row that it is of.
func (r *reader) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	if first, _ := keystore.SealedRange(); lo.Compare(first) < 0 {
		lo = first
	}
	return func(yield func(keystore.Entry, error) bool) {
		for e, err := range r.below.Scan(lo, hi) {
			if err == nil {
				err = r.pass(e, yield)
			}
			if err != nil {
				if err != errStop {
					yield(keystore.Entry{Name: e.Name}, err)
				}
				return
			}
		}
	}
}

// errStop says that the range over a Scan was left.
var errStop = errors.New("keystore/sealed: scan was left")

// pass yields one row, whose value is wiped when the next one is asked for.
func (r *reader) pass(e keystore.Entry, yield func(keystore.Entry, error) bool) error {
	value, err := r.open(e.Name, e.Value)
	if err != nil {
		return err
	}
	defer value.Free()
	if !yield(keystore.Entry{Name: e.Name, Value: contents(value)}, nil) {
		return errStop
	}
	return nil
}

func (r *reader) Revision() keystore.Revision { return r.below.Revision() }

// ownName reports whether n is for this layer: below it are rows, of buckets for one, that no
// service may read or write.
func ownName(n keystore.Name) bool { return n.Valid() && n.Space().Sealed() }
