package sealed_test

import (
	"context"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// patient is a store that knows how many rows were read in the longest of its Views.
type patient struct {
	keystore.Store
	most int
}

func (p *patient) View(ctx context.Context, f func(keystore.Reader) error) error {
	return p.Store.View(ctx, func(r keystore.Reader) error {
		c := &countingReader{Reader: r}
		defer func() { p.most = max(p.most, c.n) }()
		return f(c)
	})
}

type countingReader struct {
	keystore.Reader
	n int
}

func (c *countingReader) Get(n keystore.Name) ([]byte, error) { c.n++; return c.Reader.Get(n) }

// TestCheckHoldsNoSnapshotForLong reads a store in many short snapshots, between which others write: rows come, go and
// change before and behind the place where the check is, and none of that is a problem.
func TestCheckHoldsNoSnapshotForLong(t *testing.T) {
	t.Parallel()
	below := &patient{Store: keystore.NewMemory()}
	s := create(t, below)
	const many = 3000
	for i := range many {
		put(t, s, name(i), []byte("v"))
	}
	before := s.State().Generation
	below.most = 0
	calls := 0
	report, err := s.Check(t.Context(), func(int, int) {
		calls++
		put(t, s, name(calls), []byte("changed"))
		put(t, s, name(many+calls), []byte("new"))
		put(t, s, name(many-calls), []byte("changed"))
		remove(t, s, name(many/2+calls))
	})
	if err != nil || len(report.Problems) > 0 || calls < 2*many/256 {
		t.Errorf("check: %v, %v, in %d snapshots", report.Problems, err, calls)
	}
	if report.Generation <= before || report.Generation > s.State().Generation {
		t.Errorf("generation %d, it began at %d and is %d", report.Generation, before, s.State().Generation)
	}
	if below.most > 3*256 { // each row costs that of its bucket
		t.Errorf("%d rows were read in one snapshot", below.most)
	}
	if report, problems := check(t, s); len(report.Problems) > 0 {
		t.Errorf("afterwards: %s", problems)
	}
}

// TestCheckMissesNothingBetweenSnapshots: somebody removes a row from behind the place where the check is, and the
// appliance changes another row of its bucket, so that the bucket is not the one that was checked. A bucket that is broken
// on the way is named, and its rows are not called missing.
func TestCheckMissesNothingBetweenSnapshots(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		harm func(t *testing.T, below keystore.Store, bucket keystore.Name, row keystore.Name)
		want string
	}{
		"removed": {func(t *testing.T, below keystore.Store, _, row keystore.Name) { remove(t, below, row) }, ": lists 1 records that were removed"},
		"broken": {func(t *testing.T, below keystore.Store, bucket, _ keystore.Name) {
			put(t, below, bucket, []byte("no bucket row"))
		}, ": is not a bucket row"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			below := keystore.NewMemory()
			s := create(t, below)
			a, b := neighbours(t)
			put(t, s, a, nil)
			put(t, s, b, nil)
			for i := range 1000 {
				put(t, s, name(i), []byte("v"))
			}
			_, bucket := bucketOf(a)
			harmed := false
			report, err := s.Check(t.Context(), func(done, total int) {
				if !harmed && done > total-100 {
					harmed = true
					put(t, s, b, []byte("changed"))
					c.harm(t, below, bucket, a)
				}
			})
			if err != nil || !harmed {
				t.Fatalf("harmed: %t, %v", harmed, err)
			}
			said := 0
			for _, p := range report.Problems {
				if strings.Contains(p.String(), bucket.String()+c.want) {
					said++
				} else if !strings.Contains(p.String(), bucket.String()) {
					t.Errorf("problem %s", p)
				}
			}
			if said != 1 {
				t.Errorf("want %q once: %v", bucket.String()+c.want, report.Problems)
			}
		})
	}
}
