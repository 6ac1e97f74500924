package main_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"
)

// TestHistogramQuantile compares quantiles with those of the sorted durations:
// never below, and at most a thirty-second above.
func TestHistogramQuantile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var counted []time.Duration
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			bits := rapid.IntRange(0, 63).Draw(t, "bits")
			counted = append(counted, time.Duration(rapid.Int64Range(0, 1<<bits-1).Draw(t, "d")))
		}
		for _, q := range []float64{0, 0.01, 0.5, 0.99, 1} {
			got, want := keyrack.Quantiles(counted, q)[0], exact(counted, q)
			if got < want || float64(got-want) > float64(want)/32 {
				t.Fatalf("quantile %v of %v is %d, want %d to %d", q, counted, got, want, want+want/32)
			}
		}
	})
	if got := keyrack.Quantiles(nil, 0.5)[0]; got != 0 {
		t.Errorf("median of nothing is %v", got)
	}
	if got := keyrack.Quantiles([]time.Duration{math.MaxInt64, -1}, 0.5, 1); got[0] != 0 || got[1] != math.MaxInt64 {
		t.Errorf("the ends of the range are %v", got)
	}
}

// exact returns the smallest of the durations that a share q do not exceed.
func exact(counted []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(counted))
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}
