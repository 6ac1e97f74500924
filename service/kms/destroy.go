package kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/keystore"
)

// destroyAtOnce is how many aliases, or materials that are not current, one transaction takes
// from a key that is being destroyed: each of them is two rows at most.
const destroyAtOnce = 12

// errHiddenAliases says that rows of a key's aliases were taken away beneath the store.
var errHiddenAliases = fmt.Errorf("%w: aliases of the key are missing", keystore.ErrDamaged)

// destroyDue ends a key whose time has come. The first run warns, and is told apart by the
// key's row. A later one, when the date and the warning are over, makes the tombstone,
// from where on there is no way back; takes aliases and earlier materials, a few in
// a transaction, each of which leaves rows that agree; and last the key with what is
// left. A cut leaves the piece of work, which goes on.
func (s *Service) destroyDue(ctx context.Context, w *dueWork) error {
	begun, err := s.beginDestruction(ctx, w)
	if err != nil || !begun {
		return err
	}
	for _, step := range []func(context.Context, *dueWork) (more bool, err error){s.takeAlias, s.takeMaterials} {
		for more := true; more; {
			if more, err = step(ctx, w); err != nil {
				return fmt.Errorf("destroy key %s: %w", w.key, err)
			}
		}
	}
	if err := s.takeKey(ctx, w); err != nil {
		return fmt.Errorf("destroy key %s: %w", w.key, err)
	}
	return nil
}

// beginDestruction decides what is to be done now: warn, wait, or make the tombstone.
func (s *Service) beginDestruction(ctx context.Context, w *dueWork) (begun bool, err error) {
	var warned time.Time
	err = w.change(ctx, func(tx keystore.Tx, row *keyRow) (*access.Event, error) {
		begun, warned = false, time.Time{}
		if row.State != kmsapi.StatePendingDeletion || row.Doom == nil || row.Doom.Due != w.at {
			return nil, nil // it was kept, and perhaps doomed again
		}
		if row.Doom.Begun {
			begun = true
			return nil, putDue(tx, w.dueItem)
		}
		powered := w.time.Powered()
		if row.Doom.Warned == 0 {
			warned = row.Deletion.Time()
			row.Doom.Warned = max(1, powered.Microseconds())
		}
		left := max(deletionWarning-powered+time.Duration(row.Doom.Warned)*time.Microsecond, row.Deletion.Time().Sub(w.now.Time()))
		if left > 0 {
			row.Doom.Due = api.TimeOf(w.now.Time().Add(left))
			return nil, putDue(tx, row.deletionDue(w.key))
		}
		begun, row.Doom.Begun = true, true
		if err := putDue(tx, w.dueItem); err != nil {
			return nil, err
		}
		return nil, s.bury(tx, w.key, row)
	})
	if err == nil && !warned.IsZero() {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "a key will be destroyed: keyrack key cancel-deletion keeps it", slog.String("key", w.key.String()), slog.Time("date", warned))
	}
	return begun, err
}

// takeAlias takes some aliases of the key. They are found by a scan, and the key's row
// counts them: one that is hidden is not left behind.
func (s *Service) takeAlias(ctx context.Context, w *dueWork) (more bool, err error) {
	var names []string
	err = s.store.View(ctx, func(r keystore.Reader) error {
		names = nil
		for e, err := range r.Scan(keystore.Range(keystore.SpaceKeyAlias, string(w.key[:]))) {
			if err != nil {
				return err
			}
			if parts := e.Name.Components(); len(parts) == 2 && len(names) < destroyAtOnce {
				names = append(names, parts[1])
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	err = w.goOn(ctx, func(tx keystore.Tx, row *keyRow, account api.AccountID) error {
		more = false
		taken, err := s.takeAliases(tx, aliasesOf(account, names), w.key)
		if err != nil {
			return err
		}
		if int(row.Aliases) < taken || taken == 0 && row.Aliases > 0 {
			return fmt.Errorf("%w: its row counts %d", errHiddenAliases, row.Aliases)
		}
		row.Aliases -= uint16(taken)
		more = row.Aliases > 0
		return nil
	})
	return more, err
}

func aliasesOf(account api.AccountID, names []string) (all []aliasID) {
	for _, name := range names {
		all = append(all, aliasID{account, name})
	}
	return all
}

// takeAliases deletes those that still name the key, and returns how many they were.
func (s *Service) takeAliases(tx keystore.Tx, all []aliasID, key api.KeyID) (taken int, err error) {
	for _, id := range all {
		row, err := readAlias(tx, id)
		if errors.Is(err, keystore.ErrNotFound) || err == nil && row.target() != key {
			continue
		}
		if err == nil {
			err = errors.Join(tx.Delete(id.rowName()), tx.Delete(id.mirrorName(key)))
		}
		if err != nil {
			return taken, err
		}
		taken++
	}
	return taken, nil
}

// takeMaterials takes some of the materials that are not the current one.
func (s *Service) takeMaterials(ctx context.Context, w *dueWork) (more bool, err error) {
	err = w.goOn(ctx, func(tx keystore.Tx, row *keyRow, _ api.AccountID) error {
		more = false
		m, err := storedMaterials(tx, w.key, row)
		if err != nil || len(m) < 2 {
			return err
		}
		var kept materials
		taken := 0
		for _, e := range m {
			if e.State == kmsapi.MaterialCurrent || taken == destroyAtOnce {
				kept = append(kept, e)
				continue
			}
			taken++
			if err := tx.Delete(materialName(w.key, e.ID)); err != nil {
				return err
			}
		}
		more = len(kept) > 1
		return putMaterials(tx, w.key, row, kept)
	})
	return more, err
}

// takeKey takes what is left of a key, and closes its tombstone.
func (s *Service) takeKey(ctx context.Context, w *dueWork) error {
	account, err := s.accountOf(ctx, w.key)
	if err != nil {
		return err
	}
	count, err := s.countOf(ctx, account)
	if err != nil {
		return err
	}
	err = w.gate.Update(ctx, s.store, func(tx keystore.Tx) (*access.Event, error) {
		b, err := w.claim(tx)
		if b == nil || err != nil {
			return nil, err
		}
		row, account, err := parseKeyRow(b)
		if err != nil {
			return nil, err
		}
		if row.Doom == nil || !row.Doom.Begun || row.Aliases > 0 {
			return nil, fmt.Errorf("key %s: its destruction has not come so far: %w", w.key, keystore.ErrDamaged)
		}
		if err := errors.Join(count.remove(tx), s.takeRows(tx, w.key, &row, account)); err != nil {
			return nil, err
		}
		return s.closeTomb(tx, w, account)
	})
	if err == nil {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "a key was destroyed", slog.String("key", w.key.String()))
	}
	return err
}

// accountOf returns whose a key is; none if there is no such key.
func (s *Service) accountOf(ctx context.Context, id api.KeyID) (account api.AccountID, err error) {
	err = s.store.View(ctx, func(r keystore.Reader) error {
		b, err := r.Get(keyName(id))
		if errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		if err == nil {
			_, account, err = parseKeyRow(b)
		}
		return err
	})
	return account, err
}

// takeRows deletes every row of a key but for its tombstone.
func (s *Service) takeRows(tx keystore.Tx, id api.KeyID, row *keyRow, account api.AccountID) error {
	m, err := materialsOf(tx, id, row)
	if err != nil {
		return err
	}
	for i := range m {
		err = errors.Join(err, tx.Delete(materialName(id, m[i].ID)))
	}
	for _, d := range row.due(id) {
		err = errors.Join(err, dropDue(tx, d))
	}
	for _, n := range append(rowsBesideKey(id), listingName(account, id), keyName(id)) {
		err = errors.Join(err, tx.Delete(n))
	}
	return err
}

// rowsBesideKey are the rows that a key may have under its id alone.
func rowsBesideKey(id api.KeyID) []keystore.Name {
	return []keystore.Name{tagsName(id), materialsName(id), usageName(id), importName(id)}
}

// due are the pieces of work that the key's own row says there are.
func (r *keyRow) due(id api.KeyID) (all []dueItem) {
	if r.Doom != nil {
		all = append(all, r.deletionDue(id))
	}
	if r.RotateNext != 0 && r.State == kmsapi.StateEnabled {
		all = append(all, r.rotationDue(id))
	}
	if r.Expiry != 0 {
		all = append(all, r.expiryDue(id))
	}
	return all
}

// goOn runs f in a transaction of a destruction that has begun. What f changes in row is written;
// the piece of work stays.
func (w *dueWork) goOn(ctx context.Context, f func(tx keystore.Tx, row *keyRow, account api.AccountID) error) error {
	return w.change(ctx, func(tx keystore.Tx, row *keyRow) (*access.Event, error) {
		account, err := api.ParseAccountID(row.Account)
		switch {
		case err != nil:
			return nil, err
		case row.Doom == nil || !row.Doom.Begun:
			return nil, fmt.Errorf("its destruction has not begun: %w", keystore.ErrDamaged)
		}
		if err := f(tx, row, account); err != nil {
			return nil, err
		}
		return nil, putDue(tx, w.dueItem)
	})
}
