package iam

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/keystore"
)

// principal is a client that may call. Immutable.
type principal struct {
	account api.AccountID
	name    string // 1 to 64 bytes
	key     identity.KeyHash
	created api.Time
}

// describe returns what operators see.
func (p *principal) describe(r api.Realm) applianceapi.Principal {
	return applianceapi.Principal{
		Name: p.name, Account: p.account.String(), KeyHash: p.key.String(), Arn: r.RootARN(p.account), CreationDate: p.created,
	}
}

// identity returns what the door sees.
func (p *principal) identity(r api.Realm) *identity.Principal {
	return &identity.Principal{ARN: r.RootARN(p.account), Type: identity.Root, Account: p.account, Credential: p.key}
}

// byName orders principals by the bytes of their names.
func byName(a, b *principal) int { return cmp.Compare(a.name, b.name) }

// format is the format of all rows.
const format = 1

// principalRow, clientRow and ownerRow are the rows of FORMAT.md.
type principalRow struct {
	Format  uint8         `cbor:"0,keyasint"`
	Type    identity.Type `cbor:"1,keyasint"`
	Created api.Time      `cbor:"2,keyasint"`
	Key     []byte        `cbor:"3,keyasint"`
}

type clientRow struct {
	Format  uint8  `cbor:"0,keyasint"`
	Account string `cbor:"1,keyasint"`
	Name    string `cbor:"2,keyasint"`
}

type ownerRow struct {
	Format  uint8  `cbor:"0,keyasint"`
	Account string `cbor:"1,keyasint"`
}

func principalName(a api.AccountID, name string) keystore.Name {
	return keystore.MakeName(keystore.SpacePrincipal, string(a[:]), name)
}

func clientName(h identity.KeyHash) keystore.Name {
	return keystore.MakeName(keystore.SpaceClient, string(h[:]))
}

// keyOfRow returns which key a client's row is of.
func keyOfRow(n keystore.Name) (h identity.KeyHash, ok bool) {
	parts := n.Components()
	if n.Space() != keystore.SpaceClient || len(parts) != 1 || len(parts[0]) != len(h) {
		return h, false
	}
	return identity.KeyHash([]byte(parts[0])), true
}

func ownerName(name string) keystore.Name { return keystore.MakeName(keystore.SpaceNameOwner, name) }

// errRow is wrapped by errors of a row that is not what this version writes.
var errRow = errors.New("row is not one of this version")

// parsePrincipal reads a principal's own row.
func parsePrincipal(n keystore.Name, value []byte) (*principal, error) {
	parts := n.Components()
	if len(parts) != 2 {
		return nil, fmt.Errorf("%w: its name has %d parts", errRow, len(parts))
	}
	account, err := api.ParseAccountID(parts[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRow, err)
	}
	var row principalRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return nil, fmt.Errorf("%w: %w", errRow, err)
	}
	if row.Format != format || row.Type != identity.Root || len(row.Key) != len(identity.KeyHash{}) {
		return nil, fmt.Errorf("%w: format %d, type %d, %d bytes of key hash", errRow, row.Format, row.Type, len(row.Key))
	}
	return &principal{account: account, name: parts[1], key: identity.KeyHash(row.Key), created: row.Created}, nil
}

// parseClient reads whose a key is.
func parseClient(value []byte) (account api.AccountID, name string, err error) {
	var row clientRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return account, "", fmt.Errorf("%w: %w", errRow, err)
	}
	if row.Format != format {
		return account, "", fmt.Errorf("%w: format %d", errRow, row.Format)
	}
	if account, err = api.ParseAccountID(row.Account); err != nil {
		return account, "", fmt.Errorf("%w: %w", errRow, err)
	}
	return account, row.Name, nil
}

// parseOwner reads in which account a name is.
func parseOwner(value []byte) (account api.AccountID, err error) {
	var row ownerRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return account, fmt.Errorf("%w: %w", errRow, err)
	}
	if row.Format != format {
		return account, fmt.Errorf("%w: format %d", errRow, row.Format)
	}
	if account, err = api.ParseAccountID(row.Account); err != nil {
		return account, fmt.Errorf("%w: %w", errRow, err)
	}
	return account, nil
}

// put writes the rows of a new principal.
func (p *principal) put(tx keystore.Tx) error {
	for _, row := range []struct {
		name  keystore.Name
		value any
	}{
		{principalName(p.account, p.name), &principalRow{format, identity.Root, p.created, p.key[:]}},
		{clientName(p.key), &clientRow{format, p.account.String(), p.name}},
		{ownerName(p.name), &ownerRow{format, p.account.String()}},
	} {
		value, err := cbor.Marshal(row.value)
		if err != nil {
			return err
		}
		if err := tx.Put(row.name, value); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes them.
func (p *principal) remove(tx keystore.Tx) error {
	return errors.Join(tx.Delete(principalName(p.account, p.name)), tx.Delete(clientName(p.key)), tx.Delete(ownerName(p.name)))
}

// getter is a Reader or a Tx.
type getter interface {
	Get(keystore.Name) ([]byte, error)
}

// byKey returns whose a key is, or nil for nobody's. The principal's row must be
// there and agree.
func byKey(g getter, h identity.KeyHash) (*principal, error) {
	value, err := g.Get(clientName(h))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p *principal
	account, name, err := parseClient(value)
	if err == nil {
		p, err = get(g, account, name)
	}
	if err == nil && p.key != h {
		err = fmt.Errorf("%w: the principal %s has another key", errRow, name)
	}
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", h, err)
	}
	return p, nil
}

// get returns a principal by account and name. Its row must be there.
func get(g getter, account api.AccountID, name string) (*principal, error) {
	n := principalName(account, name)
	value, err := g.Get(n)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n, err)
	}
	p, err := parsePrincipal(n, value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n, err)
	}
	return p, nil
}

// findByName returns the principal that has a name, or nil if none has.
func findByName(g getter, name string) (*principal, error) {
	value, err := g.Get(ownerName(name))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	account, err := parseOwner(value)
	if err != nil {
		return nil, fmt.Errorf("owner of the name %s: %w", name, err)
	}
	return get(g, account, name)
}
