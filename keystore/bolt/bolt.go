// Package bolt is the embedded store of an appliance: a keystore.Store in one file, on
// go.etcd.io/bbolt.
//
// Read [Create] and [Open] first, then engine, which is under the keystore.Local, and image, which
// reads the file. FORMAT.md says what is in it.
//
// # Durability
//
// A commit is one transaction of bolt: pages are never changed in place, the new ones are synced,
// then one of two meta pages names them and is synced too. So a commit takes two syncs (a third
// when the file grows), whatever is cut leaves the state before or after it, and an Update that
// returned is on the medium as far as the medium tells the truth. Where a meta page is lost
// otherwise, Open finds the state one commit older; keystore/sealed notices that.
//
// A full disk (also a quota or a limit on the size of files) costs the commit that met it and
// nothing else. After every other error of a commit the store refuses all calls with [ErrStopped]
// until it is opened again.
//
// # Damage
//
// bolt trusts its file. Open therefore reads all of it and refuses what no commit leaves; reads go
// past bolt's mapping and check each page; and before a commit the pages that it builds on are
// checked again. Damage is [ErrDamaged], never the end of the process. Checksums it has none: what
// another value, a missing row or an older row is, the layer above finds. The package does not
// repair, encrypt or compact.
//
// # Open Views
//
// A View holds pages of its state, so the file grows while it lasts. Up to the size that Open maps
// (1 GiB, or twice the file if that is more; 256 MiB on 32-bit machines) it delays nobody. The commit
// with which the file outgrows that waits until the Views that were open have ended, and new ones wait
// for it; so a View must not wait for an Update.
package bolt

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"

	"github.com/keyrack/keyrack/keystore"
	"go.etcd.io/bbolt"
)

// Errors of this package, compared with errors.Is. Errors of the file system (fs.ErrNotExist,
// fs.ErrPermission, ENOSPC, EROFS …) come through beside them.
var (
	// ErrExists says that Create found something under that name.
	ErrExists = errors.New("keystore/bolt: there is a file already")
	// ErrInUse says that a Store, here or in another process, has the file open.
	ErrInUse = errors.New("keystore/bolt: the store is open elsewhere: only one appliance may serve it")
	// ErrUnsafe says that the file is not a regular one, belongs to another user, or that others may
	// read or write it.
	ErrUnsafe = errors.New("keystore/bolt: the file is not private")
	// ErrFormat says that the file is not a keyrack store, or one of another version.
	ErrFormat = errors.New("keystore/bolt: not a store that this program reads")
	// ErrDamaged says that the file is not as a commit left it, or cannot be read. It wraps
	// keystore.ErrDamaged.
	ErrDamaged error = damage{}
	// ErrStopped says that a commit failed in a way that leaves open whether it is on the medium.
	ErrStopped = errors.New("keystore/bolt: the store stopped at a commit that failed; restart the appliance")
)

type damage struct{}

func (damage) Error() string { return "keystore/bolt: the store is damaged" }
func (damage) Unwrap() error { return keystore.ErrDamaged }

// allocate is by how much a file grows at a time. What is not used yet is a hole.
const allocate = 4 << 20

// Store is a store in one file. It implements [keystore.Store]; nothing else may have the file open
// while it does.
type Store struct {
	*keystore.Local
	engine *engine
}

var _ keystore.Store = (*Store)(nil)

// Open opens the store at path and holds a lock on the file until Close. It reads the whole file.
// Errors are fs.ErrNotExist, ErrInUse (at once), ErrUnsafe, ErrFormat, ErrDamaged, and what the file
// system says.
func Open(path string) (*Store, error) { return open(path, mapping) }

// mapping returns how much address space a file of this size is given. It costs no memory.
func mapping(size int64) int {
	least := int64(1 << 30)
	if bits.UintSize == 32 {
		least = 1 << 28
	}
	return int(max(least, 2*size))
}

func open(path string, mapping func(size int64) int) (*Store, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return openLocked(path, f, mapping)
}

// openLocked takes over f.
func openLocked(path string, f *os.File, mapping func(size int64) int) (*Store, error) {
	size, err := examine(path, f)
	if err != nil {
		return nil, errors.Join(err, release(f))
	}
	e := &engine{path: path, file: f, room: mapping(size), end: (*bbolt.Tx).Commit, between: func() {}}
	if err := e.open(); err != nil {
		_ = release(f) // bolt may have closed it
		return nil, err
	}
	local, err := keystore.NewLocal(e)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return &Store{local, e}, nil
}

// open hands the file to bolt. The freelist is synced with each commit: without it bolt would find
// the free pages by a walk of its own at each Open and after each failed commit, in a goroutine whose
// panic nobody can contain.
func (e *engine) open() error {
	err := guard(func() (err error) {
		e.db, err = bbolt.Open(e.path, 0o600, &bbolt.Options{
			Timeout:         time.Second, // the lock is held already
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: e.room,
			OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return e.file, nil },
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("keystore/bolt: open %s: %w", e.path, err)
	}
	e.db.AllocSize = allocate
	return nil
}

// examine reads a whole file and returns its size. Errors are ErrFormat and ErrDamaged.
func examine(path string, f *os.File) (size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("keystore/bolt: %w", err)
	}
	defer readAhead(f, info.Size())()
	im, err := readNewest(f)
	if errors.Is(err, errNoMeta) || errors.Is(err, errUnread) && info.Size() < minPage {
		return 0, fmt.Errorf("%w: %s: nothing of a store is in its %d bytes; if it was one, restore it from a backup", ErrFormat, path, info.Size())
	}
	if errors.Is(err, ErrFormat) {
		return 0, fmt.Errorf("%w: %s", err, path)
	}
	if err == nil {
		err = im.check()
	}
	if err != nil {
		return 0, damaged(path, err)
	}
	return info.Size(), nil
}

// readNewest reads the newest state of a file, which must be as long as all its pages.
func readNewest(f *os.File) (*image, error) {
	m, err := findMeta(f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size()/int64(m.pageSize) < int64(m.pages) {
		return nil, fmt.Errorf("%d bytes are left of %d pages of %d", info.Size(), m.pages, m.pageSize)
	}
	return readImage(f, m)
}
