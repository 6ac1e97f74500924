package kms

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// CreateKey makes a key of one of the specs in the caller's account, where
// ListKeys finds it. Where it is to have tags, the door is asked for TagResource
// too. The key is answered only after it was read back from the
// store and its material gave the id it was stored under. A key of origin EXTERNAL has
// no material and waits for its import. An account has at most
// 100,000 keys, then LimitExceeded. (AWS KMS API Reference, CreateKey.)
func (s *Service) CreateKey(c *access.Call, in *kmsapi.CreateKeyRequest, out *kmsapi.CreateKeyResponse) error {
	if err := c.Admit(access.Any(c)); err != nil {
		return err
	}
	if len(in.Tags) > 0 {
		if err := c.AdmitAs(kmsapi.TagResource.Op, access.Any(c)); err != nil {
			return err
		}
	}
	spec, usage, err := madeFor(in)
	if err != nil {
		return err
	}
	if err := s.creatable(c, in); err != nil {
		return err
	}
	waits := specs[spec].waits
	if in.Origin == kmsapi.OriginExternal {
		waits = work.Store
	}
	if err := c.Need(waits); err != nil {
		return err
	}
	if err := s.room(c); err != nil { // before the time is spent
		return err
	}
	k, secret, err := s.draft(c, in, spec, usage)
	if err != nil {
		return err
	}
	out.KeyMetadata = k.metadata()
	err = s.storeKey(c, k, secret)
	secret.Free() // its place is there for the copy that is read back
	if err != nil {
		return err
	}
	return s.readBack(c, k)
}

// creatable refuses what this appliance does not make. A parameter that would
// be ignored is an error. BypassPolicyLockoutSafetyCheck is honoured: with the one
// policy that is accepted, nobody can be locked out.
func (s *Service) creatable(c *access.Call, in *kmsapi.CreateKeyRequest) error {
	switch {
	case in.Origin > kmsapi.OriginExternal:
		return unsupported("Origin %s", in.Origin)
	case in.CustomKeyStoreId != "":
		return unsupported("CustomKeyStoreId")
	case in.XksKeyId != "":
		return unsupported("XksKeyId")
	}
	if err := taggable(in.Tags); err != nil || in.Policy == "" {
		return err
	}
	_, err := policy.Parse([]byte(in.Policy), s.realm.Partition, c.Account())
	if errors.Is(err, policy.ErrTooLarge) {
		return api.Errorf(api.KindLimitExceeded, "Policy: %v", err)
	}
	if err != nil {
		return api.Errorf(api.KindMalformedPolicyDocument, "Policy: %v; leave it out to get the default key policy", err)
	}
	return nil
}

func unsupported(format string, args ...any) error {
	return api.Errorf(api.KindUnsupportedOperation, "%s is not supported by this appliance: leave it out to create a SYMMETRIC_DEFAULT key", fmt.Sprintf(format, args...))
}

// drawSecret draws the secret of a new key, or of a data key pair, into locked memory.
func (s *Service) drawSecret(spec kmsapi.KeySpec) (*securemem.Buffer, error) {
	secret, err := securemem.New(specs[spec].secret)
	if errors.Is(err, securemem.ErrFull) {
		return nil, s.noMemory(err)
	}
	if err != nil {
		return nil, api.Internal(fmt.Errorf("memory for a secret: %w", err))
	}
	securemem.Do(func() { err = specs[spec].draw(secret.Bytes()) })
	if err != nil {
		secret.Free()
		return nil, api.Internal(fmt.Errorf("draw a secret of %s: %w", spec, err))
	}
	return secret, nil
}

// draft returns a new key, not stored yet, with its material: nil if that is to be imported.
func (s *Service) draft(c *access.Call, in *kmsapi.CreateKeyRequest, spec kmsapi.KeySpec, usage kmsapi.KeyUsage) (*key, *securemem.Buffer, error) {
	k := &key{account: c.Account(), id: newKeyID(in.MultiRegion), multi: in.MultiRegion}
	k.arn = s.realm.KeyARN(k.account, k.id, k.multi)
	k.row = keyRow{
		Format: keyFormat, Account: k.account.String(), Created: api.TimeOf(c.Now()), Description: in.Description,
		Spec: spec, Usage: usage, Origin: in.Origin,
		State: kmsapi.StatePendingImport, Manager: kmsapi.ManagerCustomer, Current: []byte{}, Tags: uint16(len(in.Tags)),
		Multi: in.MultiRegion,
	}
	k.tags = make(map[string]string, len(in.Tags))
	tag(k.tags, in.Tags)
	if in.Origin == kmsapi.OriginExternal {
		return k, nil, nil
	}
	secret, err := s.drawSecret(spec)
	if err != nil {
		return nil, nil, err
	}
	id := materialID(k.id, secret.Bytes())
	k.row.State, k.row.Current = kmsapi.StateEnabled, id[:]
	return k, secret, nil
}

// newKeyID draws the id of a key: a UUID of version 4, or of version 8 for a multi-Region key
// (RFC 9562 §5.4 and §5.8).
func newKeyID(multi bool) (id api.KeyID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	if multi {
		id[6] += 0x40
	}
	return id
}

func (s *Service) putKey(tx keystore.Tx, k *key, secret *securemem.Buffer) error {
	row, err := cbor.Marshal(&k.row)
	if err != nil {
		return err
	}
	if secret != nil {
		if err := putMaterial(tx, k.id, k.row.Spec, k.row.Current, secret.Bytes()); err != nil {
			return err
		}
	}
	if err := tx.Put(listingName(k.account, k.id), listed); err != nil {
		return err
	}
	if len(k.tags) > 0 {
		if err := putTags(tx, k.id, k.tags); err != nil {
			return err
		}
	}
	return tx.Put(keyName(k.id), row)
}

// readBack loads the new key from the store, which checks that its material
// gives the id it was stored under, and proves it.
func (s *Service) readBack(c *access.Call, k *key) error {
	stored, err := s.load(c.Context(), k.id)
	if err != nil {
		return err
	}
	switch {
	case stored == nil, (stored.current == nil) != (len(k.row.Current) == 0), stored.current != nil && stored.current.id != [32]byte(k.row.Current):
		return api.Internal(fmt.Errorf("key %s is not in the store as it was written", k.id))
	case stored.current == nil: // its material is still to be imported
		return nil
	}
	return s.prove(c, stored)
}
