package kms

import (
	"context"
	"fmt"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Destroyed are keys whose material may still stand in copies of the data folder.
type Destroyed struct {
	Keys      []api.KeyID
	Materials []keystore.Name // their rows, which are deleted
	Since     api.Time        // when the first of them was destroyed
}

// Unshredded counts the keys that are destroyed and not shredded, and says since when: in one point
// read, which cannot miss any.
func (s *Service) Unshredded(ctx context.Context) (n int, since api.Time, err error) {
	err = s.store.View(ctx, func(r keystore.Reader) error {
		u, err := readUnshredded(r)
		n, since = int(u.n), u.since
		return err
	})
	return n, since, err
}

// ToShred returns those keys. It returns keystore.ErrDamaged where it finds fewer than were counted:
// their rows are hidden, and to go on would leave them out.
func (s *Service) ToShred(ctx context.Context) (d Destroyed, err error) {
	err = s.store.View(ctx, func(r keystore.Reader) error {
		d = Destroyed{}
		u, err := readUnshredded(r)
		if err != nil || u.n == 0 {
			return err
		}
		d.Since = u.since
		for e, err := range r.Scan(keystore.Range(keystore.SpaceTombstone)) {
			if err != nil {
				return err
			}
			if err := d.add(e); err != nil {
				return err
			}
		}
		if len(d.Keys) != int(u.n) {
			return fmt.Errorf("%s counts %d keys that are not shredded, and there are %d: %w", unshreddedName(), u.n, len(d.Keys), keystore.ErrDamaged)
		}
		return nil
	})
	return d, err
}

// add takes a tombstone into account.
func (d *Destroyed) add(e keystore.Entry) error {
	parts := e.Name.Components()
	if len(parts) != 1 || len(parts[0]) != len(api.KeyID{}) {
		return nil // the count
	}
	id := api.KeyID([]byte(parts[0]))
	t, err := parseTombstone(e.Value)
	if err != nil || t.Deleted == 0 || t.Shredded != 0 {
		return err
	}
	d.Keys = append(d.Keys, id)
	for _, m := range t.Materials {
		d.Materials = append(d.Materials, materialName(id, m))
	}
	return nil
}

// shredAtOnce is how many tombstones one transaction changes.
const shredAtOnce = 16

// Shredded notes that no copy of the folder that was made before leads to these keys any more. It may
// be cut off and called again.
func (s *Service) Shredded(ctx context.Context, keys []api.KeyID, now api.Time) error {
	for len(keys) > 0 {
		some := keys[:min(len(keys), shredAtOnce)]
		keys = keys[len(some):]
		_, err := s.store.Update(ctx, func(tx keystore.Tx) error {
			done := 0
			for _, id := range some {
				t, err := readTombstone(tx, id)
				if err != nil {
					return err
				}
				if t.Shredded != 0 {
					continue
				}
				done++
				t.Shredded = max(now, t.Deleted)
				if err := putTombstone(tx, id, &t); err != nil {
					return err
				}
			}
			if done == 0 {
				return nil
			}
			return changeUnshredded(tx, -done, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
