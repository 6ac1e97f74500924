package kms

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// CreateAlias gives a key of the caller's account a name. The door is asked for
// the alias and for the key. (AWS KMS API Reference, CreateAlias.)
//
// Errors in the order in which they are found: ValidationException (the name is
// malformed, or the target an alias), AccessDenied, NotAuthorized (the name is
// reserved), NotFound (the key), AlreadyExists, KMSInvalidState (the key is to be
// deleted), LimitExceeded (it has 50 aliases).
func (s *Service) CreateAlias(c *access.Call, in *kmsapi.CreateAliasRequest, _ *kmsapi.CreateAliasResponse) error {
	id, err := s.ownAlias(c, in.AliasName)
	if err != nil {
		return err
	}
	k, err := s.ownAdmitted(c, &in.TargetKeyId)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	now := api.TimeOf(c.Now())
	row := aliasRow{Format: aliasFormat, Target: k.id[:], Created: now, Updated: now}
	return c.Update(s.store, func(tx keystore.Tx) error {
		if _, err := tx.Get(id.rowName()); err == nil {
			return api.Errorf(api.KindAlreadyExists, "An alias with the name %s already exists", s.realm.AliasARN(id.account, in.AliasName))
		} else if !errors.Is(err, keystore.ErrNotFound) {
			return err
		}
		if err := s.changeKey(tx, k, k.gainAlias); err != nil {
			return err
		}
		return putAlias(tx, id, &row)
	})
}

// UpdateAlias lets an alias name another key of the same kind and usage, from the
// next request of every connection on. The door is asked for the alias and for
// both keys. (AWS KMS API Reference, UpdateAlias.)
//
// Errors are those of CreateAlias but for AlreadyExists, and NotFound (the alias)
// and ValidationException (a key of another kind or usage) before the key's state.
// Who asks at the same time as another change of the alias may be answered
// ServiceUnavailable and can ask again.
func (s *Service) UpdateAlias(c *access.Call, in *kmsapi.UpdateAliasRequest, _ *kmsapi.UpdateAliasResponse) error {
	id, err := s.ownAlias(c, in.AliasName)
	if err != nil {
		return err
	}
	k, err := s.ownAdmitted(c, &in.TargetKeyId)
	if err != nil {
		return err
	}
	old, err := s.admittedTarget(c, id)
	if err != nil {
		return err
	}
	if err := interchangeable(&old.row, &k.row); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.store, func(tx keystore.Tx) error {
		row, err := s.aliasOf(tx, id, old)
		if err != nil {
			return err
		}
		if err := s.loseAlias(tx, id, old); err != nil {
			return err
		}
		if err := s.changeKey(tx, k, k.gainAlias); err != nil {
			return err
		}
		row.Target, row.Updated = k.id[:], api.TimeOf(c.Now())
		return putAlias(tx, id, row)
	})
}

// DeleteAlias takes a name from its key, which stays, whatever its state. The
// door is asked for the alias and for the key. (AWS KMS API Reference, DeleteAlias.)
//
// Errors: ValidationException (the name is malformed), AccessDenied, NotAuthorized
// (the name is reserved), NotFound, ServiceUnavailable as for UpdateAlias.
func (s *Service) DeleteAlias(c *access.Call, in *kmsapi.DeleteAliasRequest, _ *kmsapi.DeleteAliasResponse) error {
	id, err := s.ownAlias(c, in.AliasName)
	if err != nil {
		return err
	}
	k, err := s.admittedTarget(c, id)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.store, func(tx keystore.Tx) error {
		if _, err := s.aliasOf(tx, id, k); err != nil {
			return err
		}
		if err := s.loseAlias(tx, id, k); err != nil {
			return err
		}
		return tx.Delete(id.rowName())
	})
}

// reservedAliases begin the names that AWS keeps for its own keys.
const reservedAliases = aliasPrefix + "aws/"

// ownAlias returns the alias of the caller's account called name, if the door
// consents to c's operation on it and the name may be used. Colons are part of
// AWS's pattern for names and refused all the same.
func (s *Service) ownAlias(c *access.Call, name string) (aliasID, error) {
	if strings.Contains(name, ":") {
		return aliasID{}, api.Errorf(api.KindValidation, "%s contains invalid characters for an alias", name)
	}
	if err := c.Admit(access.Of(s.realm.AliasARN(c.Account(), name), policy.AccountRoot(c.Account()))); err != nil {
		return aliasID{}, err
	}
	if strings.HasPrefix(name, reservedAliases) {
		return aliasID{}, api.Errorf(api.KindNotAuthorized, "Alias names that begin with %s are reserved", reservedAliases)
	}
	return aliasID{c.Account(), name[len(aliasPrefix):]}, nil
}

// admittedTarget returns the key that an alias names, once the door has consented
// to c's operation on it.
func (s *Service) admittedTarget(c *access.Call, id aliasID) (*key, error) {
	a, err := s.alias(c, id.account, []byte(id.name))
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, s.noAlias(id.account, id.text())
	}
	k, err := s.key(c, a.row.target())
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, api.Internal(fmt.Errorf("%s names the key %s, which does not exist", id.rowName(), a.row.target()))
	}
	return k, c.Admit(k)
}

// aliasOf reads the row of an alias, which must name k still: that is the key
// that the door was asked for.
func (s *Service) aliasOf(tx keystore.Tx, id aliasID, k *key) (*aliasRow, error) {
	row, err := readAlias(tx, id)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, s.noAlias(id.account, id.text())
	}
	if err == nil && row.target() != k.id {
		err = &api.Error{Kind: api.KindUnavailable, Reason: "conflict", Message: "the alias was changed at the same time; try again"}
	}
	return row, err
}

// gainAlias counts one more alias of the key, if its state and the quota allow
// it. The count is part of the key's row because a transaction cannot scan.
func (k *key) gainAlias(r *keyRow) error {
	if err := keptStates.refuse(k.arn, r.State); err != nil {
		return err
	}
	if r.Aliases >= api.MaxAliases {
		return api.Errorf(api.KindLimitExceeded, "%s has %d aliases, and no key may have more", k.arn, r.Aliases)
	}
	r.Aliases++
	return nil
}

// loseAlias takes an alias out of its key's list and count.
func (s *Service) loseAlias(tx keystore.Tx, id aliasID, k *key) error {
	if err := tx.Delete(id.mirrorName(k.id)); err != nil {
		return err
	}
	return s.changeKey(tx, k, func(r *keyRow) error {
		if r.Aliases == 0 {
			return fmt.Errorf("key %s has no alias by its row, but %s", k.id, id.rowName())
		}
		r.Aliases--
		return nil
	})
}

// interchangeable refuses to move an alias between keys that programs cannot use
// in the same way: symmetric, HMAC and asymmetric keys, or keys of another usage.
func interchangeable(old, new *keyRow) error {
	if old.Usage == new.Usage && kindOf(old.Spec) == kindOf(new.Spec) {
		return nil
	}
	return api.Errorf(api.KindValidation, "the alias names a key of KeySpec %s and KeyUsage %s and cannot name one of KeySpec %s and KeyUsage %s: their kind and usage must be the same",
		old.Spec, old.Usage, new.Spec, new.Usage)
}

// kindOf returns what stands for all specs of a kind: symmetric, HMAC or
// asymmetric keys.
func kindOf(spec kmsapi.KeySpec) kmsapi.KeySpec {
	const anyAsymmetric = kmsapi.KeySpecHMAC512 + 1
	switch {
	case spec == kmsapi.KeySpecSymmetricDefault:
		return spec
	case spec <= kmsapi.KeySpecHMAC512:
		return kmsapi.KeySpecHMAC224
	}
	return anyAsymmetric
}
