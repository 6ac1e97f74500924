package sealed_test

import (
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// filled returns a store of n rows of 256 bytes.
func filled(b *testing.B, n int) keystore.Store {
	b.Helper()
	s := create(b, keystore.NewMemory())
	for i := 0; i < n; i += keystore.MaxRows {
		_, err := s.Update(b.Context(), func(tx keystore.Tx) error {
			for j := i; j < min(n, i+keystore.MaxRows); j++ {
				if err := tx.Put(name(j), make([]byte, 256)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkGet reads a row in a View of its own, from a store of 10,000.
func BenchmarkGet(b *testing.B) {
	s := filled(b, 10_000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if err := s.View(b.Context(), func(r keystore.Reader) error { _, err := r.Get(name(i % 10_000)); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPut writes a row in an Update of its own, into a store of 10,000.
func BenchmarkPut(b *testing.B) {
	s := filled(b, 10_000)
	value := make([]byte, 256)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		if _, err := s.Update(b.Context(), func(tx keystore.Tx) error { return tx.Put(name(i%10_000), value) }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a store of 10,000 rows.
func BenchmarkOpen(b *testing.B) {
	s := filled(b, 10_000)
	below := keystore.NewMemory()
	defer s.Close()
	all := rows(b, s)
	first := create(b, below)
	for n, value := range all {
		put(b, first, n, value)
	}
	b.ReportAllocs()
	for b.Loop() {
		open(b, lent{below}, theKeys).Close()
	}
}
