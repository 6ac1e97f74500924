package kms

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Destroyed are keys, and imported materials of keys that stay, which copies of the data folder may still hold.
type Destroyed struct {
	Keys      []api.KeyID
	Materials []keystore.Name // rows of secrets, which are deleted
	Since     api.Time        // when the first of them was destroyed

	gone []gone // materials of keys that stay
}

// gone is the row of a material that was deleted by itself.
type gone struct {
	name keystore.Name
	at   string // its value: when that was
}

// Len returns how many they are.
func (d *Destroyed) Len() int { return len(d.Keys) + len(d.gone) }

// Unshredded counts the keys and materials that are destroyed and not shredded, and says since when: in one point
// read, which cannot miss any.
func (s *Service) Unshredded(ctx context.Context) (n int, since api.Time, err error) {
	err = s.store.View(ctx, func(r keystore.Reader) error {
		u, err := readUnshredded(r)
		n, since = int(u.n), u.since
		return err
	})
	return n, since, err
}

// ToShred returns those keys and materials. It returns keystore.ErrDamaged where it finds fewer than were counted:
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
		if d.Len() != int(u.n) {
			return fmt.Errorf("%s counts %d keys and materials that are not shredded, and there are %d: %w", unshreddedName(), u.n, d.Len(), keystore.ErrDamaged)
		}
		return nil
	})
	return d, err
}

// add takes a tombstone into account.
func (d *Destroyed) add(e keystore.Entry) error {
	parts := e.Name.Components()
	if len(parts) == 2 && len(parts[0]) == len(api.KeyID{}) {
		d.gone = append(d.gone, gone{e.Name, string(e.Value)})
		d.Materials = append(d.Materials, materialName(api.KeyID([]byte(parts[0])), []byte(parts[1])))
		return nil
	}
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

// Shredded notes that no copy of the folder that was made before leads to these keys and materials any more. It may
// be cut off and called again.
func (s *Service) Shredded(ctx context.Context, d Destroyed, now api.Time) error {
	for some := range slices.Chunk(d.Keys, shredAtOnce) {
		if err := s.shredded(ctx, func(tx keystore.Tx) (int, error) { return keysShredded(tx, some, now) }); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(d.gone, shredAtOnce) {
		if err := s.shredded(ctx, func(tx keystore.Tx) (int, error) { return goneShredded(tx, some) }); err != nil {
			return err
		}
	}
	return nil
}

// shredded counts as many fewer as f returns, in one transaction with what f does.
func (s *Service) shredded(ctx context.Context, f func(keystore.Tx) (done int, err error)) error {
	_, err := s.store.Update(ctx, func(tx keystore.Tx) error {
		done, err := f(tx)
		if done == 0 || err != nil {
			return err
		}
		return changeUnshredded(tx, -done, 0)
	})
	return err
}

func keysShredded(tx keystore.Tx, keys []api.KeyID, now api.Time) (done int, err error) {
	for _, id := range keys {
		t, err := readTombstone(tx, id)
		if err != nil {
			return done, err
		}
		if t.Shredded != 0 {
			continue
		}
		done++
		t.Shredded = max(now, t.Deleted)
		if err := putTombstone(tx, id, &t); err != nil {
			return done, err
		}
	}
	return done, nil
}

// goneShredded ends the rows of materials, but for those that were deleted once more meanwhile.
func goneShredded(tx keystore.Tx, materials []gone) (done int, err error) {
	for _, g := range materials {
		at, err := tx.Get(g.name)
		if errors.Is(err, keystore.ErrNotFound) || err == nil && string(at) != g.at {
			continue
		}
		if err == nil {
			err = tx.Delete(g.name)
		}
		if err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}
