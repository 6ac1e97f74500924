package kms

import (
	"context"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/keystore"
)

// Due work is found by a scan, and a scan does not prove that no row was taken away beneath the store. The rows of the
// keys say what is due. So they are gone through from the start on, and once a day, slowly, and what is missing is made again.

// Bounds of that.
const (
	keepAtOnce = 32 // keys that one snapshot is read for
	keepRest   = 20 // times as long as a snapshot took is waited behind it: a twentieth of one processor is used
	keepLeast  = time.Millisecond
	keepEvery  = 24 * time.Hour // between two rounds
)

// keepDue goes through all keys until ctx ends. It changes nothing while the rows are what they should be.
func (s *Service) keepDue(ctx context.Context) {
	for ctx.Err() == nil {
		from, rest := keystore.Name{}, keepLeast
		for more := true; more; {
			begun := time.Now()
			var err error
			from, more, err = s.keepSome(ctx, from)
			switch {
			case more:
				rest = max(keepLeast, keepRest*time.Since(begun))
			case err != nil:
				rest = dueEvery
			default:
				rest = keepEvery
			}
			select {
			case <-time.After(rest):
			case <-ctx.Done():
				return
			}
		}
	}
}

// keepSome looks at some keys from a name on, and returns where to go on.
func (s *Service) keepSome(ctx context.Context, from keystore.Name) (next keystore.Name, more bool, err error) {
	lo, hi := keystore.Range(keystore.SpaceKey)
	if from.Valid() {
		lo = from
	}
	var missing []dueItem
	err = s.store.View(ctx, func(r keystore.Reader) error {
		missing, next, more = nil, keystore.Name{}, false
		looked := 0
		for e, err := range r.Scan(lo, hi) {
			if looked++; err == nil && looked > keepAtOnce {
				next, more = e.Name, true
				return nil
			}
			if err == nil {
				err = missingDue(r, e, &missing)
			}
			if err != nil {
				next, more = behind(e.Name)
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "it is not known whether what is due of a key is listed: run keyrack check", slog.Any("error", err))
	}
	for _, d := range missing {
		if err := s.mendDue(ctx, d.name(), nil); err != nil && ctx.Err() == nil {
			s.logger.LogAttrs(ctx, slog.LevelError, "a missing row of due work is not made again", slog.String("key", d.key.String()), slog.Any("error", err))
		}
	}
	return next, more, err
}

// missingDue adds what a key waits for and has no row of, or one that cannot be read.
func missingDue(r keystore.Reader, e keystore.Entry, missing *[]dueItem) error {
	row, _, err := parseKeyRow(e.Value)
	parts := e.Name.Components()
	if err != nil || len(parts) != 1 || len(parts[0]) != len(api.KeyID{}) {
		return err
	}
	for _, d := range row.due(api.KeyID([]byte(parts[0]))) {
		switch _, err := r.Get(d.name()); {
		case errors.Is(err, keystore.ErrNotFound), errors.Is(err, keystore.ErrDamaged):
			*missing = append(*missing, d)
		case err != nil:
			return err
		}
	}
	return nil
}

// behind returns the name of the key behind the one of a row that cannot be read.
func behind(n keystore.Name) (next keystore.Name, more bool) {
	parts := n.Components()
	if len(parts) != 1 || len(parts[0]) != len(api.KeyID{}) {
		return next, false
	}
	after := new(big.Int).Add(new(big.Int).SetBytes([]byte(parts[0])), big.NewInt(1))
	if after.BitLen() > 8*len(api.KeyID{}) {
		return next, false
	}
	return keyName(api.KeyID(after.FillBytes(make([]byte, len(api.KeyID{}))))), true
}

// mendDue makes a row of due work again that is missing or broken: it is written if the row of its key says so now, and else removed.
// cause says what was wrong with it, nil that it was missing.
func (s *Service) mendDue(ctx context.Context, n keystore.Name, cause error) error {
	d, named := parseDue(n)
	if n.Space() != keystore.SpaceDue {
		return cause
	}
	_, err := s.store.Update(ctx, func(tx keystore.Tx) error {
		if !named {
			return tx.Delete(n)
		}
		b, err := tx.Get(keyName(d.key))
		if errors.Is(err, keystore.ErrNotFound) {
			return dropDue(tx, d)
		}
		if err != nil {
			return err
		}
		row, _, err := parseKeyRow(b)
		if err != nil {
			return err
		}
		if !slices.Contains(row.due(d.key), d) {
			return dropDue(tx, d)
		}
		return putDue(tx, d)
	})
	if err != nil {
		return errors.Join(cause, err)
	}
	s.due.mu.Lock()
	s.due.mended++
	s.due.mu.Unlock()
	s.logger.LogAttrs(ctx, slog.LevelWarn, "a row of due work was missing or broken, and was made again from its key's row: the store's file was changed from outside; run keyrack check",
		slog.String("row", n.String()), slog.Any("error", cause))
	return nil
}
