package kms

import (
	"fmt"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
)

// list is one request for a page of rows whose names differ in the last
// component only.
type list struct {
	space  keystore.Space
	common string // the first component
	filter string // what the caller has narrowed the list to, for the marker
	marker string
	limit  int64 // as asked for; 0 = usual
	usual  int64
}

// page calls each for the rows of the page, in their order, and returns the
// marker of the next one, "" for the last. It reads one row more than it shows,
// so that a page which ends with the list is not truncated. Rows that come or go
// between two pages are shown or not, each of the others exactly once.
func (s *Service) page(c *access.Call, l list, each func(r keystore.Reader, e keystore.Entry, last string) error) (next string, err error) {
	last, err := s.after(c, l.filter, l.marker)
	if err != nil {
		return "", err
	}
	from, to := keystore.Range(l.space, l.common)
	if last != "" {
		_, from = keystore.Range(l.space, l.common, last)
	}
	if l.limit == 0 {
		l.limit = l.usual
	}
	err = s.store.View(c.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(from, to) {
			if err != nil {
				return err
			}
			if l.limit--; l.limit < 0 {
				next = s.marker(c, l.filter, last)
				return nil
			}
			parts := e.Name.Components()
			if len(parts) != 2 {
				return fmt.Errorf("%s has %d components, want 2", e.Name, len(parts))
			}
			last = parts[1]
			if err := each(r, e, last); err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		return nil
	})
	return next, err
}

// ListKeys returns the keys of the caller's account in the order of the bytes of
// their ids, in every state: 1 to 1000 of them, 100 if the caller does not say. (AWS KMS API
// Reference, ListKeys.)
//
// Errors: AccessDenied, InvalidMarker.
func (s *Service) ListKeys(c *access.Call, in *kmsapi.ListKeysRequest, out *kmsapi.ListKeysResponse) error {
	if err := c.Admit(access.Any(c)); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	account := c.Account()
	next, err := s.page(c, list{
		space: keystore.SpaceAccountKey, common: string(account[:]), marker: in.Marker, limit: in.Limit, usual: api.ListedKeys,
	}, func(_ keystore.Reader, _ keystore.Entry, last string) error {
		if len(last) != len(api.KeyID{}) {
			return fmt.Errorf("key id of %d bytes", len(last))
		}
		id := api.KeyID([]byte(last))
		out.Keys = append(out.Keys, kmsapi.KeyListEntry{KeyId: id.String(), KeyArn: s.realm.KeyARN(account, id, id.Multi())})
		return nil
	})
	out.NextMarker, out.Truncated = next, next != ""
	return err
}

// ListAliases returns the aliases of the caller's account, or of one key in it:
// 1 to 100 of them, 50 if the caller does not say. The door is asked for "*", as
// AWS does, and not for the key. (AWS KMS API Reference, ListAliases.)
//
// Errors: AccessDenied, NotFound (the key, also for an alias), InvalidMarker.
func (s *Service) ListAliases(c *access.Call, in *kmsapi.ListAliasesRequest, out *kmsapi.ListAliasesResponse) error {
	if err := c.Admit(access.Any(c)); err != nil {
		return err
	}
	account := c.Account()
	l := list{space: keystore.SpaceAlias, common: string(account[:]), marker: in.Marker, limit: in.Limit, usual: api.ListedAliases}
	if in.KeyId.Form != api.RefAbsent {
		k, err := s.own(c, &in.KeyId)
		if err != nil {
			return err
		}
		l.space, l.common = keystore.SpaceKeyAlias, string(k.id[:])
		l.filter = l.common
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	next, err := s.page(c, l, func(r keystore.Reader, e keystore.Entry, last string) error {
		entry, err := s.aliasEntry(r, e, aliasID{account, last})
		out.Aliases = append(out.Aliases, entry)
		return err
	})
	out.NextMarker, out.Truncated = next, next != ""
	return err
}

// aliasEntry returns the alias that e is the row of, or lists under a key.
func (s *Service) aliasEntry(r keystore.Reader, e keystore.Entry, id aliasID) (entry kmsapi.AliasListEntry, err error) {
	var row *aliasRow
	if e.Name.Space() == keystore.SpaceAlias {
		row, err = parseAliasRow(e.Value)
	} else {
		row, err = readAlias(r, id)
	}
	if err != nil {
		return entry, err
	}
	return kmsapi.AliasListEntry{
		AliasName: id.text(), AliasArn: s.realm.AliasARN(id.account, id.text()), TargetKeyId: row.target().String(),
		CreationDate: row.Created, LastUpdatedDate: row.Updated,
	}, nil
}
