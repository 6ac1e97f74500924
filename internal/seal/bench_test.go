package seal_test

import (
	"fmt"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

var sizes = []struct {
	name  string
	bytes int
}{{"32B", 32}, {"4KiB", 4096}}

func BenchmarkSeal(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			f := newSealer(b, size.bytes)
			b.ReportAllocs()
			b.SetBytes(int64(size.bytes))
			for b.Loop() {
				f.seal(context)
			}
		})
	}
	b.Run("32B/new-context", func(b *testing.B) {
		f := newSealer(b, 32)
		b.ReportAllocs()
		context := make([]byte, 12)
		for b.Loop() {
			for i := range context {
				if context[i]++; context[i] != 0 {
					break
				}
			}
			f.seal(context)
		}
	})
	b.Run("32B/parallel", func(b *testing.B) {
		b.ReportAllocs()
		shared := newSealer(b, 32)
		b.RunParallel(func(pb *testing.PB) {
			f := *shared
			f.dst, f.scratch = make([]byte, 0, 200), make([]byte, 0, 200)
			for pb.Next() {
				f.seal(context)
			}
		})
	})
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			f := newSealer(b, size.bytes)
			blob := mustSeal(b, f.k, f.plaintext, context)
			out := make([]byte, 0, size.bytes)
			b.ReportAllocs()
			b.SetBytes(int64(size.bytes))
			for b.Loop() {
				if _, err := f.k.Open(out, f.scratch, blob, context); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewMessageKey(b *testing.B) {
	b.ReportAllocs()
	h, prk := testHeader(), make([]byte, 32)
	for b.Loop() {
		keyFor(b, h, prk)
	}
}

func BenchmarkNewSealingKey(b *testing.B) {
	b.ReportAllocs()
	h, prk := testHeader(), make([]byte, 32)
	for b.Loop() {
		if _, err := seal.NewSealingKey(h, prk, prk); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, size := range sizes {
		r, err := seal.SealRecord(nil, bucketKey, place, name, make([]byte, size.bytes))
		if err != nil {
			b.Fatal(err)
		}
		out := make([]byte, 0, size.bytes)
		b.Run(fmt.Sprintf("Seal/%s", size.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := seal.SealRecord(r[:0], bucketKey, place, name, out[:size.bytes]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("Open/%s", size.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := seal.OpenRecord(out, bucketKey, place, name, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// sealer seals without end: it makes the key's bounds whole again before they are reached.
type sealer struct {
	k                       *seal.MessageKey
	plaintext, dst, scratch []byte
	n                       int
}

func newSealer(b *testing.B, size int) *sealer {
	k, _, _ := newKey(b)
	return &sealer{k: k, plaintext: make([]byte, size), dst: make([]byte, 0, size+200), scratch: make([]byte, 0, 200)}
}

func (s *sealer) seal(context []byte) {
	if s.n++; s.n%1000 == 0 {
		s.k.Renew()
	}
	if _, err := s.k.Seal(s.dst, s.scratch, s.plaintext, context); err != nil {
		panic(err)
	}
}

func BenchmarkMAC(b *testing.B) {
	for _, size := range []int{48, 2048} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			key, message, out := make([]byte, 32), make([]byte, size), make([]byte, 0, 32)
			b.ReportAllocs()
			for b.Loop() {
				seal.MAC(out, key, message)
			}
		})
	}
}
