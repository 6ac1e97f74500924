package sealed_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// sharing returns two names of one bucket.
func sharing(t *testing.T, s *sealed.Store) (a, b keystore.Name) {
	t.Helper()
	met := map[keystore.Name]keystore.Name{}
	for i := range 100_000 {
		n := name(i)
		if other, ok := met[s.BucketOf(n)]; ok {
			return other, n
		}
		met[s.BucketOf(n)] = n
	}
	t.Fatal("no two names have one bucket")
	return a, b
}

// numberOf is the number of the bucket key that a stored record was sealed under.
func numberOf(record []byte) uint32 { return binary.BigEndian.Uint32(record[1:]) }

// TestRenew: the records beside a deleted one get another key, nothing else changes, and the deleted
// record fits nowhere.
func TestRenew(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	want := map[keystore.Name]string{}
	gone, left := sharing(t, s)
	for i := range 50 {
		want[name(200_000+i)] = "far away"
	}
	want[left] = "left"
	for n, value := range want {
		put(t, s, n, []byte(value))
	}
	put(t, s, gone, []byte("secret"))
	before := rows(t, below)
	remove(t, s, gone)
	for round := uint32(2); round < 4; round++ {
		old, err := s.BucketKey(t.Context(), gone)
		if err == nil {
			err = s.Renew(t.Context(), []keystore.Name{gone, name(300_000)})
		}
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := s.BucketKey(t.Context(), gone); err != nil || bytes.Equal(fresh, old) {
			t.Errorf("the bucket's key is %x as before, %v", fresh, err)
		}
		after := rows(t, below)
		if numberOf(after[left]) != round || bytes.Equal(after[left], before[left]) || numberOf(before[gone]) != 1 {
			t.Errorf("the record beside it has key %d, want %d", numberOf(after[left]), round)
		}
		for n := range want {
			if n != left && s.BucketOf(n) != s.BucketOf(gone) && !bytes.Equal(after[n], before[n]) {
				t.Errorf("%s was sealed anew, too", n)
			}
		}
		wantWell(t, s, want)
		wantWell(t, open(t, lent{below}, held(t, below)), want)
	}
	put(t, below, left, before[left])
	_, err := get(open(t, lent{below}, held(t, below)), false, left)
	wantBroken(t, "the record of before", err, left.String())
}

// TestRenewMeetsDamage: a record that is not what was written is not sealed anew, and named.
func TestRenewMeetsDamage(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	gone, left := sharing(t, s)
	put(t, s, left, []byte("left"))
	record := bytes.Clone(rows(t, below)[left])
	record[len(record)-1] ^= 1
	put(t, below, left, record)
	wantBroken(t, "Renew", s.Renew(t.Context(), []keystore.Name{gone}), left.String())
}

// TestRenewUnderLoad: rows come and go in the bucket meanwhile, and none is lost.
func TestRenewUnderLoad(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	gone, left := sharing(t, s)
	put(t, s, left, []byte("0"))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 200 {
			put(t, s, left, fmt.Append(nil, i))
			put(t, s, gone, []byte("x"))
			remove(t, s, gone)
		}
	})
	for range 20 {
		if err := s.Renew(t.Context(), []keystore.Name{gone}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := s.Renew(t.Context(), []keystore.Name{gone}); err != nil {
		t.Error(err)
	}
	wantWell(t, s, map[keystore.Name]string{left: "199"})
}
