package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

// Records is what is sealed under the domain key, as the keyring's changes need it: *sealed.Store
// of keystore/sealed. The raw rows of its transactions are those of the store that the keyring was
// given.
type Records interface {
	// View reads sealed rows.
	View(ctx context.Context, f func(keystore.Reader) error) error

	// UpdateBoth changes sealed and raw rows in one transaction.
	UpdateBoth(ctx context.Context, f func(sealed, raw keystore.Tx) error) (keystore.Revision, error)

	// Rekey makes version, whose keys derive gives until the keyring does, the one under which
	// everything is sealed from now on. What rows writes is in the transaction that makes it so;
	// when Rekey returns nil, that is durable.
	Rekey(ctx context.Context, version uint32, derive func(out []byte, label seal.Label, context []byte) error, rows func(sealed, raw keystore.Tx) error) error

	// Rewrap seals a part of what is left under the older version anew, and returns how much is
	// left.
	Rewrap(ctx context.Context) (left int, err error)

	// Retire forgets the older version, under which nothing is left. What rows writes is in the
	// transaction that makes it so.
	Retire(ctx context.Context, rows func(sealed, raw keystore.Tx) error) error
}

var (
	errTableChanged = errors.New("changed since this keyring was unlocked; lock it and unlock it again")
	errForeignSlot  = errors.New("belongs to another token, whose root cannot be ended here; remove the slot first")
)

// Rotate gives the domain its next version: a new root in the token, a new domain key, a new slot.
// When it returns nil, that is durable, Derive knows both versions, and the token has destroyed the
// roots of the old slots: no copy of them opens anywhere. What is sealed under the version before
// is left for Continue.
//
// A crash at any step leaves a domain that Unlock opens, with the versions from before or from
// after, and in which Continue finishes what was begun or takes it back; FORMAT.md has the steps.
// It returns ErrRotating while a version before the newest is left, ErrLocked, a RowError for a row
// that is not what it was at Unlock, an error that wraps ErrReadBack, or what store or token said.
// After an error that says so the new version is durable and an old root may still be there.
func (k *Keyring) Rotate(ctx context.Context, r Records) error {
	if len(k.Versions()) > 1 { // not behind a Continue that may take its time
		return ErrRotating
	}
	leave, err := k.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	now, err := k.verified(ctx, r)
	switch {
	case err != nil:
		return err
	case now.before != nil:
		return ErrRotating
	}
	if now, err = k.endRoots(ctx, r, now); err != nil { // of an attempt that was cut off
		return err
	}
	next, err := k.rotate(ctx, r, now)
	if err != nil {
		return err
	}
	if _, err = k.endRoots(ctx, r, next); err != nil {
		return fmt.Errorf("domain key rotated to version %d, but an old root is not ended yet: %w", next.table.version, err)
	}
	return nil
}

// rotate makes the next version and commits it. The old roots are still there.
func (k *Keyring) rotate(ctx context.Context, r Records, now *keys) (*keys, error) {
	if err := k.ownSlots(ctx, now); err != nil {
		return nil, err
	}
	s, root, now, err := k.listedSlot(ctx, r, now)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	next, err := k.prepare(ctx, now, s, root)
	if err == nil {
		err = k.rekey(ctx, r, now, next)
	}
	if err != nil {
		_, ended := k.endRoots(context.WithoutCancel(ctx), r, now)
		return nil, errors.Join(err, ended)
	}
	return next, nil
}

// listedSlot makes a root and a slot for the next version, and lists the root as retired: where its slot never comes, it does
// not stay in the token. A token that can plan has it only when it is listed. The caller closes the root.
func (k *Keyring) listedSlot(ctx context.Context, r Records, now *keys) (*slot, hsm.Key, *keys, error) {
	if planner, ok := k.token.(hsm.Planner); ok {
		return k.plannedSlot(ctx, r, now, planner)
	}
	s, root, err := k.newSlot(ctx, now.table.version+1)
	if err != nil {
		return nil, nil, nil, err
	}
	listed, err := k.list(ctx, r, now, s)
	if err != nil { // it opens nothing, whatever was committed
		return nil, nil, nil, errors.Join(err, root.Close(), k.token.Destroy(context.WithoutCancel(ctx), s.root.blob))
	}
	return s, root, listed, nil
}

// plannedSlot is listedSlot with a token that can plan: the table lists the plan.
func (k *Keyring) plannedSlot(ctx context.Context, r Records, now *keys, planner hsm.Planner) (*slot, hsm.Key, *keys, error) {
	plan, err := planner.Plan(ctx, hsm.PRFSHA256)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("plan root: %w", err)
	}
	s, err := k.emptySlot(now.table.version+1, plan)
	if err != nil {
		return nil, nil, nil, err
	}
	if now, err = k.list(ctx, r, now, s); err != nil {
		return nil, nil, nil, err
	}
	root, blob, err := planner.Make(ctx, hsm.PRFSHA256, plan)
	if err == nil {
		if err = s.name(s.root.kind, blob); err == nil {
			return s, root, now, nil
		}
		root.Close()
	}
	_, ended := k.endRoots(context.WithoutCancel(ctx), r, now)
	return nil, nil, nil, errors.Join(fmt.Errorf("make root: %w", err), ended)
}

// list commits the root of s as retired.
func (k *Keyring) list(ctx context.Context, r Records, now *keys, s *slot) (*keys, error) {
	return k.change(ctx, r, now, func(next *keys) { next.retired = append(slices.Clip(next.retired), s.retire()) })
}

// ownSlots refuses a slot that is not of this token: the new domain key cannot be wrapped for it,
// nor its root be ended.
func (k *Keyring) ownSlots(ctx context.Context, now *keys) error {
	kind := k.token.Describe().Kind
	for _, s := range now.slots {
		if s.root.kind != kind {
			return &RowError{slotName(s.id), errForeignSlot}
		}
		root, err := k.token.Load(ctx, s.root.blob)
		if errors.Is(err, hsm.ErrBlob) {
			err = fmt.Errorf("%w: %w", errForeignSlot, err)
		}
		if err != nil {
			return &RowError{slotName(s.id), err}
		}
		if err := root.Close(); err != nil {
			return err
		}
	}
	return nil
}

// prepare returns what the keyring holds after the rotation to slot s, whose root is new:
// everything is made, and was opened again from the bytes that will be stored.
func (k *Keyring) prepare(ctx context.Context, now *keys, s *slot, root hsm.Key) (*keys, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	next := &keys{state: state{table: now.table, slots: []*slot{s}}, newest: key, before: now.newest}
	next.table.version = s.version
	for _, old := range now.slots {
		next.retired = append(next.retired, old.retire())
	}
	if err = s.wrap(ctx, root, key.Bytes()); err == nil {
		err = s.check(ctx, k.token, key)
	}
	if err == nil {
		err = k.with(now, next.prove)
	}
	if err != nil {
		key.Free()
		return nil, err
	}
	return next, nil
}

// check opens the slot's row through the token and compares.
func (s *slot) check(ctx context.Context, token hsm.Provider, want *securemem.Buffer) error {
	again, err := parseSlot(slotName(s.id), s.encode())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	key, err := again.unwrap(ctx, token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	defer key.Free()
	if !sameKey(key, want) {
		return ErrReadBack
	}
	return nil
}

// prove seals the version before under the newest, opens and compares it, and makes the table.
func (h *keys) prove() (err error) {
	if h.earlier, err = sealVersion(h.newest.Bytes(), h.before.Bytes(), h.table.appliance, h.table.version); err != nil {
		return err
	}
	if err := h.checkEarlier(); err != nil {
		return err
	}
	return h.authenticate()
}

// checkEarlier opens the row of the version before and compares.
func (h *keys) checkEarlier() error {
	again, err := h.openEarlier()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	defer again.Free()
	if !sameKey(again, h.before) {
		return ErrReadBack
	}
	return nil
}

// rekey commits next, all of it with the records in one transaction, and holds it from then on.
// Otherwise its new key is wiped.
func (k *Keyring) rekey(ctx context.Context, r Records, now, next *keys) error {
	derive := func(out []byte, label seal.Label, context []byte) error {
		key := next.newest.Bytes()
		if key == nil { // asked too late: the rotation has failed
			return ErrLocked
		}
		seal.KDF(out, key, label, context)
		return nil
	}
	err := r.Rekey(ctx, next.table.version, derive, func(sealed, raw keystore.Tx) error { return replace(sealed, raw, now, next) })
	if err != nil {
		next.newest.Free()
		return err
	}
	return k.adopt(now, next)
}

// endRoots has the token destroy the roots that are no longer needed, and forgets their rows. It
// returns what the keyring then holds.
func (k *Keyring) endRoots(ctx context.Context, r Records, now *keys) (*keys, error) {
	if len(now.retired) == 0 {
		return now, nil
	}
	// What is destroyed cannot be had back, so first comes a commit of its own: an earlier one,
	// though it can be read, may be in the memory of the machine alone, and a power cut would bring
	// back slots whose root is gone.
	now, err := k.change(ctx, r, now, func(*keys) {})
	if err != nil {
		return nil, err
	}
	if err := k.readBack(ctx, now); err != nil {
		return nil, err
	}
	for _, old := range now.retired {
		err := k.token.Destroy(ctx, old.root.blob)
		if err != nil && !errors.Is(err, hsm.ErrBlob) { // a crash may have come between this and the end of its row
			return nil, &RowError{retiredName(old.slot), fmt.Errorf("destroy root: %w", err)}
		}
	}
	return k.change(ctx, r, now, func(next *keys) { next.retired = nil })
}

// Rotating reports whether Continue has something to do, as far as an unlocked keyring knows: a
// version before the newest is left, or a root that the token must still destroy.
func (k *Keyring) Rotating() bool {
	h := k.held()
	return h != nil && (h.before != nil || len(h.retired) > 0)
}

// Continue finishes a rotation, or takes back one that was cut off before it counted: it has the
// token destroy what is retired, re-wraps the records until none is left under the version before,
// and ends that version. With nothing to do it returns nil. Between any two calls of Rewrap others
// have their turn, and ctx may end it; the next call goes on. Errors are those of Rotate.
func (k *Keyring) Continue(ctx context.Context, r Records) error {
	leave, err := k.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	now, err := k.verified(ctx, r)
	if err != nil {
		return err
	}
	if now, err = k.endRoots(ctx, r, now); err != nil || now.before == nil {
		return err
	}
	if err := k.rewrap(ctx, r, now); err != nil {
		return err
	}
	next, err := k.next(now, func(next *keys) { next.before, next.earlier = nil, nil })
	if err != nil {
		return err
	}
	if err := r.Retire(ctx, func(sealed, raw keystore.Tx) error { return replace(sealed, raw, now, next) }); err != nil {
		return err
	}
	return k.adopt(now, next)
}

// rewrap calls Rewrap until nothing is left.
func (k *Keyring) rewrap(ctx context.Context, r Records, now *keys) error {
	for last := math.MaxInt; ; {
		left, err := r.Rewrap(ctx)
		switch {
		case err != nil:
			return err
		case left == 0:
			return nil
		case left >= last:
			return fmt.Errorf("domain: re-wrapping the records stays at %d left", left)
		}
		last = left
		if k.held() != now {
			return ErrLocked
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// next returns what the keyring holds after a change of the rows that edit makes, under the
// versions of now.
func (k *Keyring) next(now *keys, edit func(*keys)) (*keys, error) {
	next := *now
	edit(&next)
	return &next, k.with(now, next.authenticate)
}

// change makes a change of the rows and commits it. It returns what the keyring then holds.
func (k *Keyring) change(ctx context.Context, r Records, now *keys, edit func(*keys)) (*keys, error) {
	next, err := k.next(now, edit)
	if err != nil {
		return nil, err
	}
	if _, err := r.UpdateBoth(ctx, func(sealed, raw keystore.Tx) error { return replace(sealed, raw, now, next) }); err != nil {
		return nil, err
	}
	return next, k.adopt(now, next)
}

// replace puts the rows of next in the place of those of now, and the digest of its table among the
// records. It refuses when the store has another table than now's.
func replace(sealed, raw keystore.Tx, now, next *keys) error {
	row, err := raw.Get(tableName())
	switch {
	case err != nil:
		return &RowError{tableName(), err}
	case !bytes.Equal(row, now.row):
		return &RowError{tableName(), errTableChanged}
	}
	if err := now.compareDigest(sealed.Get(digestName())); err != nil {
		return err
	}
	before, after := now.rows(), next.rows()
	for name := range before {
		if _, stays := after[name]; !stays {
			err = errors.Join(err, raw.Delete(name))
		}
	}
	for name, row := range after {
		if !bytes.Equal(before[name], row) {
			err = errors.Join(err, raw.Put(name, row))
		}
	}
	return errors.Join(err, sealed.Put(digestName(), next.digestRow()))
}
