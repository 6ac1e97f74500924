package quota_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/quota"
	"github.com/keyrack/keyrack/api"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func account(n uint32) (a api.AccountID) {
	binary.BigEndian.PutUint32(a[:], n)
	return a
}

// take takes until nothing is left, and returns how many it got and how long to wait.
func take(l *quota.Limiter, a api.AccountID, now time.Time) (got int, wait time.Duration) {
	for {
		n, wait := l.Take(a, now)
		if n == 0 {
			return got, wait
		}
		got += n
	}
}

// TestRate: an account has a second's requests at once, then as many as come, and no
// more when it was silent for long or a clock was set back.
func TestRate(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{2, 1000, 100_000, 1_000_000} {
		l := quota.New(rate)
		now := noon
		for _, step := range []struct {
			passed time.Duration
			want   int
		}{{0, rate}, {time.Second / 2, rate / 2}, {time.Second, rate}, {time.Hour, rate}, {-time.Hour, 0}, {time.Hour, 0}} {
			now = now.Add(step.passed)
			if got, _ := take(l, account(1), now); got != step.want {
				t.Errorf("%d a second, after %v: got %d, want %d", rate, step.passed, got, step.want)
			}
		}
	}
}

// TestWait: whoever waits as long as it is told gets one, and not before.
func TestWait(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 3, 1000} {
		l := quota.New(rate)
		_, wait := take(l, account(1), noon)
		if n, _ := l.Take(account(1), noon.Add(wait*9/10)); n != 0 {
			t.Errorf("%d a second: before the wait of %v there is one", rate, wait)
		}
		if n, _ := l.Take(account(1), noon.Add(wait+time.Microsecond)); n != 1 {
			t.Errorf("%d a second: after the wait of %v there are %d", rate, wait, n)
		}
	}
}

// TestAccountsAreApart: one account's requests cost another none.
func TestAccountsAreApart(t *testing.T) {
	t.Parallel()
	l := quota.New(10)
	take(l, account(1), noon)
	if got, _ := take(l, account(2), noon); got != 10 {
		t.Errorf("another account got %d, want 10", got)
	}
}

// TestManyAccounts: those who have not asked of late take no memory, and those who have
// are not forgotten.
func TestManyAccounts(t *testing.T) {
	t.Parallel()
	l := quota.New(10)
	take(l, account(0), noon.Add(5000*time.Second))
	for n := range uint32(5000) {
		l.Take(account(n+1), noon.Add(time.Duration(n)*time.Second))
	}
	if n := l.Buckets(); n > 1100 {
		t.Errorf("%d buckets are kept of accounts that asked a second ago or longer", n)
	}
	if got, _ := take(l, account(0), noon.Add(5000*time.Second)); got != 0 {
		t.Errorf("an empty bucket was forgotten: got %d", got)
	}
}
