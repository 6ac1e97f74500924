package sealed_test

import (
	"errors"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// TestCloseUnderAnUpdate closes a store over one that stays open, as an appliance does that fails to unlock, while
// transactions run. Without a name key they would put rows where nobody finds them.
func TestCloseUnderAnUpdate(t *testing.T) {
	t.Parallel()
	below := newDisk().store(t)
	s := create(t, lent{below})
	begun, closed := make(chan struct{}), make(chan error, 1)
	updated := make(chan error, 1)
	resume := make(chan struct{})
	go func() {
		_, err := s.Update(t.Context(), func(tx keystore.Tx) error {
			close(begun)
			<-resume
			return tx.Put(name(1), []byte("kept"))
		})
		updated <- err
	}()
	<-begun
	go func() { closed <- s.Close() }()
	for !errors.Is(s.View(t.Context(), func(keystore.Reader) error { return nil }), keystore.ErrClosed) {
	}
	close(resume)
	if err := errors.Join(<-updated, <-closed); err != nil {
		t.Fatal(err)
	}
	s = open(t, lent{below}, theKeys)
	if err := s.View(t.Context(), func(r keystore.Reader) error {
		value, err := r.Get(name(1))
		if err == nil && string(value) != "kept" {
			t.Errorf("got %q", value)
		}
		return err
	}); err != nil {
		t.Errorf("what was written before the end: %v", err)
	}
}
