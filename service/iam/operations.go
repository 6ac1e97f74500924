package iam

import (
	"strings"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// AddPrincipal registers a client's key as the root of an account. The client
// may call before this returns. Neither its name nor its key may be registered.
func (s *Service) AddPrincipal(c *access.Call, in *applianceapi.AddPrincipalRequest, out *applianceapi.AddPrincipalResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	p, err := parse(c, in)
	if err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	if n := s.index.size(); n >= s.MaxPrincipals {
		return api.Errorf(api.KindLimitExceeded, "there are %d principals, the most that there may be", n)
	}
	out.Principal = p.describe(s.Realm)
	return c.Update(s.Store, func(tx keystore.Tx) error {
		if err := unused(tx, p); err != nil {
			return err
		}
		return p.put(tx)
	})
}

// parse makes a principal of a request, or says what is wrong with that.
func parse(c *access.Call, in *applianceapi.AddPrincipalRequest) (*principal, error) {
	if strings.ContainsFunc(in.Name, func(r rune) bool { return !nameCharacter(r) }) {
		return nil, invalid("name", "Member must satisfy regular expression pattern: [A-Za-z0-9+=,.@_-]+")
	}
	account, err := api.ParseAccountID(in.Account)
	if err != nil {
		return nil, invalid("account", err.Error())
	}
	key, err := identity.ParseKeyHash(in.KeyHash)
	if err != nil {
		return nil, invalid("keyHash", "Member must be sha256: and 64 lower-case hex digits")
	}
	return &principal{account: account, name: in.Name, key: key, created: api.TimeOf(c.Now())}, nil
}

// invalid returns AWS's sentence for a member that breaks a constraint.
func invalid(member, constraint string) error {
	return api.Errorf(api.KindValidation, "1 validation error detected: Value at '%s' failed to satisfy constraint: %s", member, constraint)
}

// nameCharacter reports whether a name may have r (AWS IAM user guide, "IAM
// identifiers": names of users).
func nameCharacter(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("+=,.@_-", r)
}

// unused refuses a name or a key that is registered. These are point reads, so
// that nobody can hide the row that says no.
func unused(tx keystore.Tx, p *principal) error {
	other, err := findByName(tx, p.name)
	if err != nil {
		return err
	}
	if other == nil {
		if other, err = byKey(tx, p.key); err != nil {
			return err
		}
	}
	if other != nil {
		return &api.Error{Kind: api.KindAlreadyExists, Reason: "principal",
			Message: "the principal " + other.name + " of account " + other.account.String() + " is registered with the key " + other.key.String()}
	}
	return nil
}

// RemovePrincipal takes from a client the right to call. Before this returns,
// the next request of each of its open connections is refused.
func (s *Service) RemovePrincipal(c *access.Call, in *applianceapi.RemovePrincipalRequest, out *applianceapi.RemovePrincipalResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	return c.Update(s.Store, func(tx keystore.Tx) error {
		p, err := findByName(tx, in.Name)
		if err != nil {
			return err
		}
		if p == nil {
			return &api.Error{Kind: api.KindNotFound, Reason: "principal", Message: "there is no principal of that name"}
		}
		out.Principal = p.describe(s.Realm)
		return p.remove(tx)
	})
}

// defaultLimit is how many principals a page has that asks for no number.
const defaultLimit = 100

// ListPrincipals returns the principals that may call, by name. It reads what
// the door reads, so nobody is let in who is not listed.
func (s *Service) ListPrincipals(c *access.Call, in *applianceapi.ListPrincipalsRequest, out *applianceapi.ListPrincipalsResponse) error {
	if err := c.Admit(access.Appliance(c)); err != nil {
		return err
	}
	limit := int(in.Limit)
	if limit == 0 {
		limit = defaultLimit
	}
	page, more := s.index.page(in.Marker, limit)
	for _, p := range page {
		out.Principals = append(out.Principals, p.describe(s.Realm))
	}
	if more {
		out.NextMarker = page[len(page)-1].name
	}
	return nil
}
