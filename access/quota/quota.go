// Package quota bounds how often an account may ask: a token bucket each, filled at the
// rate and one second deep.
//
// Read [Limiter]. It reads no clock and no socket, and knows neither requests nor
// answers: internal/work shares what requests wait for, and protocol/server says
// ThrottlingException. Buckets are of this process, and start full.
package quota

import (
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
)

// Limiter holds the buckets. Safe for concurrent use.
type Limiter struct {
	rate  float64 // requests a second
	batch float64 // most that one Take gives

	mu      sync.Mutex
	buckets map[api.AccountID]bucket // guarded by mu; one that is not here is full
}

// bucket is what an account had left at a time.
type bucket struct {
	left float64
	at   time.Time
}

// mostBatch is how many requests a caller is given at once at most: the lock is taken
// once for as many. A thousandth of a second's is less than anybody notices.
const mostBatch = 64

// manyBuckets is how many are kept before those that are full again are dropped.
const manyBuckets = 1024

// New returns a limiter of so many requests a second for each account, at least 1.
func New(rate int) *Limiter {
	r := float64(max(rate, 1))
	return &Limiter{rate: r, batch: max(1, min(mostBatch, float64(int(r/1000)))), buckets: map[api.AccountID]bucket{}}
}

// Take gives the account some of its requests, at least one; or none, and how long it
// takes until there is one again. now never goes back.
func (l *Limiter) Take(a api.AccountID, now time.Time) (n int, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[a]
	if !known {
		l.forget(now)
		b = bucket{l.rate, now}
	}
	b = l.fill(b, now)
	given := float64(int(min(b.left, l.batch)))
	b.left -= given
	l.buckets[a] = b
	if given == 0 {
		return 0, time.Duration((1 - b.left) / l.rate * float64(time.Second))
	}
	return int(given), 0
}

// fill adds what has come since.
func (l *Limiter) fill(b bucket, now time.Time) bucket {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.left, b.at = min(l.rate, b.left+passed*l.rate), now
	}
	return b
}

// forget drops the buckets that are full, where there are many, with mu held.
func (l *Limiter) forget(now time.Time) {
	if len(l.buckets) < manyBuckets {
		return
	}
	for a, b := range l.buckets {
		if l.fill(b, now).left == l.rate {
			delete(l.buckets, a)
		}
	}
}
