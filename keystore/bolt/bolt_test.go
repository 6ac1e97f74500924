package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"github.com/keyrack/keyrack/keystore/storetest"
	"go.etcd.io/bbolt"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) keystore.Store { return create(t, filepath.Join(t.TempDir(), "store.db")) })
}

func create(t testing.TB, path string) *bolt.Store {
	t.Helper()
	s, err := bolt.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, path string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s keystore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func name(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceAlias, "test", string(binary.BigEndian.AppendUint32(nil, uint32(i))))
}

// put writes values to rows from first on, in one transaction.
func put(s keystore.Store, first int, values ...string) (keystore.Revision, error) {
	return s.Update(context.Background(), func(tx keystore.Tx) (err error) {
		for i, v := range values {
			err = errors.Join(err, tx.Put(name(first+i), []byte(v)))
		}
		return err
	})
}

func mustPut(t testing.TB, s keystore.Store, first int, values ...string) keystore.Revision {
	t.Helper()
	r, err := put(s, first, values...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// scan returns all rows and the revision.
func scan(s keystore.Store) (rows map[keystore.Name]string, at keystore.Revision, err error) {
	rows = make(map[keystore.Name]string)
	err = s.View(context.Background(), func(r keystore.Reader) error {
		at = r.Revision()
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			rows[e.Name] = string(e.Value)
		}
		return nil
	})
	return rows, at, err
}

func get(s keystore.Store, i int) (value string, err error) {
	err = s.View(context.Background(), func(r keystore.Reader) error {
		v, err := r.Get(name(i))
		value = string(v)
		return err
	})
	return value, err
}

func wantError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := create(t, path)
	for i := range 500 {
		mustPut(t, s, i%300, fmt.Sprint("value ", i), strings.Repeat("v", i*7%9000))
	}
	before, at, err := scan(s)
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, path)
	defer closeStore(t, s)
	after, again, err := scan(s)
	if err != nil || again != at || at != 500 || len(after) != len(before) || len(after) != 301 {
		t.Errorf("reopened at %d with %d rows, %v, want %d with %d", again, len(after), err, at, len(before))
	}
	for n, v := range before {
		if after[n] != v {
			t.Errorf("%s changed", n)
		}
	}
	told := errors.New("told")
	watch := func(after keystore.Revision) error {
		return s.Watch(context.Background(), after, func(keystore.Revision, []keystore.Change) error { return told })
	}
	wantError(t, "Watch of what was before", watch(at-1), keystore.ErrCompacted)
	wantError(t, "Watch from here", watch(at), told)
	if r := mustPut(t, s, 1, "next"); r != at+1 {
		t.Errorf("revision %d after %d", r, at)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := create(t, path)
	mustPut(t, s, 1, "here")
	_, err := bolt.Create(path)
	wantError(t, "Create of an open store", err, bolt.ErrExists)
	closeStore(t, s)
	_, err = bolt.Create(path)
	wantError(t, "Create", err, bolt.ErrExists)
	if s, err = bolt.Open(path); err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if v, err := get(s, 1); v != "here" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
}

// TestCreateAtOnce: of many that create one store, one does, and nobody opens half of one.
func TestCreateAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	var done sync.WaitGroup
	var made sync.Map
	for i := range 8 {
		done.Go(func() {
			s, err := bolt.Create(path)
			if err == nil {
				made.Store(i, s)
			} else if !errors.Is(err, bolt.ErrExists) {
				t.Error(err)
			}
		})
		done.Go(func() {
			s, err := bolt.Open(path)
			if err == nil {
				err = s.Close()
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bolt.ErrInUse) {
				t.Error(err)
			}
		})
	}
	done.Wait()
	count := 0
	made.Range(func(_, s any) bool { count++; closeStore(t, s.(*bolt.Store)); return true })
	if count != 1 {
		t.Errorf("%d created it", count)
	}
	closeStore(t, open(t, path))
}

// TestCreateAfterACut: what was left of a Create before is gone, and in nobody's way.
func TestCreateAfterACut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path+".new", []byte("half a store"), 0o400); err != nil {
		t.Fatal(err)
	}
	closeStore(t, create(t, path))
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v are left, want one file", files, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		prepare func(t *testing.T, path string)
		want    error
	}{
		"nothing": {func(t *testing.T, path string) { remove(t, path) }, fs.ErrNotExist},
		"folder":  {func(t *testing.T, path string) { remove(t, path); check(t, os.Mkdir(path, 0o700)) }, bolt.ErrUnsafe},
		"pipe":    {func(t *testing.T, path string) { remove(t, path); check(t, syscall.Mkfifo(path, 0o600)) }, bolt.ErrUnsafe},
		"symbolic link": {func(t *testing.T, path string) {
			check(t, os.Rename(path, path+"2"))
			check(t, os.Symlink(path+"2", path))
		}, bolt.ErrUnsafe},
		"group may read": {func(t *testing.T, path string) { check(t, os.Chmod(path, 0o640)) }, bolt.ErrUnsafe},
		"all may write":  {func(t *testing.T, path string) { check(t, os.Chmod(path, 0o602)) }, bolt.ErrUnsafe},
		"empty":          {func(t *testing.T, path string) { check(t, os.Truncate(path, 0)) }, bolt.ErrFormat},
		"text":           {func(t *testing.T, path string) { check(t, os.WriteFile(path, []byte("key: value\n"), 0o600)) }, bolt.ErrFormat},
		"bolt's own": {func(t *testing.T, path string) {
			remove(t, path)
			foreign(t, path, func(*bbolt.Tx) error { return nil })
		}, bolt.ErrFormat},
		"another magic":  {func(t *testing.T, path string) { setHeader(t, path, "magic", "keyrack audit") }, bolt.ErrFormat},
		"format 2":       {func(t *testing.T, path string) { setHeader(t, path, "format", "\x00\x00\x00\x02") }, bolt.ErrFormat},
		"short revision": {func(t *testing.T, path string) { setHeader(t, path, "revision", "1") }, bolt.ErrDamaged},
		"more in header": {func(t *testing.T, path string) { setHeader(t, path, "more", "1") }, bolt.ErrDamaged},
		"more buckets": {func(t *testing.T, path string) {
			foreign(t, path, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("more")); return err })
		}, bolt.ErrDamaged},
		"row without name": {func(t *testing.T, path string) {
			foreign(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("rows")).Put([]byte("x"), nil) })
		}, bolt.ErrDamaged},
		"bucket for a row": {func(t *testing.T, path string) {
			foreign(t, path, func(tx *bbolt.Tx) error {
				_, err := tx.Bucket([]byte("rows")).CreateBucket(name(1).Append(nil))
				return err
			})
		}, bolt.ErrDamaged},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			closeStore(t, create(t, path))
			c.prepare(t, path)
			_, err := bolt.Open(path)
			wantError(t, "Open", err, c.want)
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			if errors.Is(err, keystore.ErrDamaged) != (c.want == bolt.ErrDamaged) {
				t.Errorf("the error is damage to the rest of the appliance, or is not: %v", err)
			}
			if what == "format 2" && !strings.Contains(err.Error(), "format is 2") {
				t.Errorf("the error does not name the format: %v", err)
			}
		})
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) { t.Helper(); check(t, os.Remove(path)) }

// foreign changes a file with bolt alone.
func foreign(t testing.TB, path string, f func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	check(t, err)
	if err := db.Update(f); err != errRollback {
		check(t, err)
	}
	check(t, db.Close())
}

func setHeader(t testing.TB, path, key, value string) {
	t.Helper()
	foreign(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("header")).Put([]byte(key), []byte(value)) })
}

// TestOpenTwice: the second is refused at once, and the end of the first lets it in.
func TestOpenTwice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := create(t, path)
	_, err := bolt.Open(path)
	wantError(t, "Open of an open store", err, bolt.ErrInUse)
	mustPut(t, s, 1, "still works")
	closeStore(t, s)
	closeStore(t, open(t, path))
}

// TestExampleOfFormat reads the file with bolt and compares with FORMAT.md.
func TestExampleOfFormat(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("FORMAT.md")
	check(t, err)
	_, want, _ := strings.Cut(string(doc), "```store\n")
	want, _, _ = strings.Cut(want, "\n```")

	path := filepath.Join(t.TempDir(), "store.db")
	s := create(t, path)
	n := keystore.MakeName(keystore.SpaceAlias, "000000000042", "billing")
	_, err = s.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(n, []byte{1, 2, 3, 4}) })
	check(t, err)
	closeStore(t, s)
	var got bytes.Buffer
	foreign(t, path, func(tx *bbolt.Tx) error {
		return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				fmt.Fprintln(&got, hex.EncodeToString(bucket), hex.EncodeToString(k), hex.EncodeToString(v))
				return nil
			})
		})
	})
	if got, want := strings.Fields(got.String()), strings.Fields(want); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the file has\n%s\nwant\n%s", got, want)
	}
}
