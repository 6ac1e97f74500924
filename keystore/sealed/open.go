package sealed

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

// maxNamed bounds the rows that an error of Open names: it stands in one line of a log.
const maxNamed = 8

// Create makes the state of an empty store, for the appliance and its node with these ids: the name
// key and the anchor row of generation 1, in one transaction. Rows of other raw spaces may be there
// already. It returns [ErrExists] where there is any row of this package or any sealed one, the
// errors of keys, or those of the store below.
func Create(ctx context.Context, below keystore.Store, keys Keys, appliance, node [16]byte) error {
	if err := below.View(ctx, refuseExisting); err != nil {
		return err
	}
	set, err := newKeyset(keys, appliance)
	if err != nil {
		return err
	}
	defer set.free()
	newest := set.newest()
	names, err := derived(func(out []byte, label seal.Label, context []byte) error {
		return keys.Derive(out, newest.number, label, context)
	}, seal.LabelName, appliance)
	if err != nil {
		return err
	}
	defer names.Free()
	row, err := newest.sealNameKey(appliance, names.Bytes())
	if err != nil {
		return err
	}
	first := (&Store{appliance: appliance, node: node}).newVersion(1, nil, set)
	_, err = below.Update(ctx, func(tx keystore.Tx) error {
		// Another process may have been faster since the first look. Reading the row makes the two
		// Updates conflict.
		switch _, err := tx.Get(nameKeyName()); {
		case err == nil:
			return ErrExists
		case !errors.Is(err, keystore.ErrNotFound):
			return err
		}
		return errors.Join(tx.Put(nameKeyName(), row), tx.Put(anchorName(node), first.anchor[:]))
	})
	return err
}

// refuseExisting returns ErrExists when r shows any row that only a created store has. One of them
// alone counts: it may be what is left of a store after somebody has removed the others, and must
// not be taken for a store that is new.
func refuseExisting(r keystore.Reader) error {
	for _, space := range []keystore.Space{keystore.SpaceBucket, keystore.SpaceAnchor, keystore.SpaceNameKey} {
		lo, hi := keystore.Range(space)
		if err := refuseRows(r, lo, hi); err != nil {
			return err
		}
	}
	lo, hi := keystore.SealedRange()
	return refuseRows(r, lo, hi)
}

// refuseRows returns ErrExists when r shows a row from lo to before hi.
func refuseRows(r keystore.Reader, lo, hi keystore.Name) error {
	for _, err := range r.Scan(lo, hi) {
		if err != nil {
			return err
		}
		return ErrExists
	}
	return nil
}

// Open returns the store that Create has made in below, which it owns from then on. It reads every
// bucket row, and no record, and refuses with [ErrSealBroken] unless all of them together are the
// state that was written last: the error names bucket rows that do not open, when there are any.
// Other errors are those of keys and of the store below, which remains the caller's.
//
// Rows of sealed spaces, and of spaces 1, 4 and 5, must not be written to below by anyone else.
func Open(ctx context.Context, below keystore.Store, keys Keys, appliance, node [16]byte) (*Store, error) {
	set, err := newKeyset(keys, appliance)
	if err != nil {
		return nil, err
	}
	s := &Store{
		below: below, appliance: appliance, node: node, anchor: anchorName(node),
		maxBuckets: maxBuckets, maxBucketBytes: maxBucketBytes, spread: math.MaxUint16 + 1,
	}
	if err := below.View(ctx, func(r keystore.Reader) error { return s.load(r, set) }); err != nil {
		s.names.Free()
		set.free()
		return nil, err
	}
	return s, nil
}

// load reads the name key, the anchor row and all bucket rows, and starts the ledger with them. In
// the usual case it opens no bucket row: the digests are all that the state root stands on.
func (s *Store) load(r keystore.Reader, keys keyset) error {
	row, err := r.Get(nameKeyName())
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return broken(nameKeyName(), "is missing: the store was not created, or its rows were removed")
	case err != nil:
		return err
	}
	if s.names, err = keys.newest().openNameKey(s.appliance, row); err != nil {
		return err
	}
	anchor, err := s.loadAnchor(r)
	if err != nil {
		return err
	}
	var changes []change
	err = s.bucketRows(r, keys, func(number uint16, _ []byte, leaf *node, _ *versionKeys) error {
		changes = append(changes, change{number, leaf})
		return nil
	})
	if err != nil {
		return err
	}
	v := s.newVersion(anchor.generation(), (*node)(nil).with(changes), keys)
	if subtle.ConstantTimeCompare(v.anchor[:], anchor[:]) != 1 && !unchecked.Load() {
		return s.explain(r, keys, anchor)
	}
	s.ledger.start(v)
	return nil
}

// loadAnchor reads the anchor row. That there is none is damage, never a store that is new: whoever
// could make one look new by removing a row could make it forget everything.
func (s *Store) loadAnchor(r keystore.Reader) (a anchor, err error) {
	row, err := s.anchorRow(r.Get)
	switch {
	case err != nil:
		return a, err
	case row == nil:
		return a, broken(s.anchor, "state root is missing")
	case len(row) != anchorSize:
		return a, broken(s.anchor, "state root has not the length of one")
	}
	return anchor(row), nil
}

// bucketRows calls f for each stored bucket row, in order, with its bucket, the row, what the hash
// tree holds of it, and the keys that it names. The row is valid until f returns.
func (s *Store) bucketRows(r keystore.Reader, keys keyset, f func(uint16, []byte, *node, *versionKeys) error) error {
	for e, err := range r.Scan(keystore.Range(keystore.SpaceBucket)) {
		if err != nil {
			return err
		}
		number, ok := parseBucketName(e.Name)
		if !ok {
			return broken(e.Name, "is not the name of a bucket")
		}
		leaf, version, err := keys.parseLeaf(number, e.Value)
		if err != nil {
			return err
		}
		if err := f(number, e.Value, leaf, version); err != nil {
			return err
		}
	}
	return nil
}

// explain returns why the state root does not stand for the bucket rows: those that do not open, or
// else some that are of another time. A failing medium leaves the former, somebody who edits it the
// latter; the operator needs a backup either way, and should know which it is.
func (s *Store) explain(r keystore.Reader, keys keyset, a anchor) error {
	var bad []string
	more := 0
	err := s.bucketRows(r, keys, func(number uint16, row []byte, _ *node, version *versionKeys) error {
		b, err := version.openBucket(s.appliance, number, row)
		switch {
		case err == nil:
			b.free()
		case !errors.Is(err, ErrSealBroken):
			return err
		case len(bad) == maxNamed:
			more++
		default:
			bad = append(bad, bucketName(number).String())
		}
		return nil
	})
	if err != nil {
		return err
	}
	what := fmt.Sprintf("state root of generation %d is not that of the bucket rows", a.generation())
	switch {
	case len(bad) == 0:
		return broken(s.anchor, what+": it, or some of them, are of another time")
	case more > 0:
		bad = append(bad, fmt.Sprintf("and %d more", more))
	}
	return broken(s.anchor, what+", and these do not open: "+strings.Join(bad, ", "))
}
