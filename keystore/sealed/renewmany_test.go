package sealed_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// crowd puts so many rows into a store, many at a time, of each value bytes, and returns them.
func crowd(t testing.TB, s *sealed.Store, rows, value int) map[keystore.Name]string {
	t.Helper()
	want := map[keystore.Name]string{}
	for first := 0; first < rows; first += 7 {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) (err error) {
			for i := first; i < min(first+7, rows) && err == nil; i++ {
				v := bytes.Repeat([]byte{byte(i)}, value)
				want[name(i)] = string(v)
				err = tx.Put(name(i), v)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return want
}

// bucketValue opens the row of a bucket in the store below, sealed under a version of the domain key.
func bucketValue(t testing.TB, below keystore.Store, row keystore.Name, version uint32) []byte {
	t.Helper()
	stored, err := get(below, false, row)
	if err != nil {
		t.Fatal(err)
	}
	bucket := binary.BigEndian.Uint16([]byte(row.Components()[0]))
	place := seal.Place{Appliance: theAppliance, Bucket: bucket, Number: version}
	value, err := seal.OpenRecord(nil, kdf(keysOf[version], "w1", theAppliance[:]), place, row.Append(nil), stored)
	if err != nil {
		t.Fatalf("%s: %v", row, err)
	}
	return value
}

// TestRenewManyRows: a bucket with many more rows than a transaction takes, and one with long ones, get another
// key; who reads meanwhile finds every row. The key of before is not in the bucket's row any more.
func TestRenewManyRows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ buckets, rows, value int }{{2, 3000, 5}, {1, 30, keystore.MaxValue}} {
		below := keystore.NewMemory()
		s := create(t, below)
		s.Spread(c.buckets)
		want := crowd(t, s, c.rows, c.value)
		gone, row := name(7), s.BucketOf(name(7))
		delete(want, gone)
		remove(t, s, gone)
		old, before := bucketValue(t, below, row, 1)[4:36], rows(t, below)
		stop := make(chan struct{})
		var reader sync.WaitGroup
		reader.Go(func() {
			for i := 0; ; i++ {
				n := name(i % c.rows)
				if got, err := get(s, i%9 == 0, n); n != gone && (err != nil || string(got) != want[n]) {
					t.Errorf("%s: %d bytes, %v", n, len(got), err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		err := s.Renew(t.Context(), []keystore.Name{gone})
		close(stop)
		reader.Wait()
		if err != nil {
			t.Fatal(err)
		}
		after := rows(t, below)
		for n := range want {
			if number := uint32(2); s.BucketOf(n) != row && !bytes.Equal(before[n], after[n]) || s.BucketOf(n) == row && numberOf(after[n]) != number {
				t.Fatalf("the record of %s has key %d", n, numberOf(after[n]))
			}
		}
		if value := bucketValue(t, below, row, 1); bytes.Contains(value, old) || len(value)%48 != 36 {
			t.Errorf("the old key is still in the bucket's row of %d bytes", len(value))
		}
		wantWell(t, s, want)
		again := open(t, lent{below}, theKeys)
		again.Spread(c.buckets)
		wantWell(t, again, want)
	}
}

// TestRenewAfterACrash stops the disk at every commit of a renewal, with and without having made it. What is there
// then has every row, also through a rotation of the domain key, and the next renewal leaves none of the keys.
func TestRenewAfterACrash(t *testing.T) {
	t.Parallel()
	const many = 150
	for last := 1; ; last++ {
		finished := false
		for _, made := range []bool{false, true} {
			d := newDisk()
			s := create(t, d.store(t))
			s.Spread(1)
			want := crowd(t, s, many, 3)
			delete(want, name(0))
			remove(t, s, name(0))
			row, stop := s.BucketOf(name(0)), d.commits+last
			d.commit = func(i int) (bool, error) {
				return i < stop || made && i == stop, map[bool]error{false: errDisk}[i < stop]
			}
			err := s.Renew(t.Context(), []keystore.Name{name(0)})
			if finished = err == nil; err != nil && !errors.Is(err, errDisk) {
				t.Fatalf("commit %d: %v", last, err)
			}
			d.commit = func(int) (bool, error) { return true, nil }
			below := d.store(t)
			keys := bucketValue(t, below, row, 1)
			s = open(t, lent{below}, theKeys)
			s.Spread(1)
			wantWell(t, s, want)
			if err := errors.Join(rekey(s, 1, 2), finish(s, 2)); err != nil {
				t.Fatal(err)
			}
			want[name(8000)], want[name(8001)] = "\x02", "\x02"
			wantWell(t, s, want)
			if err := s.Renew(t.Context(), []keystore.Name{name(0)}); err != nil {
				t.Fatal(err)
			}
			wantFresh(t, bucketValue(t, below, row, 2), keys)
			s = open(t, lent{below}, held(t, below))
			s.Spread(1)
			wantWell(t, s, want)
		}
		if finished {
			if last != 4 {
				t.Errorf("a renewal of %d rows has %d commits", many-1, last-1)
			}
			return
		}
	}
}

// wantFresh expects the value of a bucket row with none of the keys of an earlier one, computed as FORMAT.md says.
func wantFresh(t *testing.T, value, earlier []byte) {
	t.Helper()
	keys := [][]byte{earlier[4:36]}
	if left := int(binary.BigEndian.Uint32(earlier[len(earlier)-4:])); len(earlier)%48 == 36+40-48 {
		at := len(earlier) - 4 - 48*left
		keys = append(keys, earlier[at-32:at])
		if a, b := binary.BigEndian.Uint32(earlier), binary.BigEndian.Uint32(earlier[at-36:]); a != b+1 {
			t.Errorf("the older part of key %d is key %d's", a, b)
		}
	}
	for _, key := range keys {
		if bytes.Contains(value, key) {
			t.Errorf("key %x is still there", key)
		}
	}
	if len(value)%48 != 36 {
		t.Errorf("the bucket has an older part: %d bytes", len(value))
	}
}

// TestRenewWhileRowsComeAndGo: between the transactions of a renewal rows are written, removed and made, which
// leaves nothing behind, whatever part they were in.
func TestRenewWhileRowsComeAndGo(t *testing.T) {
	t.Parallel()
	const many = 300
	below := &heldStore{Store: keystore.NewMemory(), before: func() {}, after: func() {}}
	s := create(t, below)
	s.Spread(1)
	want := crowd(t, s, many, 3)
	round, inside := 0, false
	below.after = func() {
		if inside {
			return
		}
		inside = true
		round++
		for i := range 12 {
			n := name(i * 25)
			switch (i + round) % 3 {
			case 0:
				put(t, s, n, fmt.Append(nil, round))
				want[n] = fmt.Sprint(round)
			case 1:
				remove(t, s, n)
				delete(want, n)
			}
		}
		put(t, s, name(1000+round), []byte("new"))
		want[name(1000+round)] = "new"
		inside = false
	}
	err := s.Renew(t.Context(), []keystore.Name{name(0)})
	below.after = func() {}
	if err != nil || round < 4 {
		t.Errorf("%v, after %d transactions", err, round)
	}
	wantWell(t, s, want)
	if value := bucketValue(t, below, s.BucketOf(name(0)), 1); len(value) != 36+48*len(want) {
		t.Errorf("the bucket's row has %d bytes", len(value))
	}
	for n := range want {
		remove(t, s, n)
	}
	wantWell(t, s, nil)
}

// TestRenewTheFullest: the bucket with the most rows but one is renewed. With one more there is no room for two
// keys, which is said, and nothing has changed.
func TestRenewTheFullest(t *testing.T) {
	t.Parallel()
	const most = 2733
	below := keystore.NewMemory()
	s := create(t, below)
	s.Spread(1)
	want := crowd(t, s, most-1, 0)
	if err := s.Renew(t.Context(), []keystore.Name{name(0)}); err != nil {
		t.Error(err)
	}
	put(t, s, name(most), nil)
	want[name(most)] = ""
	_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name(most+1), nil) })
	if !errors.Is(err, keystore.ErrTooLarge) {
		t.Errorf("one row more: %v", err)
	}
	before := rows(t, below)
	if err := s.Renew(t.Context(), []keystore.Name{name(0)}); !errors.Is(err, keystore.ErrTooLarge) {
		t.Errorf("the fullest: %v", err)
	}
	if !maps.EqualFunc(before, rows(t, below), bytes.Equal) {
		t.Error("a renewal that is refused has changed something")
	}
	wantWell(t, s, want)
}

// TestRenewHoldsFewNames: however many buckets are renewed, the names of some are in memory at a time.
func TestRenewHoldsFewNames(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	s.Spread(50)
	all := slices.Collect(maps.Keys(crowd(t, s, 500, 1)))
	for _, most := range []int{1, 60, 250, 500} {
		rows, buckets := s.AtATime(all, most)
		if rows > most && buckets > 1 || buckets == 0 || most == 500 && rows != 500 || most == 250 && rows < 150 {
			t.Errorf("%d rows of %d buckets, want at most %d", rows, buckets, most)
		}
	}
	if err := s.Renew(t.Context(), all); err != nil {
		t.Error(err)
	}
}

// TestBucketsThatAreNone: what opens and is no bucket is refused all the same.
func TestBucketsThatAreNone(t *testing.T) {
	t.Parallel()
	number := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	entry := func(b byte) []byte { return bytes.Repeat([]byte{b}, 48) }
	key := entry(9)[:32]
	for what, c := range map[string]struct {
		is    bool
		parts [][]byte
	}{
		"one key":                {true, [][]byte{number(1), key, entry(1), entry(2)}},
		"two":                    {true, [][]byte{number(2), key, entry(1), number(1), key, entry(0), number(1)}},
		"nothing moved":          {true, [][]byte{number(2), key, number(1), key, entry(1), entry(2), number(2)}},
		"number 0":               {false, [][]byte{number(0), key, entry(1)}},
		"no entry":               {false, [][]byte{number(1), key}},
		"none in either part":    {false, [][]byte{number(2), key, number(1), key, number(0)}},
		"disorder":               {false, [][]byte{number(1), key, entry(2), entry(1)}},
		"a double":               {false, [][]byte{number(1), key, entry(1), entry(1)}},
		"disorder in the older":  {false, [][]byte{number(2), key, entry(1), number(1), key, entry(3), entry(2), number(2)}},
		"disorder in the newer":  {false, [][]byte{number(2), key, entry(2), entry(1), number(1), key, entry(3), number(1)}},
		"nothing left":           {false, [][]byte{number(2), key, entry(1), number(1), key, number(0)}},
		"more left than are":     {false, [][]byte{number(2), key, entry(1), number(1), key, entry(2), number(3)}},
		"many more":              {false, [][]byte{number(2), key, entry(1), number(1), key, entry(2), number(1 << 31)}},
		"an older key of number": {false, [][]byte{number(2), key, entry(1), number(2), key, entry(2), number(1)}},
		"an older key 0":         {false, [][]byte{number(2), key, entry(1), number(0), key, entry(2), number(1)}},
		"a byte more":            {false, [][]byte{number(1), key, entry(1), {0}}},
	} {
		if got := sealed.IsBucket(t, slices.Concat(c.parts...)); got != c.is {
			t.Errorf("%s: %t", what, got)
		}
	}
}
