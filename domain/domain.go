// Package domain is the keyring: it keeps the appliance's domain key, opens it through a root key
// inside the token, and derives from it the keys of everything that is sealed. Read Keyring, Create
// and Rotate first; FORMAT.md gives the stored rows byte by byte.
//
// The domain key is only ever a KDF key. It exists in clear only in locked memory and only while
// the keyring is unlocked. Its slots, the ways to it, are rows of the raw store, authenticated as
// one table under the domain key itself before that key serves anything else: who can write to the
// store but has no token can only make Unlock refuse.
//
// A rotation makes the next version of the domain key, moves everything over to it, and ends the root
// of the version before in the token: no copy of an old slot opens anywhere.
//
// The package does not notice that rows and records were all brought back from one older state whose
// root still lives, does not decide who may unlock, and seals nothing but the domain key.
package domain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/keystore"
)

var (
	// ErrLocked is returned while the domain key is not in memory, and by an Unlock that a Lock
	// overtook. It wraps keystore.ErrLocked.
	ErrLocked = fmt.Errorf("domain: locked: %w", keystore.ErrLocked)

	// ErrExists is returned by Create when the store already has a row of a domain.
	ErrExists = errors.New("domain: the store already belongs to an appliance")

	// ErrNotCreated is returned by Open when the store has no slot table.
	ErrNotCreated = errors.New("domain: the store belongs to no appliance yet")

	// ErrNoSlot is wrapped by Unlock when no slot is one of this token. A RowError with it tells
	// why for each slot.
	ErrNoSlot = errors.New("domain: no slot opens with this token")

	// ErrVersion is returned by Derive for a version of the domain key that the keyring does not
	// hold.
	ErrVersion = errors.New("domain: no such version of the domain key")

	// ErrRotating is returned by Rotate while a version before the newest is left: Continue ends
	// that.
	ErrRotating = errors.New("domain: a rotation of the domain key is under way")

	// ErrReadBack is wrapped by Create and Rotate when what the store or the token gives back is
	// not what was written.
	ErrReadBack = errors.New("domain: the stored slot does not give the domain key back")
)

// RowError says which row was refused. Err says why, without any of the row's content; it wraps
// keystore.ErrDamaged where the row is not what this appliance wrote there last.
type RowError struct {
	Row keystore.Name
	Err error
}

// Error returns the row's name and the reason.
func (e *RowError) Error() string { return fmt.Sprintf("domain: row %s: %v", e.Row, e.Err) }

// Unwrap returns the reason.
func (e *RowError) Unwrap() error { return e.Err }

// damage is a reason why a row is refused that is not what it should be.
type damage string

// Error returns the reason.
func (d damage) Error() string { return string(d) }

// Unwrap returns keystore.ErrDamaged, which the reason does not spell out.
func (damage) Unwrap() error { return keystore.ErrDamaged }

// State says whether the domain key is in memory.
type State uint8

// The states.
const (
	Locked State = iota
	Unlocked
)

// String returns the state's name.
func (s State) String() string {
	if s == Unlocked {
		return "unlocked"
	}
	return "locked"
}

// keySize is the length of the domain key, the KEK and the MAC key of the table in bytes.
const keySize = 32

// Keyring holds the domain key while it is unlocked. It is safe for concurrent use. It owns neither
// its store nor its token.
type Keyring struct {
	store     keystore.Store
	token     hsm.Provider
	appliance [16]byte

	// turn has room for one: who reads or changes the stored rows, across token and store. Unlock,
	// Bind, TokenKey, Rotate and Continue put something in, Lock does not.
	turn chan struct{}
	used ownKeys // the token keys that TokenKey gave out; guarded by turn

	// telling is held while the state changes and watchers are told, never across token or store:
	// Lock must not wait for them.
	telling  sync.Mutex
	watchers []func(State)
	locks    uint64 // calls of Lock; an Unlock that sees the count change gives way

	mu   sync.RWMutex // guards keys; readers derive under it, so that Lock cannot wipe a key in their hands
	keys *keys        // nil while locked; changed by Lock, and by the holder of turn
}

// Create makes the domain of a new appliance: a root key in the token, version 1 of the domain key
// at random, a slot and the table in the store, written in one transaction. Before it returns, the
// rows are read back and opened through the token, and the key that comes out is compared. The
// keyring is unlocked. It returns ErrExists and writes nothing where there is any row of a domain;
// ErrReadBack, or what store or token said, and then neither row nor root remains. Only a crash
// right after the token made the root leaves that root there; it opens nothing.
func Create(ctx context.Context, store keystore.Store, token hsm.Provider, applianceID [16]byte) (*Keyring, error) {
	if err := store.View(ctx, refuseExisting); err != nil {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	k := newKeyring(store, token, applianceID)
	k.keys = &keys{newest: key}
	if err := k.establish(ctx); err != nil {
		key.Free()
		return nil, err
	}
	return k, nil
}

// newKeyring returns a locked keyring.
func newKeyring(store keystore.Store, token hsm.Provider, applianceID [16]byte) *Keyring {
	return &Keyring{store: store, token: token, appliance: applianceID, turn: make(chan struct{}, 1)}
}

// refuseExisting returns ErrExists when r shows any row of a domain. A slot without a table counts:
// it may be all that is left of someone's keys.
func refuseExisting(r keystore.Reader) error {
	found, err := readStored(r)
	switch {
	case err != nil:
		return err
	case !found.empty():
		return ErrExists
	}
	return nil
}

// establish writes the first slot and table and proves that they open.
func (k *Keyring) establish(ctx context.Context) error {
	s, root, err := k.newSlot(ctx, 1)
	if err != nil {
		return err
	}
	defer root.Close()
	h := k.keys
	h.table, h.slots = table{appliance: k.appliance, version: 1}, []*slot{s}
	if err = s.wrap(ctx, root, h.newest.Bytes()); err == nil {
		err = h.authenticate()
	}
	if err == nil {
		_, err = k.store.Update(ctx, func(tx keystore.Tx) error { return putFirst(tx, &h.state) })
	}
	if err == nil {
		err = k.readBack(ctx, h)
	}
	if err != nil {
		// Whatever ended it, ctx included: what was not acknowledged must not stay, neither rows
		// nor root.
		return errors.Join(err, k.withdraw(context.WithoutCancel(ctx), &h.state))
	}
	return nil
}

// putFirst writes the rows of a new domain.
func putFirst(tx keystore.Tx, s *state) error {
	// Another process may have been faster since the first look. Reading the table makes the two
	// Updates conflict.
	switch _, err := tx.Get(tableName()); {
	case err == nil:
		return ErrExists
	case !errors.Is(err, keystore.ErrNotFound):
		return err
	}
	var err error
	for name, row := range s.rows() {
		err = errors.Join(err, tx.Put(name, row))
	}
	return err
}

// readBack opens the stored rows as Unlock does, with the root loaded anew, and compares: a bit
// that flipped on the way to the store, or in the token, must not make an appliance that dies at
// its next start.
func (k *Keyring) readBack(ctx context.Context, want *keys) error {
	again, err := k.read(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReadBack, err)
	}
	defer again.free(nil)
	return k.with(want, func() error {
		if !bytes.Equal(again.row, want.row) || !again.same(want) {
			return ErrReadBack
		}
		return nil
	})
}

// withdraw removes the rows of a domain that was not acknowledged, where they came to be written,
// then its root from the token. Nothing is sealed under that domain yet: whatever a store in doubt
// still holds of it, nothing is lost.
func (k *Keyring) withdraw(ctx context.Context, s *state) error {
	_, err := k.store.Update(ctx, func(tx keystore.Tx) error {
		row, err := tx.Get(tableName())
		if errors.Is(err, keystore.ErrNotFound) || err == nil && !bytes.Equal(row, s.row) {
			return nil // never written, or another's
		}
		for name := range s.rows() {
			err = errors.Join(err, tx.Delete(name))
		}
		return err
	})
	if err != nil {
		return err
	}
	return k.token.Destroy(ctx, s.slots[0].root.blob)
}

// Open returns the locked keyring of the appliance whose domain the store holds. It does not touch
// the token. It returns ErrNotCreated, a RowError for a table that is malformed, or what the store
// said.
func Open(ctx context.Context, store keystore.Store, token hsm.Provider) (*Keyring, error) {
	k := newKeyring(store, token, [16]byte{})
	err := store.View(ctx, func(r keystore.Reader) error {
		row, err := r.Get(tableName())
		if errors.Is(err, keystore.ErrNotFound) {
			return ErrNotCreated
		}
		if err != nil {
			return err
		}
		t, err := parseTable(row)
		k.appliance = t.appliance
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// ApplianceID returns the id given to Create. Before the first Unlock it is only what the store
// says; Unlock refuses another.
func (k *Keyring) ApplianceID() [16]byte { return k.appliance }

// Unlock opens the domain key through the token; FORMAT.md gives the steps. An unlocked keyring
// stays as it is. Otherwise, when it returns nil, Derive works and every watcher was told. It
// returns a RowError for a row that is damaged or not authentic, an error that wraps ErrNoSlot when
// the store has no slot of this token, ErrLocked when Lock was called meanwhile, or what store or
// token said.
func (k *Keyring) Unlock(ctx context.Context) error {
	if k.State() == Unlocked { // not behind a Continue that may take its time
		return nil
	}
	leave, err := k.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	before := k.lockCount() // before the state: a Lock in between must count
	if k.State() == Unlocked {
		return nil
	}
	h, err := k.read(ctx)
	if err != nil {
		return err
	}
	k.telling.Lock()
	defer k.telling.Unlock()
	if k.locks != before {
		h.free(nil)
		return ErrLocked
	}
	k.set(h)
	k.tell(Unlocked)
	return nil
}

// enter waits for the turn to read or change the stored rows. The caller calls leave at the end.
func (k *Keyring) enter(ctx context.Context) (leave func(), err error) {
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lockCount returns how often Lock was called.
func (k *Keyring) lockCount() uint64 {
	k.telling.Lock()
	defer k.telling.Unlock()
	return k.locks
}

// Lock wipes the domain key, after derivations under way, and tells every watcher. It waits for
// neither token nor store; an Unlock under way fails. What others derived before is theirs to wipe.
func (k *Keyring) Lock() {
	k.telling.Lock()
	defer k.telling.Unlock()
	k.locks++
	if k.State() == Unlocked {
		k.set(nil)
		k.tell(Locked)
	}
}

// set puts h, or nil, in the place of the present keys, which it wipes.
func (k *Keyring) set(h *keys) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys.free(h)
	k.keys = h
}

// adopt puts next in the place of now after a change of the stored rows, and wipes what next no
// longer holds. It returns ErrLocked when a Lock came before it.
func (k *Keyring) adopt(now, next *keys) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys != now {
		next.free(nil)
		return ErrLocked
	}
	now.free(next)
	k.keys = next
	return nil
}

// held returns what the keyring holds, nil while it is locked. Its buffers may be wiped at any
// time: with keeps them.
func (k *Keyring) held() *keys {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys
}

// with runs f, which is quick, while the keyring holds h and no Lock can wipe it. It returns
// ErrLocked when that is over.
func (k *Keyring) with(h *keys, f func() error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys != h {
		return ErrLocked
	}
	return f()
}

// tell runs the watchers. The caller holds telling, which keeps two changes from being told in two
// orders.
func (k *Keyring) tell(s State) {
	for _, f := range k.watchers {
		f(s)
	}
}

// State returns whether the keyring is unlocked.
func (k *Keyring) State() State {
	if k.held() == nil {
		return Locked
	}
	return Unlocked
}

// Versions returns the versions of the domain key that Derive takes, ascending, the newest last:
// one, or two while a rotation is under way, or none while the keyring is locked. The slice is the
// caller's.
func (k *Keyring) Versions() []uint32 {
	if h := k.held(); h != nil {
		return h.versions()
	}
	return nil
}

// Derive fills out with KDF(that version of the domain key, label, context); give locked memory. It
// returns ErrLocked while the keyring is locked and an error that wraps ErrVersion for a version
// that is not one of Versions, and then leaves out alone. Labels l1 and d1 are the keyring's own.
func (k *Keyring) Derive(out []byte, version uint32, label seal.Label, context []byte) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys == nil {
		return ErrLocked
	}
	key := k.keys.key(version)
	if key == nil {
		return fmt.Errorf("%w: %d", ErrVersion, version)
	}
	seal.KDF(out, key.Bytes(), label, context)
	return nil
}

// OnChange calls f with the present state, and then after every change, in the order of changes,
// with Derive already as the state says. Watchers run one after the other in the order in which
// they came, on the goroutine that changes the state, and hold up its return: f is quick and calls
// neither Unlock, Lock nor OnChange. There is no way to stop it.
func (k *Keyring) OnChange(f func(State)) {
	k.telling.Lock()
	defer k.telling.Unlock()
	k.watchers = append(k.watchers, f)
	f(k.State())
}
