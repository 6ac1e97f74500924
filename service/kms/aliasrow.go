package kms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// aliasPrefix begins every alias name, and is not stored.
const aliasPrefix = "alias/"

// aliasID is an alias of an account: its name without "alias/".
type aliasID struct {
	account api.AccountID
	name    string
}

// text returns the name as callers write it.
func (i aliasID) text() string { return aliasPrefix + i.name }

func (i aliasID) rowName() keystore.Name {
	return keystore.MakeName(keystore.SpaceAlias, string(i.account[:]), i.name)
}

// mirrorName returns the name of the row that lists the alias under a key.
func (i aliasID) mirrorName(id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyAlias, string(id[:]), i.name)
}

// aliasOfRow returns which alias a row is.
func aliasOfRow(n keystore.Name) (id aliasID, ok bool) {
	if n.Space() != keystore.SpaceAlias {
		return id, false
	}
	parts := n.Components()
	if len(parts) != 2 || len(parts[0]) != len(id.account) {
		return id, false
	}
	return aliasID{api.AccountID([]byte(parts[0])), parts[1]}, true
}

// alias is a snapshot of an alias: immutable, replaced when its row changes.
type alias struct {
	id    aliasID
	row   *aliasRow
	since atomic.Bool // used since the cache's hand last passed
}

func (a *alias) referred() *atomic.Bool { return &a.since }

func (a *alias) locked() int { return 0 }

// aliasRow is the row of an alias, FORMAT.md "Alias".
type aliasRow struct {
	Format  uint8    `cbor:"0,keyasint"`
	Target  []byte   `cbor:"1,keyasint"` // key id, 16 bytes
	Created api.Time `cbor:"2,keyasint"`
	Updated api.Time `cbor:"3,keyasint"`
}

const aliasFormat = 1

func (r *aliasRow) target() api.KeyID { return api.KeyID(r.Target) }

func parseAliasRow(b []byte) (*aliasRow, error) {
	r := new(aliasRow)
	if err := cbor.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("alias row: %w", err)
	}
	if r.Format != aliasFormat || len(r.Target) != len(api.KeyID{}) {
		return nil, fmt.Errorf("alias row has format %d and a key id of %d bytes, want %d and %d", r.Format, len(r.Target), aliasFormat, len(api.KeyID{}))
	}
	return r, nil
}

// getter is what keystore.Reader and keystore.Tx have in common.
type getter interface {
	Get(keystore.Name) ([]byte, error)
}

// readAlias returns keystore.ErrNotFound where there is no such alias.
func readAlias(r getter, id aliasID) (*aliasRow, error) {
	b, err := r.Get(id.rowName())
	if err != nil {
		return nil, err
	}
	return parseAliasRow(b)
}

// putAlias writes an alias and lists it under its key.
func putAlias(tx keystore.Tx, id aliasID, row *aliasRow) error {
	b, err := cbor.Marshal(row)
	if err != nil {
		return err
	}
	if err := tx.Put(id.rowName(), b); err != nil {
		return err
	}
	return tx.Put(id.mirrorName(row.target()), listed)
}

// listed is the value of a row whose name says it all: its format.
var listed = []byte{1}

// alias returns the snapshot of an alias, or nil if there is none; name is without
// "alias/" and may alias the request. One that is not in memory is read by a worker.
func (s *Service) alias(c *access.Call, account api.AccountID, name []byte) (*alias, error) {
	if a := s.aliases.get(account, name); a != nil {
		return a, nil
	}
	if err := c.Need(work.Store); err != nil {
		return nil, err
	}
	return s.loadAlias(c.Context(), aliasID{account, string(name)})
}

// loadAlias reads an alias from the store and keeps its snapshot, unless a later
// change was delivered meanwhile.
func (s *Service) loadAlias(ctx context.Context, id aliasID) (*alias, error) {
	a := &alias{id: id}
	var seen keystore.Revision
	err := s.store.View(ctx, func(r keystore.Reader) (err error) {
		seen = r.Revision()
		a.row, err = readAlias(r, id)
		return err
	})
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, api.Internal(fmt.Errorf("load %s: %w", id.rowName(), err))
	}
	s.aliases.put(a, seen)
	return a, nil
}
