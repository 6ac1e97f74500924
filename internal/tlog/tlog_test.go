package tlog_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/bits"
	"testing"

	oracle "golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/keyrack/keyrack/internal/tlog"
)

// The leaves and roots that implementations of RFC 6962 are commonly tested with.
var (
	knownLeaves = []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	knownRoots  = []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
)

func TestKnownRoots(t *testing.T) {
	t.Parallel()
	var f tlog.Frontier
	for n, want := range knownRoots {
		root := f.Root()
		if got := hex.EncodeToString(root[:]); got != want {
			t.Errorf("root of %d leaves: got %s, want %s", n, got, want)
		}
		if n < len(knownLeaves) {
			leaf, err := hex.DecodeString(knownLeaves[n])
			if err != nil {
				t.Fatal(err)
			}
			f.Append(tlog.LeafHash(leaf))
		}
	}
}

// tree is the slow, obvious tree that the fast one is compared with.
type tree struct {
	leaves []tlog.Hash
	front  tlog.Frontier
	stored []oracle.Hash
}

func newTree(t interface{ Fatal(...any) }, n int) *tree {
	tr := new(tree)
	for i := range n {
		data := binary.BigEndian.AppendUint64(nil, uint64(i)*2654435761)
		tr.leaves = append(tr.leaves, tlog.LeafHash(data))
		tr.front.Append(tr.leaves[i])
		more, err := oracle.StoredHashes(int64(i), data, oracle.HashReaderFunc(tr.read))
		if err != nil {
			t.Fatal(err)
		}
		tr.stored = append(tr.stored, more...)
	}
	return tr
}

func (tr *tree) read(at []int64) ([]oracle.Hash, error) {
	var out []oracle.Hash
	for _, i := range at {
		out = append(out, tr.stored[i])
	}
	return out, nil
}

func (tr *tree) node(level int, index uint64) (tlog.Hash, error) {
	lo, hi := index<<level, (index+1)<<level
	if hi > uint64(len(tr.leaves)) {
		return tlog.Hash{}, errors.New("asked for a subtree that is not full")
	}
	var f tlog.Frontier
	for _, l := range tr.leaves[lo:hi] {
		f.Append(l)
	}
	return f.Root(), nil
}

func (tr *tree) root(t interface{ Fatal(...any) }, n uint64) tlog.Hash {
	h, err := oracle.TreeHash(int64(n), oracle.HashReaderFunc(tr.read))
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return tlog.EmptyRoot
	}
	return tlog.Hash(h)
}

func TestAgainstOracle(t *testing.T) {
	t.Parallel()
	const most = 70
	tr := newTree(t, most)
	for newer := uint64(1); newer <= most; newer++ {
		root := tr.root(t, newer)
		for older := uint64(1); older <= newer; older++ {
			checkConsistency(t, tr, older, newer, root)
			checkInclusion(t, tr, older-1, newer, root)
		}
	}
	if got, want := tr.front.Root(), tr.root(t, most); got != want {
		t.Errorf("root: got %v, want %v", got, want)
	}
}

func checkConsistency(t *testing.T, tr *tree, older, newer uint64, root tlog.Hash) {
	t.Helper()
	proof, err := tlog.ProveConsistency(older, newer, tr.node)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifyConsistency(older, newer, tr.root(t, older), root, proof); err != nil {
		t.Fatalf("consistency %d to %d: %v", older, newer, err)
	}
	var theirs oracle.TreeProof
	for _, h := range proof {
		theirs = append(theirs, oracle.Hash(h))
	}
	if err := oracle.CheckTree(theirs, int64(newer), oracle.Hash(root), int64(older), oracle.Hash(tr.root(t, older))); err != nil {
		t.Fatalf("consistency %d to %d: oracle: %v", older, newer, err)
	}
}

func checkInclusion(t *testing.T, tr *tree, index, size uint64, root tlog.Hash) {
	t.Helper()
	proof, err := tlog.ProveInclusion(index, size, tr.node)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifyInclusion(index, size, tr.leaves[index], proof, root); err != nil {
		t.Fatalf("inclusion of %d in %d: %v", index, size, err)
	}
	var theirs oracle.RecordProof
	for _, h := range proof {
		theirs = append(theirs, oracle.Hash(h))
	}
	if err := oracle.CheckRecord(theirs, int64(size), oracle.Hash(root), int64(index), oracle.Hash(tr.leaves[index])); err != nil {
		t.Fatalf("inclusion of %d in %d: oracle: %v", index, size, err)
	}
}

// TestWrongProofs changes one thing at a time: a bit of a hash, a position, a size, the proof's
// length.
func TestWrongProofs(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 300)
	rapid.Check(t, func(t *rapid.T) {
		newer := rapid.Uint64Range(2, 300).Draw(t, "newer")
		older := rapid.Uint64Range(1, newer-1).Draw(t, "older")
		was, is := tr.root(t, older), tr.root(t, newer)
		proof, err := tlog.ProveConsistency(older, newer, tr.node)
		if err != nil {
			t.Fatal(err)
		}
		bad, badWas, badIs, badOlder := append([]tlog.Hash(nil), proof...), was, is, older
		switch rapid.IntRange(0, 5).Draw(t, "change") {
		case 0:
			flip(t, &bad[rapid.IntRange(0, len(bad)-1).Draw(t, "hash")])
		case 1:
			bad = bad[:len(bad)-1]
		case 2:
			bad = append(bad, tlog.Hash{})
		case 3:
			flip(t, &badWas)
		case 4:
			flip(t, &badIs)
		case 5:
			badOlder = rapid.Uint64Range(0, newer+1).Filter(func(n uint64) bool { return n != older }).Draw(t, "other size")
		}
		if err := tlog.VerifyConsistency(badOlder, newer, badWas, badIs, bad); !errors.Is(err, tlog.ErrProof) {
			t.Fatalf("consistency %d to %d: got %v, want ErrProof", badOlder, newer, err)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(2, 300).Draw(t, "size")
		index := rapid.Uint64Range(0, size-1).Draw(t, "index")
		root, leaf := tr.root(t, size), tr.leaves[index]
		proof, err := tlog.ProveInclusion(index, size, tr.node)
		if err != nil {
			t.Fatal(err)
		}
		bad, badIndex := append([]tlog.Hash(nil), proof...), index
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			flip(t, &bad[rapid.IntRange(0, len(bad)-1).Draw(t, "hash")])
		case 1:
			bad = bad[:len(bad)-1]
		case 2:
			bad = append(bad, tlog.Hash{})
		case 3:
			flip(t, &leaf)
		case 4:
			badIndex = rapid.Uint64Range(0, size+1).Filter(func(n uint64) bool { return n != index }).Draw(t, "other index")
		}
		if err := tlog.VerifyInclusion(badIndex, size, leaf, bad, root); !errors.Is(err, tlog.ErrProof) {
			t.Fatalf("inclusion of %d in %d: got %v, want ErrProof", badIndex, size, err)
		}
	})
}

func flip(t *rapid.T, h *tlog.Hash) {
	bit := rapid.IntRange(0, 255).Draw(t, "bit")
	h[bit/8] ^= 1 << (bit % 8)
}

func TestTrivialConsistency(t *testing.T) {
	t.Parallel()
	root, other := tlog.LeafHash([]byte("a")), tlog.LeafHash([]byte("b"))
	for _, c := range []struct {
		name         string
		older, newer uint64
		was, is      tlog.Hash
		proof        []tlog.Hash
		ok           bool
	}{
		{"from empty", 0, 5, tlog.EmptyRoot, root, nil, true},
		{"from a false empty root", 0, 5, other, root, nil, false},
		{"from empty with a proof", 0, 5, tlog.EmptyRoot, root, []tlog.Hash{root}, false},
		{"same size, same root", 5, 5, root, root, nil, true},
		{"same size, other root", 5, 5, other, root, nil, false},
		{"shrunk", 6, 5, root, root, nil, false},
		{"no proof", 3, 5, root, root, nil, false},
	} {
		if err := tlog.VerifyConsistency(c.older, c.newer, c.was, c.is, c.proof); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestRange(t *testing.T) {
	t.Parallel()
	never := func(int, uint64) (tlog.Hash, error) { panic("asked") }
	if _, err := tlog.ProveInclusion(3, 3, never); !errors.Is(err, tlog.ErrRange) {
		t.Errorf("inclusion of 3 in 3: %v", err)
	}
	if _, err := tlog.ProveConsistency(4, 3, never); !errors.Is(err, tlog.ErrRange) {
		t.Errorf("consistency 4 to 3: %v", err)
	}
	broken := errors.New("disk")
	fail := func(int, uint64) (tlog.Hash, error) { return tlog.Hash{}, broken }
	if _, err := tlog.ProveConsistency(3, 7, fail); !errors.Is(err, broken) {
		t.Errorf("source's error: %v", err)
	}
}

func TestFrontierEncoding(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 100)
	var f tlog.Frontier
	for n := 0; ; n++ {
		b, err := f.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if want := 8 + 32*bits.OnesCount(uint(n)); len(b) != want {
			t.Errorf("%d leaves: %d bytes, want %d", n, len(b), want)
		}
		var g tlog.Frontier
		if err := g.UnmarshalBinary(b); err != nil || !g.Equal(&f) {
			t.Fatalf("%d leaves: round trip: %v", n, err)
		}
		for _, bad := range [][]byte{b[:len(b)-1], append(b[:len(b):len(b)], 0)} {
			if err := g.UnmarshalBinary(bad); !errors.Is(err, tlog.ErrFrontier) {
				t.Errorf("%d leaves: wrong length accepted", n)
			}
		}
		if n == len(tr.leaves) {
			return
		}
		f.Append(tr.leaves[n])
		g.Append(tr.leaves[n])
		if f.Root() != g.Root() {
			t.Errorf("restored frontier grows differently after %d", n)
		}
	}
}

func TestSubtree(t *testing.T) {
	t.Parallel()
	tr := newTree(t, 100)
	for level := -1; level < 70; level++ {
		h, ok := tr.front.Subtree(level)
		if want := level >= 0 && level < 64 && 100>>level&1 == 1; ok != want {
			t.Fatalf("level %d: %v", level, ok)
		}
		if !ok {
			continue
		}
		if want, err := tr.node(level, uint64(100>>level-1)); err != nil || h != want {
			t.Errorf("level %d: got %v, want %v, %v", level, h, want, err)
		}
	}
}

func TestHashingDoesNotAllocate(t *testing.T) {
	var f tlog.Frontier
	data := make([]byte, 200)
	if n := testing.AllocsPerRun(1000, func() { f.Append(tlog.LeafHash(data)); f.Root() }); n != 0 {
		t.Errorf("%v allocations a leaf", n)
	}
}

func BenchmarkAppend(b *testing.B) {
	var f tlog.Frontier
	var leaf tlog.Hash
	b.ReportAllocs()
	for b.Loop() {
		f.Append(leaf)
	}
}

func BenchmarkLeafHash(b *testing.B) {
	data := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		tlog.LeafHash(data)
	}
}
