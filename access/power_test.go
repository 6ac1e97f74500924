package access_test

import (
	"context"

	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
)

// mortalStore is a store as a process sees it that may be killed before a
// transaction, and after it was committed.
type mortalStore struct {
	keystore.Store
	*racktest.Power
}

func (m mortalStore) View(ctx context.Context, f func(keystore.Reader) error) error {
	if err := m.Use(); err != nil {
		return err
	}
	return m.Store.View(ctx, f)
}

func (m mortalStore) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if err := m.Use(); err != nil {
		return 0, err
	}
	rev, err := m.Store.Update(ctx, f)
	if err == nil {
		err = m.Use()
	}
	return rev, err
}
