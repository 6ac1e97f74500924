package sealed

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// Bounds of one Rewrap: other Updates wait for it, and the store below takes 120 rows.
const (
	rewrapRows  = 32
	rewrapBytes = keystore.MaxBytes / 2 // of opened bucket rows
)

// Rekey begins a rotation of the domain key: in one transaction it commits what rows does, seals the
// name key under the new version and makes the state root with its key. derive derives from the new
// version as [Keys] does; it is not kept. From then on bucket rows are written under the new
// version, those under the older one are still read, and [Store.Rewrap] makes new ones of them.
// A process that ends at any point goes on where it was, when Keys has both versions.
//
// version is greater than the present one. Rekey returns [ErrRotation] when it is not or a rotation
// is under way, the error of derive or rows, and otherwise the errors of an Update; then nothing has
// changed. rows may run several times, as the function of [Store.UpdateBoth].
func (s *Store) Rekey(ctx context.Context, version uint32, derive func(out []byte, label seal.Label, context []byte) error, rows func(sealed, raw keystore.Tx) error) error {
	s.rotation.Lock()
	defer s.rotation.Unlock()
	present := s.ledger.current().keys.newest()
	fresh, err := newVersionKeys(version, 1-present.slot, s.appliance, derive)
	if err != nil {
		return err
	}
	both := keyset{present, fresh}
	s.ledger.use(both)
	defer s.ledger.unuse(both)
	_, err = s.update(ctx, func(t *tx) error {
		switch now := t.at.keys; {
		case now.older() != nil:
			return fmt.Errorf("%w: the one to version %d has not ended", ErrRotation, now.newest().number)
		case version <= now.newest().number:
			return fmt.Errorf("%w: version %d does not follow version %d", ErrRotation, version, now.newest().number)
		}
		t.keys, t.force = both, true
		if err := t.resealNameKey(fresh); err != nil {
			return err
		}
		return rows(t, t.raw)
	})
	return err
}

// resealNameKey writes the name key under k, once it is proved that the stored one is the one in
// use.
func (t *tx) resealNameKey(k *versionKeys) error {
	if err := t.checkNameKey(); err != nil {
		return err
	}
	row, err := k.sealNameKey(t.store.appliance, t.store.names.Bytes())
	if err != nil {
		return err
	}
	return t.below.Put(nameKeyName(), row)
}

// checkNameKey opens the stored name key, which must be under the newest version, and compares it
// with the one in use: a rotation must not carry on, or leave behind, a row that the next start
// cannot open.
func (o *opener) checkNameKey() error {
	row, err := o.read(nameKeyName())
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return broken(nameKeyName(), "was removed")
	case err != nil:
		return err
	}
	key, err := o.at.keys.newest().openNameKey(o.store.appliance, row)
	if err != nil {
		return err
	}
	defer key.Free()
	if subtle.ConstantTimeCompare(key.Bytes(), o.store.names.Bytes()) != 1 {
		return broken(nameKeyName(), "is another key")
	}
	return nil
}

// Rewrap seals up to 32 bucket rows of the older version of the domain key under the newest one, in
// one transaction, and returns how many are left: 0 as well when no rotation is under way. Bucket
// keys stay, so records are as they were. A row that is broken is passed over; where a Rewrap meets
// only such, it returns [ErrSealBroken], and the next one goes on behind them. It may run beside
// everything else.
func (s *Store) Rewrap(ctx context.Context) (left int, err error) {
	var w rewrap
	_, err = s.update(ctx, func(t *tx) error {
		w = rewrap{next: uint16(s.cursor.Load())}
		return w.run(t)
	})
	if err != nil {
		return 0, err
	}
	s.cursor.Store(uint32(w.next))
	if w.done == 0 {
		return w.left, w.damage
	}
	return w.left, nil
}

// rewrap is one run of a Rewrap: the bucket to go on at, how many rows it has done and left, and
// what was wrong with the last one that is broken.
type rewrap struct {
	next       uint16
	done, left int
	damage     error
}

// run marks rows of the older version to be written.
func (w *rewrap) run(t *tx) error {
	old := t.keys.older()
	if old == nil {
		return nil
	}
	w.left = t.at.tree.sealedBy(old.slot)
	todo := min(w.left, rewrapRows)
	for _, from := range []uint16{w.next, 0} {
		for number := range t.at.tree.leaves(from, old.slot) {
			if todo == 0 || t.bucketBytes > rewrapBytes {
				return nil
			}
			todo--
			w.next = number + 1
			if err := w.open(t, number); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *rewrap) open(t *tx, number uint16) error {
	b, err := t.bucket(number)
	switch {
	case errors.Is(err, ErrSealBroken):
		w.damage = err
		return nil
	case err != nil:
		return err
	}
	b.changed = true
	w.done++
	w.left--
	return nil
}

// Retire ends a rotation: in one transaction it commits what rows does, and from then on the keys of
// the older version are forgotten. It returns [ErrRotation] when no rotation is under way or a
// bucket row is still under the older version, and otherwise fails as [Store.Rekey] does.
func (s *Store) Retire(ctx context.Context, rows func(sealed, raw keystore.Tx) error) error {
	s.rotation.Lock()
	defer s.rotation.Unlock()
	_, err := s.update(ctx, func(t *tx) error {
		old := t.keys.older()
		if old == nil {
			return fmt.Errorf("%w: none is under way", ErrRotation)
		}
		if left := t.at.tree.sealedBy(old.slot); left > 0 {
			return fmt.Errorf("%w: %d bucket rows are still under version %d", ErrRotation, left, old.number)
		}
		if err := t.checkNameKey(); err != nil {
			return err
		}
		t.keys, t.force = t.keys[1:], true
		return rows(t, t.raw)
	})
	return err
}
