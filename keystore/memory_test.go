package keystore_test

import (
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/storetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) keystore.Store { return keystore.NewMemory() })
}

func TestMemoryBeginsAtRevisionZero(t *testing.T) {
	t.Parallel()
	s := keystore.NewMemory()
	defer s.Close()
	err := s.View(t.Context(), func(r keystore.Reader) error {
		if r.Revision() != 0 {
			t.Errorf("an empty store has revision %d", r.Revision())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
