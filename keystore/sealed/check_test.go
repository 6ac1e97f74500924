package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// check runs a Check that must come to its end, and returns its problems in one text.
func check(t *testing.T, s *sealed.Store) (sealed.Report, string) {
	t.Helper()
	report, err := s.Check(t.Context(), nil)
	if err != nil {
		t.Errorf("Check: %v", err)
	}
	return report, fmt.Sprint(report.Problems)
}

func TestCheckOfAStoreThatIsWell(t *testing.T) {
	t.Parallel()
	s := create(t, keystore.NewMemory())
	for i := range 500 {
		put(t, s, name(i), []byte("v"))
	}
	calls, last, total := 0, 0, 0
	report, err := s.Check(t.Context(), func(done, of int) {
		if done < last || of < done {
			t.Errorf("progress went from %d to %d of %d", last, done, of)
		}
		calls, last, total = calls+1, done, of
	})
	state := s.State()
	if err != nil || len(report.Problems) != 0 || report.Rows != 500 || report.Buckets != state.Buckets || report.Generation != state.Generation {
		t.Errorf("Check: %+v, %v; state %+v", report, err, state)
	}
	if calls < 3 || last != total || total != state.Buckets+500 {
		t.Errorf("progress was told %d times, in the end of %d of %d", calls, last, total)
	}
}

// TestCheckFindsAttacks: each as it is met, and nothing else is called broken.
func TestCheckFindsAttacks(t *testing.T) {
	t.Parallel()
	s := tell(t)
	for _, a := range attacks {
		store, below := a.attackLive(t, s)
		words := a.live
		if a.off == "-" && a.what == "hide" {
			words = "lists 1 records that were removed"
		}
		report, problems := check(t, store)
		if !strings.Contains(problems, words) || report.MoreProblems != 0 {
			t.Errorf("%s: the problems %s do not have %q", a.what, problems, words)
		}
		if elsewhere, _ := get(below, false, name(5000)); elsewhere != nil && strings.Contains(problems, name(5000).String()) {
			t.Errorf("%s: a row that is well is called broken: %s", a.what, problems)
		}
		bring(t, below, a.from(s))
		if report, problems := check(t, store); len(report.Problems) > 0 {
			t.Errorf("%s: after the attack: %s", a.what, problems)
		}
	}
}

// TestCheckNamesEverything: a Check does not end at the first problem, and names what is lost.
func TestCheckNamesEverything(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	for i := range 400 {
		put(t, s, name(i), []byte("v"))
	}
	all := rows(t, below)
	for i := range 20 {
		put(t, below, name(i), append(bytes.Clone(all[name(i)]), 0))
	}
	_, bucket := bucketOf(name(20))
	put(t, below, bucket, []byte("no bucket row"))
	put(t, below, nameKeyName, []byte("no key"))
	brought := keystore.MakeName(keystore.SpaceBucket, "zz")
	if all[brought] != nil {
		t.Fatal("the bucket zz is in use")
	}
	put(t, below, brought, all[bucket])
	odd := keystore.MakeName(keystore.SpaceBucket, "odd")
	put(t, below, odd, nil)
	put(t, below, name(999), all[name(1)])
	report, problems := check(t, s)
	for _, want := range []string{
		name(0).String() + ": is not the record", name(19).String() + ": is not the record", bucket.String() + ": is not a bucket row",
		name(20).String() + ": " + bucket.String(), "name-key: has not the length", odd.String() + ": is not the name of a bucket",
		name(999).String() + ": was brought back", brought.String() + ": was brought back",
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("the problems do not have %q: %s", want, problems)
		}
	}
	if report.Buckets != s.State().Buckets-1 || report.Rows < 375 || report.Rows > 379 {
		t.Errorf("right are %d of %d buckets and %d rows", report.Buckets, s.State().Buckets, report.Rows)
	}
	for i := range 300 {
		put(t, below, name(i), nil)
	}
	if report, _ := check(t, s); len(report.Problems) != 100 || report.MoreProblems < 200 {
		t.Errorf("%d problems are described and %d more counted", len(report.Problems), report.MoreProblems)
	}
}

// TestCheckCountsWhatIsListed: a row that was brought back does not stand in for one that was removed
// from the same bucket.
func TestCheckCountsWhatIsListed(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	s := create(t, below)
	a, b := neighbours(t)
	put(t, s, a, nil)
	put(t, s, b, nil)
	record := rows(t, below)[b]
	remove(t, s, b)
	put(t, below, b, record)
	remove(t, below, a)
	_, bucket := bucketOf(a)
	if report, problems := check(t, s); len(report.Problems) != 2 ||
		!strings.Contains(problems, bucket.String()+": lists 1 records") || !strings.Contains(problems, b.String()+": was brought back") {
		t.Errorf("problems %s", problems)
	}
}

// TestCheckThatCannotEnd: what is no damage is an error.
func TestCheckThatCannotEnd(t *testing.T) {
	t.Parallel()
	d := newDisk()
	s := create(t, d.store(t))
	put(t, s, name(1), []byte("v"))
	ctx, cancel := cancelled(t)
	defer cancel()
	if _, err := s.Check(ctx, nil); !errors.Is(err, ctx.Err()) {
		t.Errorf("with an ended context: %v", err)
	}
	d.mu.Lock()
	d.dead = true
	d.mu.Unlock()
	if _, err := s.Check(t.Context(), nil); !errors.Is(err, errDisk) {
		t.Errorf("on a dead disk: %v", err)
	}
}
