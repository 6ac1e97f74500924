package main

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations in buckets a thirty-second of their size wide, so
// that adding one is a few instructions. Not safe for concurrent use.
type histogram struct {
	buckets [(64 - fineBits) << fineBits]uint64
	count   uint64
}

// fineBits is how many bits of a duration, behind its highest, a bucket tells apart.
const fineBits = 5

// add counts d. Durations below 64 ns have buckets of their own. Of longer ones the
// highest six bits choose a bucket within a row, and how many bits follow chooses
// the row. No duration is too long for the last row.
func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, 0))
	if shift := bits.Len64(n) - fineBits - 1; shift > 0 {
		n = uint64(shift)<<fineBits + n>>shift
	}
	h.buckets[n]++
	h.count++
}

// merge adds what o has counted.
func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
}

// quantile returns the duration that a share q of all counted do not exceed, as
// the upper end of its bucket; 0 if none was counted.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.count)))
	for i, n := range h.buckets {
		if n > 0 && rank <= n {
			return upperEnd(uint64(i))
		}
		rank -= n
	}
	return 0
}

// upperEnd returns the longest duration of bucket i.
func upperEnd(i uint64) time.Duration {
	shift := i >> fineBits
	if shift == 0 {
		return time.Duration(i)
	}
	shift-- // the first two rows of buckets are one nanosecond wide
	fine := i - shift<<fineBits
	return time.Duration((fine+1)<<shift - 1)
}
