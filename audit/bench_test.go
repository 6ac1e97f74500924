package audit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/audit"
)

// burstSize is how many requests a connection reads before it flushes, as in the goals of
// facts/performance.md: 8 connections, 64 in flight.
const burstSize = 64

// typical is a record of an Encrypt, 200 bytes encoded.
func typical() *audit.Record {
	return &audit.Record{
		Event: [16]byte{1, 2, 3}, Time: 1_767_225_600_000_000, Op: 257, Principal: "arn:aws:iam::111122223333:user/alice", Account: "111122223333",
		Source: "192.0.2.7:48212", Credential: [32]byte{0xc7}, RequestID: 123456, Request: []byte("\xa1\x01\x58\x18arn:aws:kms:rack-1:1/key"),
	}
}

func disklog(tb testing.TB) *audit.Log {
	c := small(audit.Dir(tb.TempDir()))
	c.SegmentBytes, c.CheckpointEvery = 0, time.Second
	l := open(tb, c)
	tb.Cleanup(func() { closeLog(tb, l) })
	return l
}

// TestAppendDoesNotAllocate is the whole path of a record, from the connection to the disk.
func TestAppendDoesNotAllocate(t *testing.T) {
	c := tiny(newDisk())
	c.Files, c.SegmentBytes = audit.Dir(t.TempDir()), 8<<20
	l := open(t, c)
	defer closeLog(t, l)
	var trail audit.Trail
	r := typical()
	perBurst := testing.AllocsPerRun(100, func() {
		for range burstSize {
			trail.Add(r)
		}
		p, err := l.Append(&trail, true)
		if err == nil {
			err = l.Wait(context.Background(), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%v allocations a burst of %d", perBurst, burstSize)
	if perBurst/burstSize >= 0.25 {
		t.Errorf("%v allocations a burst of %d records", perBurst, burstSize)
	}
	if n := testing.AllocsPerRun(100, func() { trail.Reset(); trail.Add(r); trail.Len(); l.Durable(); l.Err() }); n != 0 {
		t.Errorf("%v allocations for a record on its connection", n)
	}
}

// BenchmarkAppend is a loaded log on the real disk: producers that append a burst, and wait for
// the one before it.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("%dx%d", producers, burstSize), func(b *testing.B) {
			l := disklog(b)
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var all sync.WaitGroup
			began, cpu := time.Now(), cpuTime()
			b.ResetTimer()
			for range producers {
				all.Go(func() { produce(b, l, &left) })
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "records/s")
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N), "cpu-ns/record")
		})
	}
}

func produce(b *testing.B, l *audit.Log, left *atomic.Int64) {
	var trail audit.Trail
	var last audit.Position
	r := typical()
	for left.Add(-burstSize) > -burstSize {
		for range burstSize {
			trail.Add(r)
		}
		p, err := l.Append(&trail, false)
		if err == nil {
			err = l.Wait(context.Background(), last)
		}
		if err != nil {
			b.Error(err)
			return
		}
		last = p
	}
	if err := l.Wait(context.Background(), last); err != nil {
		b.Error(err)
	}
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAlone is one request at a time.
func BenchmarkAlone(b *testing.B) {
	for _, alone := range []bool{true, false} {
		b.Run(fmt.Sprintf("inline=%v", alone), func(b *testing.B) {
			l := disklog(b)
			b.ReportAllocs()
			var trail audit.Trail
			r := typical()
			for b.Loop() {
				trail.Add(r)
				p, err := l.Append(&trail, alone)
				if err == nil {
					err = l.Wait(context.Background(), p)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTrail is a connection's own share: encode and hash.
func BenchmarkTrail(b *testing.B) {
	var trail audit.Trail
	r := typical()
	b.ReportAllocs()
	for b.Loop() {
		if trail.Add(r); trail.Len() == burstSize {
			trail.Reset()
		}
	}
}

// BenchmarkConsistency is what a client asks for that comes back after a while: cold, the segments
// are read; warm, another client asked for something near before.
func BenchmarkConsistency(b *testing.B) {
	l := disklog(b)
	var left atomic.Int64
	left.Store(200_000)
	produce(b, l, &left)
	size := l.Durable()
	b.Run("warm", func(b *testing.B) {
		n := audit.Position(0)
		for b.Loop() {
			n = (n + 7919) % size
			if _, err := l.Consistency(b.Context(), n, size); err != nil {
				b.Fatal(err)
			}
		}
	})
}
