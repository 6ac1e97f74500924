package bolt_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

const benchRows = 10_000

// benchStore returns a store with rows of 300 bytes.
func benchStore(b *testing.B) keystore.Store {
	b.Helper()
	s := create(b, filepath.Join(b.TempDir(), "store.db"))
	b.Cleanup(func() { closeStore(b, s) })
	values := make([]string, keystore.MaxRows)
	for i := range values {
		values[i] = strings.Repeat("v", 300)
	}
	for i := 0; i < benchRows; i += len(values) {
		mustPut(b, s, i, values...)
	}
	b.ReportAllocs()
	return s
}

func BenchmarkGet(b *testing.B) {
	s, i := benchStore(b), 0
	for b.Loop() {
		i = (i + 7919) % benchRows
		if _, err := get(s, i); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a store of 250,000 rows, whose file is in the page cache.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store.db")
	populate(b, path, 250_000, 300)
	info, err := os.Stat(path)
	check(b, err)
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		closeStore(b, open(b, path))
	}
}

func BenchmarkScan1000(b *testing.B) {
	s := benchStore(b)
	for b.Loop() {
		err := s.View(context.Background(), func(r keystore.Reader) error {
			n := 0
			for _, err := range r.Scan(name(3000), name(4000)) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 1000 {
				return fmt.Errorf("%d rows", n)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdateAlone(b *testing.B) {
	s, i := benchStore(b), 0
	for b.Loop() {
		i = (i + 7919) % benchRows
		mustPut(b, s, i, "a value of some bytes")
	}
}

func BenchmarkUpdate64(b *testing.B) {
	s := benchStore(b)
	var i atomic.Int64
	b.SetParallelism(32) // on 2 processors
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mustPut(b, s, int(i.Add(7919)%benchRows), "a value of some bytes")
		}
	})
}
