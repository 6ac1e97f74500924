package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"go.etcd.io/bbolt"
)

// sample is a sound file with branches, values longer than a page, a freelist, and nothing behind
// its last page.
type sample struct {
	image    []byte
	pageSize int
	rows     map[keystore.Name]string
	before   map[keystore.Name]string // one commit earlier
}

func newSample(t testing.TB) *sample {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample")
	c := &sample{}
	s := create(t, path)
	for i := range 8 {
		var values []string
		for j := range 30 {
			values = append(values, fmt.Sprint("row ", i, " ", j, strings.Repeat(".", 150)))
		}
		mustPut(t, s, 100*i, values...)
	}
	mustPut(t, s, 50, strings.Repeat("long ", 2000))
	_, err := s.Update(context.Background(), func(tx keystore.Tx) (err error) {
		for i := range 30 {
			err = errors.Join(err, tx.Delete(name(300+i)))
		}
		return err
	})
	check(t, err)
	c.before, _, err = scan(s)
	check(t, err)
	mustPut(t, s, 205, "the last")
	c.rows, _, err = scan(s)
	check(t, err)
	closeStore(t, s)
	foreign(t, path, func(tx *bbolt.Tx) error { c.pageSize = tx.DB().Info().PageSize; return errRollback })
	c.image, err = os.ReadFile(path)
	check(t, err)
	c.image = bytes.TrimRight(c.image, "\x00")
	c.image = append(c.image, make([]byte, c.pageSize-len(c.image)%c.pageSize)...)
	return c
}

// write makes the file.
func (c *sample) write(t testing.TB, path string, image []byte) {
	t.Helper()
	check(t, os.WriteFile(path, image, 0o600))
}

// judge checks what a store over a file with one wrong byte does: it may refuse with ErrDamaged; else
// its rows are those of the last commit or of the one before, but for one.
func (c *sample) judge(rows map[keystore.Name]string, err error) error {
	if err != nil {
		if !errors.Is(err, bolt.ErrDamaged) && !errors.Is(err, bolt.ErrFormat) {
			return fmt.Errorf("got error %w, want ErrDamaged", err)
		}
		return nil
	}
	if a, b := differences(rows, c.rows), differences(rows, c.before); a > 2 && b > 0 {
		return fmt.Errorf("%d rows differ from the last state, %d from the one before", a, b)
	}
	return nil
}

// differences counts the names that do not have the same value in both.
func differences(a, b map[keystore.Name]string) (n int) {
	for name, v := range a {
		if w, ok := b[name]; !ok || w != v {
			n++
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			n++
		}
	}
	return n
}

// use reads everything, in both ways, and writes and deletes rows all over, as far as that works.
// It returns what a Scan saw first.
func use(s keystore.Store) (map[keystore.Name]string, error) {
	rows, _, err := scan(s)
	for i := 0; i < 800; i += 20 {
		_, other := get(s, i)
		if other != nil && !errors.Is(other, keystore.ErrNotFound) && !errors.Is(other, bolt.ErrDamaged) && !errors.Is(other, bolt.ErrStopped) {
			return nil, other
		}
	}
	for i := 1; i < 4; i += 2 {
		_, other := s.Update(context.Background(), func(tx keystore.Tx) error {
			return errors.Join(tx.Put(name(200*i+3), []byte("new")), tx.Delete(name(200*i+4)), tx.Delete(name(200*i+29)))
		})
		if other != nil && !errors.Is(other, bolt.ErrDamaged) && !errors.Is(other, bolt.ErrStopped) {
			return nil, other
		}
	}
	return rows, err
}

// offsets returns places in each page: its header, its first elements, and some others.
func (c *sample) offsets(r *rand.Rand) (list []int) {
	for page := 0; page < len(c.image); page += c.pageSize {
		for i := range 24 {
			list = append(list, page+i)
		}
		for range 8 {
			list = append(list, page+24+r.IntN(c.pageSize-24))
		}
	}
	return list
}

// masks are what is done to a byte, in turn: a bit that rots, a kind that becomes the other, all.
var masks = []byte{1, 3, 0x80, 0xff}

// TestFlippedBytes changes a byte of a file that nobody has open, all over it.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	r := rand.New(rand.NewPCG(1, 2))
	refused, silent := 0, 0
	for i, at := range c.offsets(r) {
		image := bytes.Clone(c.image)
		image[at] ^= masks[i%len(masks)]
		c.write(t, path, image)
		s, err := bolt.Open(path)
		var rows map[keystore.Name]string
		if err == nil {
			if i%8 == 0 {
				rows, err = use(s)
			} else {
				rows, _, err = scan(s)
			}
			closeStore(t, s)
			silent++
		} else {
			refused++
		}
		if err := c.judge(rows, err); err != nil {
			t.Errorf("byte %d of page %d, %#x: %v", at%c.pageSize, at/c.pageSize, masks[i%len(masks)], err)
		}
	}
	if refused < silent/4 || silent < refused/8 {
		t.Errorf("%d files refused, %d opened: not what flips all over a file do", refused, silent)
	}
}

// TestFlippedBytesUnderAStore does it while the store is open.
func TestFlippedBytesUnderAStore(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	r := rand.New(rand.NewPCG(3, 4))
	for i, at := range c.offsets(r) {
		if i%3 != 0 {
			continue
		}
		mask := masks[i/3%len(masks)]
		c.write(t, path, c.image)
		s := open(t, path)
		patch(t, path, int64(at), c.image[at]^mask)
		if i%2 == 0 {
			put(s, 100*(i%8), "first a commit, then reads")
		}
		rows, err := use(s)
		if i%2 == 1 {
			err = c.judge(rows, err)
		} else if errors.Is(err, bolt.ErrDamaged) || errors.Is(err, bolt.ErrStopped) {
			err = nil
		}
		if err != nil {
			t.Errorf("byte %d of page %d, %#x: %v", at%c.pageSize, at/c.pageSize, mask, err)
		}
		closeStore(t, s)
	}
}

func patch(t testing.TB, path string, at int64, b ...byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt(b, at)
	check(t, errors.Join(err, f.Close()))
}

// lengths are where a file is cut: around each page, and in between.
func (c *sample) lengths() (list []int64) {
	for page := 0; page < len(c.image); page += c.pageSize {
		for _, at := range []int{0, 1, 16, 80, c.pageSize / 2, c.pageSize - 1} {
			list = append(list, int64(page+at))
		}
	}
	return list
}

// TestTruncated: no shorter file is opened.
func TestTruncated(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	for _, n := range c.lengths() {
		c.write(t, path, c.image[:n])
		if s, err := bolt.Open(path); err == nil {
			t.Errorf("%d of %d bytes were opened", n, len(c.image))
			closeStore(t, s)
		} else if !errors.Is(err, bolt.ErrDamaged) && !errors.Is(err, bolt.ErrFormat) {
			t.Errorf("%d of %d bytes: got %v, want ErrDamaged", n, len(c.image), err)
		}
	}
}

// TestTruncatedUnderAStore: what is gone cannot be read or built upon, and what is behind the end of
// the file in the mapping is a signal that nobody gets.
func TestTruncatedUnderAStore(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	for i, n := range c.lengths() {
		c.write(t, path, c.image)
		s := open(t, path)
		check(t, os.Truncate(path, n))
		if _, err := put(s, i, "v"); !errors.Is(err, bolt.ErrDamaged) {
			t.Errorf("Update of %d of %d bytes: got %v, want ErrDamaged", n, len(c.image), err)
		}
		if _, err := use(s); err != nil && !errors.Is(err, bolt.ErrDamaged) {
			t.Errorf("%d of %d bytes: got %v, want ErrDamaged", n, len(c.image), err)
		}
		closeStore(t, s)
	}
}

// TestOverwrittenUnderAView: a View that runs notices, too.
func TestOverwrittenUnderAView(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	for _, noise := range [][]byte{bytes.Repeat([]byte{0}, len(c.image)), bytes.Repeat([]byte{0xff}, len(c.image))} {
		c.write(t, path, c.image)
		s := open(t, path)
		err := s.View(context.Background(), func(r keystore.Reader) error {
			patch(t, path, 0, noise...)
			_, err := r.Get(name(205))
			return err
		})
		wantError(t, "Get", err, bolt.ErrDamaged)
		_, err = put(s, 1, "v")
		wantError(t, "Update", err, bolt.ErrDamaged)
		closeStore(t, s)
	}
}

// TestTornMeta: of the two meta pages the older one is enough, and what it tells is whole.
func TestTornMeta(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	states := make(map[string]bool)
	for page := range 2 {
		c.write(t, path, c.image)
		patch(t, path, int64(page*c.pageSize+40), 0xee)
		s := open(t, path)
		rows, _, err := scan(s)
		check(t, err)
		switch {
		case differences(rows, c.rows) == 0:
			states["last"] = true
		case differences(rows, c.before) == 0:
			states["before"] = true
		}
		mustPut(t, s, 1, "goes on")
		closeStore(t, s)
		closeStore(t, open(t, path))
	}
	if !states["last"] || !states["before"] {
		t.Errorf("saw %v, want the last state and the one before", states)
	}
}

// TestLinksAstray sets each number of a page to that of each other one. A page with two owners is
// refused: a cycle would end in no memory, a page in use that counts as free would be overwritten by
// the next commit.
func TestLinksAstray(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	children, free := bolt.Links(c.image)
	if len(children) < 5 || len(free) < 3 {
		t.Fatalf("the sample has %d children and %d free pages", len(children), len(free))
	}
	pages := len(c.image) / c.pageSize
	for i, at := range append(children, free...) {
		for page := i % 3; page < pages; page += 3 {
			image := bytes.Clone(c.image)
			binary.NativeEndian.PutUint64(image[at:], uint64(page))
			if bytes.Equal(image, c.image) {
				continue
			}
			c.write(t, path, image)
			if s, err := bolt.Open(path); err == nil {
				t.Errorf("page %d was accepted in the place of another at %d", page, at)
				closeStore(t, s)
			} else if !errors.Is(err, bolt.ErrDamaged) {
				t.Errorf("page %d at %d: got %v, want ErrDamaged", page, at, err)
			}
		}
	}
}

// TestLinksAstrayUnderAStore bends the tree into itself while the store is open. Reads and commits
// that meet it are refused, and come back.
func TestLinksAstrayUnderAStore(t *testing.T) {
	t.Parallel()
	c := newSample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	children, _ := bolt.Links(c.image)
	for _, at := range children {
		c.write(t, path, c.image)
		s := open(t, path)
		own := binary.NativeEndian.AppendUint64(nil, uint64(at/c.pageSize))
		patch(t, path, int64(at), own...)
		_, _, err := scan(s)
		wantError(t, "Scan", err, bolt.ErrDamaged)
		refused := 0
		for i := 0; i < 800; i += 10 {
			if _, err := put(s, i, "v"); errors.Is(err, bolt.ErrDamaged) {
				refused++
			} else if err != nil {
				t.Errorf("Update: %v", err)
			}
		}
		if refused == 0 {
			t.Error("no commit noticed")
		}
		closeStore(t, s)
	}
}

// FuzzOpen overwrites a region of a file, puts the checksums of the meta pages right so that what is
// in them counts, and uses the store: it may refuse, and that is all that may happen.
func FuzzOpen(f *testing.F) {
	c := newSample(f)
	for page := range len(c.image) / c.pageSize {
		f.Add(uint32(page*c.pageSize+8), []byte{1, 0, 255})
	}
	f.Add(uint32(16+32), []byte{3, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint32(c.pageSize+16+40), []byte{255, 255, 255, 255, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, at uint32, data []byte) {
		image := bytes.Clone(c.image)
		if len(data) == 0 {
			return
		}
		copy(image[int(at)%len(image):], data)
		for page := range 2 {
			bolt.SumMeta(image[page*c.pageSize:])
		}
		path := filepath.Join(t.TempDir(), "store.db")
		c.write(t, path, image)
		s, err := bolt.Open(path)
		if err == nil {
			_, err = use(s)
			closeStore(t, s)
		}
		if err != nil && !errors.Is(err, bolt.ErrDamaged) && !errors.Is(err, bolt.ErrFormat) {
			t.Errorf("got error %v, want ErrDamaged", err)
		}
	})
}

var errRollback = errors.New("nothing to be changed")
