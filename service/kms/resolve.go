package kms

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// admitted returns the key that ref names once the door has consented to op's
// action on it: c's own operation, or one of the two of ReEncrypt. Who may not use
// another account's key does not learn from its alias which key it is, nor that
// there is one.
func (s *Service) admitted(c *access.Call, op *api.Op, ref *api.KeyRef) (*key, error) {
	k, err := s.resolve(c, op, ref)
	if err != nil {
		return nil, err
	}
	if err := c.AdmitAs(op, k); err != nil {
		if ref.Form == api.RefAliasARN && ref.Account != c.Account() {
			return nil, c.Denied(op, ref.String())
		}
		return nil, err
	}
	return k, nil
}

// own returns the key of the caller's account that ref names, for operations
// that AWS does not offer across accounts. It does not ask the door.
func (s *Service) own(c *access.Call, ref *api.KeyRef) (*key, error) {
	if ref.Form == api.RefKeyARN && ref.Account != c.Account() {
		return nil, c.Denied(c.Op(), ref.String())
	}
	return s.resolve(c, c.Op(), ref)
}

// ownAdmitted is own for operations that the door decides by the key.
func (s *Service) ownAdmitted(c *access.Call, ref *api.KeyRef) (*key, error) {
	k, err := s.own(c, ref)
	if err != nil {
		return nil, err
	}
	return k, c.Admit(k)
}

// resolve returns the key that ref names for the caller of c, who wants op done
// with it. Unknown keys, and keys that the caller may not know of, are one answer
// (AWS KMS developer guide, "Key identifiers"): by ARN of another account
// AccessDenied, else NotFound.
func (s *Service) resolve(c *access.Call, op *api.Op, ref *api.KeyRef) (*key, error) {
	account := c.Account()
	if ref.Form == api.RefKeyARN || ref.Form == api.RefAliasARN {
		account = ref.Account
	}
	k, err := s.named(c, ref, account)
	if err != nil {
		return nil, err
	}
	switch {
	case k != nil && ref.In(s.realm) && k.account == account:
		return k, nil
	case account != c.Account():
		return nil, c.Denied(op, ref.String())
	case !ref.In(s.realm):
		return nil, api.Errorf(api.KindNotFound, "Invalid arn %s: this appliance is partition %s, region %s", ref, s.realm.Partition, s.realm.Region)
	case ref.Form == api.RefAlias, ref.Form == api.RefAliasARN:
		return nil, s.noAlias(account, string(ref.Alias))
	}
	return nil, s.noKey(account, ref.ID, ref.Multi)
}

// named returns the key that ref names, of whatever account it turns out to be,
// or nil if there is none.
func (s *Service) named(c *access.Call, ref *api.KeyRef, account api.AccountID) (*key, error) {
	switch ref.Form {
	case api.RefKeyID, api.RefKeyARN:
		k, err := s.key(c, ref.ID)
		if k != nil && k.multi != ref.Multi {
			k = nil
		}
		return k, err
	case api.RefAlias, api.RefAliasARN:
		a, err := s.alias(c, account, ref.Alias[len(aliasPrefix):])
		if a == nil || err != nil {
			return nil, err
		}
		return s.key(c, a.row.target())
	}
	if ref.Form == api.RefBadARN { // whatever it might name: nothing was looked up
		return nil, api.Errorf(api.KindInvalidArn, "Invalid arn %s: that of a key looks like %s, that of an alias like %s",
			ref, s.realm.KeyARN(c.Account(), api.KeyID{}, false), s.realm.AliasARN(c.Account(), "alias/NAME"))
	}
	return nil, api.Errorf(api.KindNotFound, "Invalid keyId '%s': want a key id, a key ARN, an alias name or an alias ARN", ref)
}

// noKey and noAlias answer that there is none, in AWS's words.
func (s *Service) noKey(account api.AccountID, id api.KeyID, multi bool) error {
	return api.Errorf(api.KindNotFound, "Key '%s' does not exist", s.realm.KeyARN(account, id, multi))
}

func (s *Service) noAlias(account api.AccountID, name string) error {
	return api.Errorf(api.KindNotFound, "Alias %s is not found.", s.realm.AliasARN(account, name))
}

// key returns the snapshot of a key as it is now, or nil if there is none.
func (s *Service) key(c *access.Call, id api.KeyID) (*key, error) {
	k, err := s.snapshot(c, id)
	if k == nil || err != nil {
		return nil, err
	}
	return s.inTime(c, k), nil
}

// snapshot returns the snapshot of a key, or nil if there is none. A key that is not
// in memory is read by a worker.
func (s *Service) snapshot(c *access.Call, id api.KeyID) (*key, error) {
	if k := s.keys.get(id); k != nil {
		return k, nil
	}
	if k, err := s.unpacked(id); k != nil || err != nil {
		return k, err
	}
	if err := c.Need(work.Store); err != nil {
		return nil, err
	}
	return s.load(c.Context(), id)
}

// load reads a key from the store and keeps its snapshot, unless a later change
// was delivered meanwhile.
func (s *Service) load(ctx context.Context, id api.KeyID) (*key, error) {
	var k *key
	var seen keystore.Revision
	err := s.store.View(ctx, func(r keystore.Reader) (err error) {
		seen = r.Revision()
		k, err = s.readKey(r, id)
		return err
	})
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if errors.Is(err, securemem.ErrFull) {
		return nil, s.noMemory(err)
	}
	if err != nil {
		return nil, api.Internal(fmt.Errorf("load key %s: %w", id, err))
	}
	s.keys.put(k, seen)
	s.pack(k, seen)
	return k, nil
}

// noMemory answers when the locked memory is full: keys that nobody uses make
// room, which the next try finds.
func (s *Service) noMemory(err error) error {
	s.keys.shed()
	s.pasts.shed()
	runtime.GC() // their memory is freed once the collector has seen that nobody uses it
	return &api.Error{Kind: api.KindUnavailable, Reason: "memory", RetryAfter: 100 * time.Millisecond, Err: err,
		Message: "the locked memory for keys is full; try again, and let the operator raise its limit"}
}
