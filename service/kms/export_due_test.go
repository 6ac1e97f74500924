package kms

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// PutManyDue writes rows of due work for keys that are not there.
func PutManyDue(tb testing.TB, s *Service, n int, at func(i int) time.Time) {
	tb.Helper()
	for i := 0; i < n; {
		begun := i
		if _, err := s.store.Update(tb.Context(), func(tx keystore.Tx) error {
			for i = begun; i < min(n, begun+20); i++ {
				var id api.KeyID
				rand.Read(id[:])
				if err := putDue(tx, dueItem{api.TimeOf(at(i)), dueExpiry, id}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			tb.Fatal(err)
		}
	}
}

// CountDue returns how many pieces of work there are.
func CountDue(tb testing.TB, s *Service) (n int) {
	tb.Helper()
	if err := s.store.View(tb.Context(), func(r keystore.Reader) error {
		n = 0
		for _, err := range r.Scan(keystore.Range(keystore.SpaceDue)) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return n
}

// KeepDue looks at all keys whether they have their rows of due work.
func KeepDue(tb testing.TB, s *Service) {
	tb.Helper()
	from := keystore.Name{}
	for more := true; more; {
		var err error
		if from, more, err = s.keepSome(tb.Context(), from); err != nil {
			tb.Fatal(err)
		}
	}
}

// Asks reports whether a row that is due at a time lets the runner look at once that looks again at another time.
func Asks(looks, at time.Time) bool {
	var d due
	d.init()
	d.looks.Store(int64(api.TimeOf(looks)))
	d.put(dueItem{at: api.TimeOf(at), kind: dueRotation}.name())
	return len(d.written) == 1
}
