package iam

import (
	"context"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Write writes the rows of a principal, as another node of the appliance would.
func Write(ctx context.Context, store keystore.Store, account api.AccountID, name string, h identity.KeyHash, created api.Time) error {
	p := &principal{account: account, name: name, key: h, created: created}
	_, err := store.Update(ctx, p.put)
	return err
}

// Erase deletes them.
func Erase(ctx context.Context, store keystore.Store, account api.AccountID, name string, h identity.KeyHash) error {
	p := &principal{account: account, name: name, key: h}
	_, err := store.Update(ctx, p.remove)
	return err
}
