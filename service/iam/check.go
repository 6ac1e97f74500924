package iam

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Check reads the rows of all principals in one snapshot and returns what is
// wrong with them, a sentence each: a principal has three rows, and no row is
// without the others. That each row is the one that was written, and that none
// is hidden, is for the store to check. progress is told how many rows were read, of
// about how many.
func (s *Service) Check(ctx context.Context, progress func(done, total int)) ([]string, error) {
	k := &checker{
		clients: map[identity.KeyHash]keystore.Name{}, owners: map[string]api.AccountID{},
		progress: progress, total: rowsEach * s.index.size(),
	}
	if err := s.Store.View(ctx, k.run); err != nil {
		return k.problems, fmt.Errorf("check the principals: %w", err)
	}
	return k.problems, nil
}

// rowsEach is how many rows a principal has.
const rowsEach = 3

// progressRows is how many rows are read between two reports.
const progressRows = 256

// checker is a Check that runs.
type checker struct {
	clients     map[identity.KeyHash]keystore.Name // the principal's row that a client's row names
	owners      map[string]api.AccountID
	problems    []string
	progress    func(done, total int)
	done, total int
}

// run gathers clients and owners of names, and takes away those of each principal.
func (k *checker) run(r keystore.Reader) error {
	for _, space := range []struct {
		of keystore.Space
		f  func(keystore.Entry) error
	}{
		{keystore.SpaceClient, k.client}, {keystore.SpaceNameOwner, k.owner}, {keystore.SpacePrincipal, k.principal},
	} {
		if err := k.scan(r, space.of, space.f); err != nil {
			return err
		}
	}
	for h, n := range k.clients {
		k.problem(clientName(h), fmt.Errorf("no principal agrees with it: %s", n))
	}
	for name := range k.owners {
		k.problem(ownerName(name), errors.New("there is no such principal"))
	}
	k.progress(k.done, k.done)
	return nil
}

func (k *checker) scan(r keystore.Reader, space keystore.Space, f func(keystore.Entry) error) error {
	for e, err := range r.Scan(keystore.Range(space)) {
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			k.problem(e.Name, err)
		}
		if k.done++; k.done%progressRows == 0 {
			k.progress(k.done, max(k.done, k.total))
		}
	}
	return nil
}

func (k *checker) problem(n keystore.Name, err error) {
	k.problems = append(k.problems, fmt.Sprintf("%s: %v", n, err))
}

func (k *checker) client(e keystore.Entry) error {
	h, ok := keyOfRow(e.Name)
	account, name, err := parseClient(e.Value)
	if !ok {
		return errRow
	}
	if err == nil {
		k.clients[h] = principalName(account, name)
	}
	return err
}

func (k *checker) owner(e keystore.Entry) error {
	account, err := parseOwner(e.Value)
	parts := e.Name.Components()
	if len(parts) != 1 {
		return errRow
	}
	if err == nil {
		k.owners[parts[0]] = account
	}
	return err
}

func (k *checker) principal(e keystore.Entry) error {
	p, err := parsePrincipal(e.Name, e.Value)
	if err != nil {
		return err
	}
	client, owner := k.clients[p.key] == e.Name, k.owners[p.name] == p.account
	if client {
		delete(k.clients, p.key)
	}
	if owner {
		delete(k.owners, p.name)
	}
	if !client || !owner {
		return fmt.Errorf("its other rows do not agree with it: client %t, owner of the name %t", client, owner)
	}
	return nil
}
