package kms

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// key is a snapshot of a key: immutable, replaced when its rows change, and
// with it everything that was computed from it. It is the access.Resource of
// the operations on it.
type key struct {
	id      api.KeyID
	account api.AccountID
	arn     string
	multi   bool
	row     keyRow
	tags    map[string]string // value by key: for aws:ResourceTag and for lists; immutable, nil = none
	rules   *policy.Rules
	current *material      // nil = it is not there, and the key's state says so
	entry   *materialEntry // of the current material; nil = the key has no row of materials
	past    []pastMaterial // those that are not current; nil = there was only ever one
	ends    api.Time       // when the first material that it needs expires; 0 = none does
	since   atomic.Bool    // used since the cache's hand last passed
}

func (k *key) referred() *atomic.Bool { return &k.since }

func (k *key) locked() int {
	if k.current == nil {
		return 0
	}
	return securemem.Taken(k.current.secret.Len())
}

// ARN returns the key's ARN.
func (k *key) ARN() string { return k.arn }

// Rules returns the key's policy.
func (k *key) Rules() *policy.Rules { return k.rules }

// asymmetric reports whether the key has a public half.
func (k *key) asymmetric() bool { return k.row.Spec > kmsapi.KeySpecHMAC512 }

// usable says whether the key can encrypt and decrypt with an algorithm now, for op: the
// order and the words are AWS's, after access.
func (k *key) usable(op *api.Op, a kmsapi.EncryptionAlgorithm) error {
	if err := usableStates.refuse(k.arn, k.row.State); err != nil {
		return err
	}
	if k.row.Spec == kmsapi.KeySpecSymmetricDefault && a == kmsapi.SymmetricDefault {
		return nil
	}
	if err := k.serves(op, kmsapi.UsageEncryptDecrypt); err != nil {
		return err
	}
	return offered(k, k.offers().encryption, a)
}

// metadata returns what CreateKey and its like answer.
func (k *key) metadata() kmsapi.KeyMetadata {
	m := k.row.metadata(k.id, k.account, k.arn)
	if e := k.entry; e != nil && e.Import == kmsapi.Imported {
		m.ExpirationModel, m.ValidTo = e.expires(), e.ValidTo
	}
	return m
}

// keyRow is the row of a key, FORMAT.md "Key".
type keyRow struct {
	Format      uint8             `cbor:"0,keyasint"`
	Account     string            `cbor:"1,keyasint"`
	Created     api.Time          `cbor:"2,keyasint"`
	Description string            `cbor:"3,keyasint"`
	Spec        kmsapi.KeySpec    `cbor:"4,keyasint"`
	Usage       kmsapi.KeyUsage   `cbor:"5,keyasint"`
	Origin      kmsapi.KeyOrigin  `cbor:"6,keyasint"`
	State       kmsapi.KeyState   `cbor:"7,keyasint"`
	Manager     kmsapi.KeyManager `cbor:"8,keyasint"`
	Current     []byte            `cbor:"9,keyasint"`            // KeyMaterialId, 32 bytes; none until the first material is imported
	Aliases     uint16            `cbor:"10,keyasint"`           // how many aliases name the key
	Tags        uint16            `cbor:"11,keyasint,omitempty"` // how many tags it has; they are a row of their own
	Multi       bool              `cbor:"12,keyasint,omitempty"` // multi-Region, as its id says
	Materials   uint16            `cbor:"13,keyasint,omitempty"` // how many entries its row of materials has; 0 = there is no such row
	Deletion    api.Time          `cbor:"14,keyasint,omitempty"` // date from which on it is destroyed; 0 = it stays
	Doom        *doom             `cbor:"15,keyasint,omitempty"` // what that needs besides; nil = it stays
	RotateDays  uint16            `cbor:"16,keyasint,omitempty"` // between two automatic rotations; 0 = there are none
	RotateNext  api.Time          `cbor:"17,keyasint,omitempty"` // when the next automatic rotation is due; 0 = never
	Expiry      api.Time          `cbor:"18,keyasint,omitempty"` // when the first of its imported materials expires; 0 = none does
}

const keyFormat = 1

// parseKeyRow reads a key's row and returns it with the account it names.
func parseKeyRow(b []byte) (r keyRow, account api.AccountID, err error) {
	if err := cbor.Unmarshal(b, &r); err != nil {
		return r, account, fmt.Errorf("key row: %w", err)
	}
	if r.Format != keyFormat {
		return r, account, fmt.Errorf("key row has format %d, want %d", r.Format, keyFormat)
	}
	if !r.dying() && (r.Doom != nil || r.Deletion != 0) {
		return r, account, fmt.Errorf("key row has state %d and the date of deletion %d, which no key has", r.State, r.Deletion)
	}
	if n := len(r.Current); n != 32 && (n != 0 || r.Origin != kmsapi.OriginExternal || r.Materials != 0 || usableStates&(1<<r.State) != 0) {
		return r, account, fmt.Errorf("key row has a material id of %d bytes, origin %d and state %d, which no key has", n, r.Origin, r.State)
	}
	if (r.RotateDays == 0) != (r.RotateNext == 0) {
		return r, account, fmt.Errorf("key row is rotated every %d days, and next at %d µs", r.RotateDays, r.RotateNext)
	}
	if row := specOf(r.Spec); row == nil || row.offers[r.Usage].none() {
		return r, account, fmt.Errorf("key row has spec %d and usage %d, which no key has", r.Spec, r.Usage)
	}
	if account, err = api.ParseAccountID(r.Account); err != nil {
		err = fmt.Errorf("key row: %w", err)
	}
	return r, account, err
}

// notOf is the error of a row whose key cannot have that id.
func (r *keyRow) notOf(id api.KeyID) error {
	return fmt.Errorf("%w: the row of key %s says multi-Region: %t", keystore.ErrDamaged, id, r.Multi)
}

// rowOf returns the row of k as it stands, and as it is written, or NotFound.
func (s *Service) rowOf(from getter, k *key) (row keyRow, written []byte, err error) {
	written, err = from.Get(keyName(k.id))
	if errors.Is(err, keystore.ErrNotFound) {
		return row, nil, s.noKey(k.account, k.id, k.multi)
	}
	if err == nil {
		row, _, err = parseKeyRow(written)
	}
	return row, written, err
}

// changeKey rewrites the row of k as it stands in the transaction: another
// change may have come after the snapshot that the door was asked for.
func (s *Service) changeKey(tx keystore.Tx, k *key, change func(*keyRow) error) error {
	row, before, err := s.rowOf(tx, k)
	if err != nil {
		return err
	}
	if err := change(&row); err != nil {
		return err
	}
	after, err := cbor.Marshal(&row)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	return tx.Put(keyName(k.id), after)
}

func (r *keyRow) metadata(id api.KeyID, account api.AccountID, arn string) kmsapi.KeyMetadata {
	can := specs[r.Spec].offers[r.Usage]
	m := kmsapi.KeyMetadata{
		AWSAccountId: account.String(), KeyId: id.String(), Arn: arn, CreationDate: r.Created,
		Enabled: r.State == kmsapi.StateEnabled, Description: r.Description, KeyUsage: r.Usage, KeyState: r.State,
		Origin: r.Origin, KeyManager: r.Manager, CustomerMasterKeySpec: r.Spec, KeySpec: r.Spec, DeletionDate: r.Deletion,
		EncryptionAlgorithms: can.encryption, MacAlgorithms: can.mac, SigningAlgorithms: can.signing, KeyAgreementAlgorithms: can.agreement,
		EncapsulationAlgorithms: can.kem, MultiRegion: r.Multi,
	}
	if r.Multi {
		m.MultiRegionConfiguration = primary(arn)
	}
	if r.Spec == kmsapi.KeySpecSymmetricDefault {
		m.CurrentKeyMaterialId = fmt.Sprintf("%x", r.Current)
	}
	return m
}

func keyName(id api.KeyID) keystore.Name { return keystore.MakeName(keystore.SpaceKey, string(id[:])) }

// listingName returns the name of the row that lists a key under its account.
func listingName(a api.AccountID, id api.KeyID) keystore.Name {
	return keystore.MakeName(keystore.SpaceAccountKey, string(a[:]), string(id[:]))
}

func materialName(id api.KeyID, material []byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceMaterial, string(id[:]), string(material))
}

// keyOfRow returns which key a row belongs to.
func keyOfRow(n keystore.Name) (id api.KeyID, ok bool) {
	switch n.Space() {
	case keystore.SpaceKey, keystore.SpaceMaterial, keystore.SpaceKeyTags, keystore.SpaceKeyMaterials:
	default:
		return id, false
	}
	parts := n.Components()
	if len(parts) == 0 || len(parts[0]) != len(id) {
		return id, false
	}
	return api.KeyID([]byte(parts[0])), true
}

// newKey returns the snapshot of a key's row alone.
func (s *Service) newKey(id api.KeyID, row keyRow, account api.AccountID) *key {
	k := &key{id: id, account: account, row: row, multi: row.Multi}
	k.arn, k.rules = s.realm.KeyARN(account, id, k.multi), s.keys.account(account).rules
	return k
}

// readKey reads a key, its tags and its current material.
func (s *Service) readKey(r keystore.Reader, id api.KeyID) (*key, error) {
	b, err := r.Get(keyName(id))
	if err != nil {
		return nil, err
	}
	row, account, err := parseKeyRow(b)
	if err == nil && row.Multi != id.Multi() {
		err = row.notOf(id)
	}
	if err != nil {
		return nil, err
	}
	k := s.newKey(id, row, account)
	if k.tags, err = readTags(r, id, k.row.Tags); err != nil {
		return nil, err
	}
	m, err := storedMaterials(r, id, &k.row)
	if err != nil {
		return nil, err
	}
	k.past, k.entry, k.ends = pastOf(m), m.in(kmsapi.MaterialCurrent), m.needed()
	if len(k.row.Current) == 0 || k.entry != nil && !k.entry.here() {
		return k, k.lacking()
	}
	if m != nil && !m.whole() {
		if err := k.lacking(); err != nil {
			return nil, err
		}
	}
	k.current, err = s.readMaterial(r, k, k.row.Current)
	if errors.Is(err, keystore.ErrNotFound) { // the key is there
		err = fmt.Errorf("%w: there is none", keystore.ErrDamaged)
	}
	return k, err
}

// lacking returns an error for a key that lacks a material and is in a state in which
// it would be used: what comes behind the state relies on it.
func (k *key) lacking() error {
	if usableStates&(1<<k.row.State) == 0 {
		return nil
	}
	return fmt.Errorf("key %s is %s and lacks material", k.id, k.row.State)
}

// readMaterial copies a material of k into locked memory and checks that it is what
// its id says. It returns keystore.ErrNotFound where there is no such row.
func (s *Service) readMaterial(r keystore.Reader, k *key, id []byte) (*material, error) {
	b, err := r.Get(materialName(k.id, id))
	if err != nil {
		return nil, fmt.Errorf("material %x: %w", id, err)
	}
	if err := checkMaterialRow(b, k.row.Spec); err != nil {
		return nil, err
	}
	secret, err := securemem.From(b[1:])
	if err != nil {
		return nil, err
	}
	m, err := newMaterial(k.id, id, secret, &s.keys.account(k.account).left)
	if err != nil {
		err = fmt.Errorf("%w: %w", keystore.ErrDamaged, err)
	}
	return m, err
}

// checkMaterialRow checks that a material's row is one of a key of that spec.
func checkMaterialRow(b []byte, s kmsapi.KeySpec) error {
	if len(b) != 1+specs[s].secret || b[0] != byte(s) {
		return fmt.Errorf("%w: material row has %d bytes and is not material of a %s key", keystore.ErrDamaged, len(b), s)
	}
	return nil
}
