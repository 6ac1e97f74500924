package kms

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// countName returns the name of the row that counts an account's keys.
func countName(a api.AccountID) keystore.Name {
	return keystore.MakeName(keystore.SpaceKeyCount, string(a[:]))
}

// parseCount reads that row.
func parseCount(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("count row of %d bytes is no count: %w", len(b), keystore.ErrDamaged)
	}
	return binary.BigEndian.Uint64(b), nil
}

// keyCount is how many keys an account has, as far as its row does not say so.
type keyCount struct {
	account api.AccountID
	known   bool   // there is the row
	listed  uint64 // without it: the keys that are listed
}

// countOf looks for the row of the caller's account, once in the life of the service. An account of before there were
// such rows has its keys counted: until the row is there nobody else adds one, since every transaction that does writes the row.
func (s *Service) countOf(ctx context.Context, account api.AccountID) (n keyCount, err error) {
	n = keyCount{account: account}
	if _, n.known = s.counted.Load(account); n.known {
		return n, nil
	}
	err = s.store.View(ctx, func(r keystore.Reader) error {
		n.listed = 0
		_, err := r.Get(countName(account))
		if n.known = err == nil; n.known || !errors.Is(err, keystore.ErrNotFound) {
			return err
		}
		for _, err := range r.Scan(keystore.Range(keystore.SpaceAccountKey, string(account[:]))) {
			if err != nil {
				return err
			}
			n.listed++
		}
		return nil
	})
	if err == nil && n.known {
		s.counted.Store(account, struct{}{})
	}
	return n, err
}

// add counts one key more, in the transaction that makes it. It returns LimitExceeded for an account that has as many
// as it may (AWS KMS developer guide, "Resource quotas").
func (n keyCount) add(tx keystore.Tx, most uint64) error {
	have, err := n.have(tx)
	if err != nil {
		return err
	}
	if have >= most {
		return tooMany(n.account, have, most)
	}
	return tx.Put(countName(n.account), binary.BigEndian.AppendUint64(nil, have+1))
}

// remove counts one key less, in the transaction that ends it. An account that has no row gets one: whoever counts
// the listed keys meanwhile to make one more must not count this one.
func (n keyCount) remove(tx keystore.Tx) error {
	have, err := n.have(tx)
	if err == nil && have == 0 {
		err = fmt.Errorf("account %s counts no keys, and has one: %w", n.account, keystore.ErrDamaged)
	}
	if err != nil {
		return err
	}
	return tx.Put(countName(n.account), binary.BigEndian.AppendUint64(nil, have-1))
}

// have is how many keys there are before the transaction.
func (n keyCount) have(tx keystore.Tx) (uint64, error) {
	row, err := tx.Get(countName(n.account))
	switch {
	case err == nil:
		have, err := parseCount(row)
		if err != nil {
			err = fmt.Errorf("account %s: %w", n.account, err)
		}
		return have, err
	case !errors.Is(err, keystore.ErrNotFound):
		return 0, err
	case n.known:
		return 0, fmt.Errorf("account %s: count of its keys is gone: %w", n.account, keystore.ErrDamaged)
	}
	return n.listed, nil
}

// room returns LimitExceeded for an account that has as many keys as it may: what
// add says inside the transaction, but before a key is made.
func (s *Service) room(c *access.Call) error {
	return s.store.View(c.Context(), func(r keystore.Reader) error {
		row, err := r.Get(countName(c.Account()))
		if errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		have, err := parseCount(row)
		if err == nil && have >= s.mostKeys {
			err = tooMany(c.Account(), have, s.mostKeys)
		}
		return err
	})
}

func tooMany(account api.AccountID, have, most uint64) error {
	return api.Errorf(api.KindLimitExceeded, "The account %s has %d keys, and may have %d", account, have, most)
}

// storeKey writes a new key, and counts it.
func (s *Service) storeKey(c *access.Call, k *key, secret *securemem.Buffer) error {
	n, err := s.countOf(c.Context(), k.account)
	if err != nil {
		return err
	}
	err = c.Update(s.store, func(tx keystore.Tx) error {
		if err := n.add(tx, s.mostKeys); err != nil {
			return err
		}
		return s.putKey(tx, k, secret)
	})
	if err == nil && !n.known {
		s.counted.Store(k.account, struct{}{})
	}
	return err
}
