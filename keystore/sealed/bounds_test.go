package sealed_test

import (
	"errors"
	"testing"

	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// TestOpenedBucketsAreBounded: however many rows a View asks for, found or not, it holds few buckets.
func TestOpenedBucketsAreBounded(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	for i := range 120 {
		put(t, s, name(i), []byte("v"))
	}
	for _, c := range []struct{ buckets, bytes int }{{8, 1 << 20}, {1 << 16, 1000}} {
		s.Shrink(c.buckets, c.bytes)
		most := 0
		err := s.View(t.Context(), func(r keystore.Reader) error {
			for i := range 240 { // the second half is not there
				if _, err := r.Get(name(i)); err != nil && !errors.Is(err, keystore.ErrNotFound) {
					return err
				}
				buckets, bytes := sealed.Opened(r)
				if buckets > c.buckets || bytes > c.bytes+200 { // a bucket may have room for one more entry
					t.Errorf("%d buckets of %d bytes are open, want at most %d of %d", buckets, bytes, c.buckets, c.bytes)
				}
				most = max(most, buckets)
			}
			return nil
		})
		if err != nil || most < 4 {
			t.Errorf("%v; at most %d buckets were open", err, most)
		}
	}
}

// TestBucketsThatGrow: a buffer that has become too small is given back. Not parallel: it looks at
// the locked memory of the process.
func TestBucketsThatGrow(t *testing.T) {
	s := create(t, keystore.NewMemory())
	a, b := neighbours(t)
	before := 0
	for i := range 1100 {
		if i == 100 {
			before = securemem.Status().InUse
		}
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error { return errors.Join(tx.Put(a, nil), tx.Put(b, nil)) })
		if err != nil {
			t.Fatal(err)
		}
		remove(t, s, a)
		remove(t, s, b)
	}
	if after := securemem.Status().InUse; after > before+32<<10 {
		t.Errorf("locked memory went from %d to %d bytes", before, after)
	}
}

// TestWrittenBucketsStayOpen: what a transaction has written is not forgotten for what it reads.
func TestWrittenBucketsStayOpen(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	for i := range 40 {
		put(t, s, name(i), []byte("v"))
	}
	s.Shrink(4, 1<<20)
	want := make(map[keystore.Name]string)
	_, err := s.Update(t.Context(), func(tx keystore.Tx) (err error) {
		for i := range 40 {
			want[name(i)] = "read"
			if i%2 == 0 {
				want[name(i)] = "written"
				err = errors.Join(err, tx.Put(name(i), []byte("written")))
			} else if _, e := tx.Get(name(i)); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, value := range want {
		if value == "read" {
			want[n] = "v"
		}
	}
	wantWell(t, s, want)
	wantWell(t, open(t, lent{below}, theKeys), want)

	s.Shrink(64, 1000)
	_, err = s.Update(t.Context(), func(tx keystore.Tx) (err error) {
		for i := range 40 {
			err = errors.Join(err, tx.Put(name(i), []byte("too many")))
		}
		return err
	})
	if !errors.Is(err, keystore.ErrTooLarge) {
		t.Errorf("buckets beyond the locked memory of a transaction: %v, want ErrTooLarge", err)
	}
	wantWell(t, s, want)
}
