package rack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
)

// What stands in the data folder. All of it is the service's own user's alone.
const (
	storeName   = "store.db"     // keystore/bolt; its presence says that the folder holds an appliance
	freshName   = "store.new"    // the store of an appliance that is being made
	tokenName   = "token"        // hsm/soft, unless it is elsewhere
	refusedName = "pin-refused"  // hsm/pkcs11, while a PIN is wrong
	auditName   = "audit"        // the audit log
	serverName  = "server.pem"   // key and certificate of the server
	socketName  = "keyrack.sock" // the operator's way in
	lockName    = "lock"         // held by the process that uses the folder, and names it
)

var (
	// ErrExists says that a data folder holds an appliance already.
	ErrExists = errors.New("rack: the folder already holds an appliance")

	// ErrNone says that a data folder holds no appliance.
	ErrNone = errors.New("rack: the folder holds no appliance")

	// ErrCutOff says that an attempt to make an appliance in a data folder did not come to its end. It wraps ErrNone.
	ErrCutOff = fmt.Errorf("%w: the attempt to make one was cut off", ErrNone)

	// ErrOpenFolder says that others may write in a data folder, or own it: they could put their own files in place of ours.
	ErrOpenFolder = errors.New("rack: others may write in the folder")

	// ErrLongPath says that no Unix socket can be made in a data folder.
	ErrLongPath = errors.New("rack: the folder's path is too long")

	// ErrInUse says that another process uses a data folder. The error that wraps it names the process.
	ErrInUse = errors.New("rack: another process uses the folder")
)

// takePatience is how long a start waits for a folder that is in use: a process that
// was killed holds it until the kernel has taken its memory back.
const takePatience = 2 * time.Second

// takeFolder keeps every other process out of the data folder until Close.
func (a *Appliance) takeFolder(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takePatience)
	defer cancel()
	again := time.NewTicker(takePatience / 40)
	defer again.Stop()
	for {
		lock, err := lockFolder(a.cfg.Dir)
		switch {
		case err == nil:
			a.onClose(func(context.Context) error { return lock.Close() })
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %w", ErrNone, err)
		case !errors.Is(err, ErrInUse):
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// SocketPath returns the path of the operator's Unix socket of the appliance in dir.
func SocketPath(dir string) string { return filepath.Join(dir, socketName) }

// makeFolder makes a folder and those above it that are not there, and the names of all that are new durable: a power
// cut must not take away the place of what was synced in it.
func makeFolder(dir string) error {
	fresh := []string{}
	for path := filepath.Clean(dir); ; path = filepath.Dir(path) {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			break
		}
		fresh = append(fresh, path)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, path := range fresh {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	if err := syncDir(filepath.Dir(filepath.Clean(dir))); !errors.Is(err, fs.ErrPermission) { // a try that ended before this line may have made it
		return err
	}
	return nil
}

// judgeFolder refuses a folder that no appliance should be in.
func judgeFolder(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	case !ownedByUs(info):
		return fmt.Errorf("%w: %s belongs to another user", ErrOpenFolder, dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%w: %s has mode %04o", ErrOpenFolder, dir, info.Mode().Perm())
	}
	return judgePath(dir)
}

// judgePath refuses a folder whose path leaves no room for that of the Unix socket in it.
func judgePath(dir string) error {
	if n := len(SocketPath(dir)); n >= len(unix.RawSockaddrUnix{}.Path) { // with the NUL behind it, unix(7)
		return fmt.Errorf("%w: %s has %d bytes", ErrLongPath, SocketPath(dir), n)
	}
	return nil
}

func ownedByUs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// lockFolder judges a data folder and locks it until Close of what it returns. The kernel gives the lock back when
// the process ends, however it ends.
func lockFolder(dir string) (io.Closer, error) {
	if err := judgeFolder(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("%w: %s, process %s", ErrInUse, dir, holder(f))
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return folderLock{f}, nil
}

// folderLock is the lock of a folder. A child that is just being started has a copy of the file until it becomes another
// program, so closing it would not give the lock back at once.
type folderLock struct{ *os.File }

// Close gives the lock back.
func (l folderLock) Close() error {
	return errors.Join(unix.Flock(int(l.Fd()), unix.LOCK_UN), l.File.Close())
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// holder returns the process id that a lock file names.
func holder(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0) // what is there is there
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return pid
	}
	return "unknown"
}

// openStore opens the store below the seal.
func (c *Config) openStore() (keystore.Store, error) {
	if c.Store != nil {
		return c.Store, nil
	}
	s, err := bolt.Open(filepath.Join(c.Dir, storeName))
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	for _, name := range []string{freshName, notesName} {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); err == nil {
			return nil, fmt.Errorf("%w: %s", ErrCutOff, c.Dir)
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNone, c.Dir)
}

// createStore makes the store of a new appliance, under another name until
// adopt: what a cut attempt has left is made anew.
func (c *Config) createStore() (store keystore.Store, adopt func() error, err error) {
	if c.Store != nil {
		return c.Store, func() error { return nil }, nil
	}
	path, fresh := filepath.Join(c.Dir, storeName), filepath.Join(c.Dir, freshName)
	switch _, err := os.Lstat(path); {
	case err == nil:
		return nil, nil, fmt.Errorf("%w: %s", ErrExists, path)
	case !errors.Is(err, fs.ErrNotExist): // adopt replaces what it does not see
		return nil, nil, err
	}
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	s, err := bolt.Create(fresh)
	if err != nil {
		return nil, nil, err
	}
	return s, func() error {
		if err := errors.Join(s.Close(), os.Rename(fresh, path)); err != nil {
			return err
		}
		return syncDir(c.Dir)
	}, nil
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
