package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/keyrack/keyrack/keystore"
	"go.etcd.io/bbolt"
)

// engine is the keystore.Engine. bolt keeps the transactions and writes; what is read is read by
// image.
type engine struct {
	path string
	file *os.File // db's own
	db   *bbolt.DB
	room int // address space that the mapping of db began with
	// end ends a transaction of bolt, and between runs before one for reading begins; tests let the
	// first fail and a commit come in between.
	end     func(*bbolt.Tx) error
	between func()

	// mu is held while a transaction of bolt begins. It guards failed and stuck.
	mu sync.Mutex
	// failed is why nothing goes on. stuck says that bolt panicked, maybe with its locks held: then
	// it is not called again.
	failed error
	stuck  bool

	written int // rows since pages of the mapping were given back; of Commit alone
	newest  atomic.Pointer[image]
	bufs    sync.Pool // *[]byte, the memory in which snapshots read pages
}

// Tries of a Snapshot that a commit overtakes each time; one takes a microsecond, a commit two
// syncs.
const tries = 1000

// Snapshot implements keystore.Engine. Errors are ErrStopped and ErrDamaged; the latter concerns this
// call alone, since what is damaged may be rows that nobody needs.
func (e *engine) Snapshot() (keystore.Snapshot, error) {
	for range tries {
		s, err := e.begin()
		if s != nil || err != nil {
			return s, err
		}
	}
	return nil, e.damaged(errors.New("the meta pages change without end"))
}

// begin starts a transaction of bolt on the state that the file's meta describes. It returns nothing
// when another state was committed in between. The meta is read first: bolt would meet damage there
// with its locks held.
func (e *engine) begin() (keystore.Snapshot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return nil, e.failed
	}
	m, err := findMeta(e.file)
	if err != nil {
		return nil, e.damaged(err)
	}
	e.between()
	s := &snapshot{engine: e}
	if err := guard(func() (err error) { s.tx, err = e.db.Begin(false); return err }); err != nil {
		return nil, e.stop(err)
	}
	if uint64(s.tx.ID()) == m.txid {
		if s.image, err = e.image(m); err == nil {
			return s, nil
		}
		err = e.damaged(err)
	}
	return nil, errors.Join(err, s.tx.Rollback())
}

// image returns the state of m, which a transaction holds.
func (e *engine) image(m meta) (*image, error) {
	if im := e.newest.Load(); im != nil && im.meta == m {
		return im, nil
	}
	im, err := readImage(e.file, m)
	if err == nil {
		e.newest.Store(im)
	}
	return im, err
}

// Commit implements keystore.Engine: one transaction of bolt, which syncs the rows, then its meta.
//
// ErrDamaged says that nothing was begun. A full medium is told from a commit whose end is open by
// the meta page: while that is the old one, bolt has rolled back, and nothing on the medium names
// the pages that were written. Whatever else goes wrong ends in ErrStopped. A sync that failed is
// never tried again: the kernel reports it once and drops what it could not write.
func (e *engine) Commit(r keystore.Revision, rows []keystore.Row) error {
	before, err := e.prepare(rows)
	if err != nil {
		return err
	}
	err = guard(func() error { return e.write(r, rows) })
	if err == nil {
		e.letGo(before, len(rows))
		return nil
	}
	now, unread := findMeta(e.file)
	if cause := full(err); cause != 0 && unread == nil && now.txid == before.txid {
		return fmt.Errorf("%w: %s: nothing was written; make room on its disk: %w", keystore.ErrFull, e.path, cause)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stop(err)
}

// prepare returns the state that a commit changes once all that bolt will read for it is sound.
func (e *engine) prepare(rows []keystore.Row) (*image, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return nil, e.failed
	}
	im, err := readNewest(e.file)
	if err == nil {
		err = im.inspect(rows)
	}
	if err != nil {
		return nil, e.damaged(err)
	}
	return im, nil
}

// write runs the transaction of a commit. bolt rolls back by itself when its Commit fails.
func (e *engine) write(r keystore.Revision, rows []keystore.Row) error {
	tx, err := e.db.Begin(true)
	if err != nil {
		return err
	}
	if err := fill(tx, r, rows); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return e.end(tx)
}

// fill makes the changes of a transaction.
func fill(tx *bbolt.Tx, r keystore.Revision, rows []keystore.Row) error {
	header, bucket := tx.Bucket([]byte(bucketHeader)), tx.Bucket([]byte(bucketRows))
	if header == nil || bucket == nil {
		return errors.New("a bucket is gone")
	}
	for _, row := range rows {
		var err error
		if key := row.Name.Append(nil); row.Deleted {
			err = bucket.Delete(key)
		} else {
			err = bucket.Put(key, row.Value)
		}
		if err != nil {
			return err
		}
	}
	return header.Put([]byte(keyRevision), binary.BigEndian.AppendUint64(nil, uint64(r)))
}

// Close implements keystore.Engine. A bolt that panicked may never let go of its locks: then its
// mapping stays until the process ends, and only the file is unlocked and closed.
func (e *engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stuck {
		return release(e.file)
	}
	return e.db.Close()
}

// stop ends the engine: nobody knows what became of a transaction. The caller holds mu.
func (e *engine) stop(cause error) error {
	if e.failed == nil {
		e.stuck = errors.Is(cause, errPanic)
		e.failed = fmt.Errorf("%w: %s: %w", ErrStopped, e.path, cause)
	}
	return e.failed
}

// damaged says of an error of reading that the file is not what a commit left.
func (e *engine) damaged(err error) error { return damaged(e.path, err) }

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w; restore it from a backup", ErrDamaged, path, err)
}

// errPanic says that bolt met something in the file that it takes for impossible, or memory under
// its mapping that cannot be read.
var errPanic = fmt.Errorf("%w: bolt gave up", ErrDamaged)

// guard runs a call of bolt, and makes a panic in it an error. A fault, SIGBUS where the file has no
// page or the medium cannot read it, is a panic while PanicOnFault is set for the goroutine; bolt
// starts no others in the calls that we make.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errPanic, v)
		}
	}()
	return f()
}

// full returns why a medium takes no more bytes, or 0. Where bolt extends the file it keeps only the
// text of the error.
func full(err error) syscall.Errno {
	for _, cause := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, cause) || strings.HasSuffix(err.Error(), cause.Error()) {
			return cause
		}
	}
	return 0
}

// snapshot implements keystore.Snapshot. It holds a transaction of bolt so that the pages of its image stay as they are.
type snapshot struct {
	*image
	engine *engine
	tx     *bbolt.Tx
	key    []byte
	buf    *[]byte
}

// Get implements keystore.Snapshot. The value is a copy.
func (s *snapshot) Get(n keystore.Name) ([]byte, error) {
	if s.buf == nil {
		s.buf, _ = s.engine.bufs.Get().(*[]byte)
	}
	if s.buf == nil {
		s.buf = new([]byte)
	}
	s.key = n.Append(s.key[:0])
	value, buf, found, err := s.get(s.key, *s.buf)
	*s.buf = buf
	switch {
	case err != nil:
		return nil, s.engine.damaged(err)
	case !found:
		return nil, keystore.ErrNotFound
	}
	return append([]byte{}, value...), nil
}

// Scan implements keystore.Snapshot. Values lie in memory of the iteration, which its next step uses
// again.
func (s *snapshot) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	return func(yield func(keystore.Entry, error) bool) {
		c := cursor{im: s.image}
		err := c.seek(lo.Append(nil))
		for err == nil {
			var key, value []byte
			if key, value, err = c.next(); err != nil || key == nil {
				break
			}
			var n keystore.Name
			if n, err = keystore.ParseName(key); err != nil {
				break
			}
			if hi != (keystore.Name{}) && n.Compare(hi) >= 0 || !yield(keystore.Entry{Name: n, Value: value}, nil) {
				return
			}
		}
		if err != nil {
			yield(keystore.Entry{}, s.engine.damaged(err))
		}
	}
}

// Revision implements keystore.Snapshot.
func (s *snapshot) Revision() keystore.Revision { return s.revision }

// Close implements keystore.Snapshot.
func (s *snapshot) Close() {
	s.tx.Rollback()
	if s.buf != nil {
		s.engine.bufs.Put(s.buf)
	}
}
