package bolt_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"go.etcd.io/bbolt"
)

// populate makes a store with so many rows in random order, by bolt itself: the commits of a Store would
// take minutes.
func populate(t testing.TB, path string, rows, size int) {
	t.Helper()
	closeStore(t, create(t, path))
	r := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, size)
	for at := 0; at < rows; at += 10_000 {
		foreign(t, path, func(tx *bbolt.Tx) (err error) {
			for i := at; i < min(at+10_000, rows) && err == nil; i++ {
				id := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, r.Uint64()), r.Uint64())
				err = tx.Bucket([]byte("rows")).Put(keystore.MakeName(keystore.SpaceKey, string(id)).Append(nil), value)
			}
			return err
		})
	}
}

// grove is a sound file with branches under its root, so that goroutines share it at Open.
type grove struct {
	path     string
	pageSize int
	image    []byte
	children []int // where in the file the numbers of the tree's pages stand, that of its root apart
}

func newGrove(t *testing.T) *grove {
	t.Helper()
	g := &grove{path: filepath.Join(t.TempDir(), "store.db")}
	populate(t, g.path, 3_000, 200)
	foreign(t, g.path, func(tx *bbolt.Tx) error { g.pageSize = tx.DB().Info().PageSize; return errRollback })
	var err error
	g.image, err = os.ReadFile(g.path)
	check(t, err)
	g.children, _ = bolt.Links(g.image)
	parents := make(map[int]bool)
	for _, at := range g.children {
		parents[at/g.pageSize] = true
	}
	if len(g.children) < 150 || len(parents) < 3 {
		t.Fatalf("the tree has %d pages under %d", len(g.children), len(parents))
	}
	return g
}

// number returns the page whose number stands at a place.
func (g *grove) number(at int) int { return int(binary.NativeEndian.Uint64(g.image[at:])) }

// refused reports an error unless Open finds damage when these bytes stand there, and undoes it.
func (g *grove) refused(t *testing.T, what string, at int, b ...byte) {
	t.Helper()
	patch(t, g.path, int64(at), b...)
	s, err := bolt.Open(g.path)
	if err == nil {
		closeStore(t, s)
	}
	if !errors.Is(err, bolt.ErrDamaged) {
		t.Errorf("page %d, %s: got %v, want ErrDamaged", at/g.pageSize, what, err)
	}
	patch(t, g.path, int64(at), g.image[at:at+len(b)]...)
}

// TestDamageAnywhere damages each page in turn, whichever goroutine is to find it.
func TestDamageAnywhere(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	for _, at := range g.children {
		g.refused(t, "kind", g.number(at)*g.pageSize+8, 0x10)
	}
	closeStore(t, open(t, g.path)) // all was undone
}

// TestPageWithTwoOwners makes a page one longer. Keys stay in order, so that only the page behind it
// tells, which is another goroutine's as often as not.
func TestPageWithTwoOwners(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	owned := make(map[int]bool)
	for _, at := range g.children {
		owned[g.number(at)] = true
	}
	seen := 0
	for page := range owned {
		if owned[page+1] {
			g.refused(t, "length", page*g.pageSize+12, binary.NativeEndian.AppendUint32(nil, 1)...)
			seen++
		}
	}
	if seen < 20 {
		t.Errorf("%d pages of the tree are in front of another, too few", seen)
	}
}

// TestChildrenExchanged lets two pages change places, so that each has one owner and all is in order
// but for the bounds that the branches above set.
func TestChildrenExchanged(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	for i, a := range g.children {
		b := g.children[(i+1)%len(g.children)]
		if g.number(a) == b/g.pageSize || g.number(b) == a/g.pageSize {
			continue // one is above the other
		}
		patch(t, g.path, int64(b), g.image[a:a+8]...)
		g.refused(t, "exchange", a, g.image[b:b+8]...)
		patch(t, g.path, int64(b), g.image[b:b+8]...)
	}
}

// TestBranchBelowItsBound lowers the first key of a branch: all rows stay in order.
func TestBranchBelowItsBound(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	branches := 0
	for _, at := range g.children {
		if page := g.number(at) * g.pageSize; g.image[page+8] == 1 {
			key := page + 16 + int(binary.NativeEndian.Uint32(g.image[page+16:]))
			g.refused(t, "first key", key+3, make([]byte, 16)...) // behind the space and a length
			branches++
		}
	}
	if branches == 0 {
		t.Error("no branch is under the root")
	}
}

// TestEmptyLeaf: bolt has none but as a root.
func TestEmptyLeaf(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	leaves := 0
	for i := 0; i < len(g.children); i += 10 {
		if page := g.number(g.children[i]) * g.pageSize; g.image[page+8] == 2 {
			g.refused(t, "count", page+10, 0, 0)
			leaves++
		}
	}
	if leaves == 0 {
		t.Error("no leaf was met")
	}
}

// TestReadsAhead: only what is no small matter, and fits.
func TestReadsAhead(t *testing.T) {
	t.Parallel()
	for size, want := range map[int64]bool{32 << 10: false, 8 << 20: true, 1 << 50: false} {
		if got := bolt.ReadsAhead(size); got != want {
			t.Errorf("a file of %d bytes: %v, want %v", size, got, want)
		}
	}
}

// TestLongRoot: bolt frees a page with all that it says is behind it; the page of buckets has nothing.
func TestLongRoot(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	g.refused(t, "length", bolt.RootPage(g.image)*g.pageSize+12, binary.NativeEndian.AppendUint32(nil, 1)...)
}
