package domain_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
)

// hookedToken calls a function before each call of one kind.
type hookedToken struct {
	hsm.Provider
	kind string
	hook func()
}

func (t *hookedToken) on(kind string) {
	if kind == t.kind {
		t.hook()
	}
}

func (t *hookedToken) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	t.on("Generate")
	return t.Provider.Generate(ctx, spec)
}

func (t *hookedToken) Load(ctx context.Context, blob []byte) (hsm.Key, error) {
	t.on("Load")
	return t.Provider.Load(ctx, blob)
}

// hooked returns r as it runs with a token that calls hook.
func (r *rack) hooked(t *testing.T, kind string, hook func(*rack)) *rack {
	t.Helper()
	token := &hookedToken{Provider: r.token}
	again := unlockRack(t, r.store, token)
	token.kind, token.hook = kind, func() { hook(again) }
	return again
}

// hookedRecords are records whose methods a test replaces.
type hookedRecords struct {
	*sealed.Store
	rewrap func(ctx context.Context) (int, error)
	rekey  func(derive func([]byte, seal.Label, []byte) error) error
}

func (r *hookedRecords) Rewrap(ctx context.Context) (int, error) { return r.rewrap(ctx) }

func (r *hookedRecords) Rekey(ctx context.Context, version uint32, derive func([]byte, seal.Label, []byte) error, rows func(sealed, raw keystore.Tx) error) error {
	if r.rekey != nil {
		return r.rekey(derive)
	}
	return r.Store.Rekey(ctx, version, derive, rows)
}

// Of several calls of Rotate that wait for each other one begins a rotation.
func TestOnlyOneRotationBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan bool)
		r := newRack(t).hooked(t, "Generate", func(*rack) { <-gate })
		var errs [3]error
		done := make(chan bool)
		for i := range errs {
			go func() { errs[i] = r.Rotate(t.Context(), r.records); done <- true }()
		}
		synctest.Wait() // one is in the token, the others are behind it
		close(gate)
		for range errs {
			<-done
		}
		slices.SortFunc(errs[:], func(a, b error) int { return len(message(a)) - len(message(b)) })
		if errs[0] != nil || !errors.Is(errs[1], domain.ErrRotating) || !errors.Is(errs[2], domain.ErrRotating) {
			t.Errorf("Rotate returned %v", errs)
		}
	})
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// While Continue is busy, nobody waits for it who has nothing to wait for; and it stops when the keyring is locked.
func TestNobodyWaitsForContinue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t)
		r.rotate(t)
		gate, calls := make(chan bool), 0
		slow := &hookedRecords{Store: r.records, rewrap: func(ctx context.Context) (int, error) {
			calls++
			<-gate
			return r.records.Rewrap(ctx)
		}}
		finished := make(chan error)
		go func() { finished <- r.Continue(t.Context(), slow) }()
		synctest.Wait()
		if err := r.Rotate(t.Context(), slow); !errors.Is(err, domain.ErrRotating) {
			t.Errorf("Rotate returned %v", err)
		}
		if err := r.Unlock(t.Context()); err != nil {
			t.Errorf("Unlock of an unlocked keyring returned %v", err)
		}
		r.Lock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Unlock(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Unlock that could not wait returned %v", err)
		}
		close(gate)
		if err := <-finished; !errors.Is(err, domain.ErrLocked) || calls != 1 {
			t.Errorf("Continue returned %v after %d calls of Rewrap", err, calls)
		}
		if err := r.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.finish(t)
		r.readAll(t)
	})
}

func TestContinueEndsInTime(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	r.rotate(t)
	calls := 0
	stuck := &hookedRecords{Store: r.records, rewrap: func(context.Context) (int, error) { calls++; return 5, nil }}
	if err := r.Continue(t.Context(), stuck); err == nil || !strings.Contains(err.Error(), "5 left") || calls != 2 {
		t.Errorf("without progress: %v after %d calls", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls = 0
	deaf := &hookedRecords{Store: r.records, rewrap: func(context.Context) (int, error) { calls++; cancel(); return 100 - calls, nil }}
	if err := r.Continue(ctx, deaf); !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("cancelled: %v after %d calls", err, calls)
	}
	if got := r.Versions(); !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("versions %v", got)
	}
	r.finish(t)
}

// The keys of a version that did not come to be are gone, also for records that kept the way to them.
func TestAFailedVersionDerivesNothing(t *testing.T) {
	t.Parallel()
	r := newRack(t)
	broken := errors.New("no")
	var kept func([]byte, seal.Label, []byte) error
	failing := &hookedRecords{Store: r.records, rekey: func(derive func([]byte, seal.Label, []byte) error) error {
		kept = derive
		if err := derive(make([]byte, 32), seal.LabelState, nil); err != nil {
			t.Error(err)
		}
		return broken
	}}
	if err := r.Rotate(t.Context(), failing); !errors.Is(err, broken) {
		t.Errorf("Rotate returned %v", err)
	}
	out := make([]byte, 32)
	if err := kept(out, seal.LabelState, nil); !errors.Is(err, domain.ErrLocked) || !bytes.Equal(out, make([]byte, 32)) {
		t.Errorf("derived %x, %v", out, err)
	}
}

// What is written below a rotation while the token thinks is seen in the transaction that would build on it.
func TestChangesUnderARotation(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*rack){
		"the table": func(r *rack) { write(t, r.store, tableName, []byte("x")) },
		"the digest": func(r *rack) {
			row := digestRow(tableOfStore(t, r.store))
			row[30] ^= 1
			r.changeSealed(t, row)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loads := 0
			base := newRack(t)
			r := base.hooked(t, "Load", func(r *rack) {
				if loads++; loads == 2 { // the new slot is read back, the rotation not committed
					spoil(r)
				}
			})
			names(t, r.Rotate(t.Context(), r.records), tableName)
			if got := r.Versions(); !slices.Equal(got, []uint32{1}) {
				t.Errorf("versions %v", got)
			}
			if live := base.token.(*liveToken).blobs(); len(live) != 2 {
				t.Errorf("%d roots: one was destroyed on a store that cannot be trusted", len(live))
			}
		})
	}
}

// A bit that flips in memory, or between the token and us, is found before the old root is gone: the rotation can then be taken up again.
func TestFlippedBitsAreFoundInTime(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(*rack) []byte{
		"the newest version": func(r *rack) []byte { return r.Key() },
		"the version before": func(r *rack) []byte { return r.Before() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loads := 0
			base := newRack(t)
			r := base.hooked(t, "Load", func(r *rack) {
				if loads++; loads == 3 { // the rotation is committed and is read back
					key(r)[7] ^= 0x10
				}
			})
			if err := r.Rotate(t.Context(), r.records); !errors.Is(err, domain.ErrReadBack) {
				t.Errorf("Rotate returned %v", err)
			}
			if live := base.token.(*liveToken).blobs(); len(live) != 2 {
				t.Errorf("%d roots in the token", len(live))
			}
			again := base.reopen(t)
			again.finish(t)
			again.readAll(t)
		})
	}
}

// What a rotation reads back before it commits is compared, not only opened.
func TestReadBackCompares(t *testing.T) {
	t.Parallel()
	d, token := rotating(), &knownToken{root: knownRootKey}
	slot := keystore.Entry{Name: slotName(count(0x40, 16)), Value: d.slots[0]}
	if err := domain.CheckSlot(t.Context(), token, slot, knownDomainKey); err != nil {
		t.Error(err)
	}
	if err := domain.CheckSlot(t.Context(), token, slot, knownEarlierKey); !errors.Is(err, domain.ErrReadBack) {
		t.Errorf("a slot with another key: %v", err)
	}
	k := open(t, d.store(t), token)
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.CheckEarlier(); err != nil {
		t.Error(err)
	}
	k.Before()[31] ^= 1
	if err := k.CheckEarlier(); !errors.Is(err, domain.ErrReadBack) {
		t.Errorf("another version before: %v", err)
	}
}

// A Create that fails leaves no root in the token.
func TestCreateLeavesNoRoot(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]keystore.Store{
		"reads back": lossy{keystore.NewMemory(), keystore.SpaceSlot, 100},
		"writes":     crashStore{keystore.NewMemory(), &crasher{only: "Update", at: 1, once: true}},
	} {
		token := &liveToken{Provider: newToken(t), live: map[string]bool{}}
		if _, err := domain.Create(t.Context(), store, token, appliance); err == nil {
			t.Errorf("%s: Create went through", name)
		}
		if live := token.blobs(); len(live) != 0 {
			t.Errorf("%s: %d roots are left", name, len(live))
		}
	}
}

// A Create that comes second by a moment takes back what is its own, and nothing else.
func TestTheLoserOfTwoCreatesLeavesTheWinner(t *testing.T) {
	t.Parallel()
	store, base := keystore.NewMemory(), newToken(t)
	winners := &liveToken{Provider: base, live: map[string]bool{}}
	losers := &liveToken{Provider: base, live: map[string]bool{}}
	token := &hookedToken{Provider: losers, kind: "Generate", hook: func() {
		k, err := domain.Create(t.Context(), store, winners, appliance)
		if err != nil {
			t.Error(err)
			return
		}
		k.Lock()
	}}
	if _, err := domain.Create(t.Context(), store, token, appliance); !errors.Is(err, domain.ErrExists) {
		t.Errorf("the second Create returned %v", err)
	}
	if w, l := winners.blobs(), losers.blobs(); len(w) != 1 || len(l) != 0 {
		t.Errorf("%d roots of the winner, %d of the loser", len(w), len(l))
	}
	if err := open(t, store, base).Unlock(t.Context()); err != nil {
		t.Errorf("the winner's domain: %v", err)
	}
}

// Not parallel: the arena is shared. Rotations that fail, or that a Lock overtakes, leave no key behind in locked memory.
func TestFailedRotationsLeaveNoKeys(t *testing.T) {
	base := emptyRack(t)
	loads := 0
	failing := base.hooked(t, "Load", func(r *rack) {
		r.token.(*hookedToken).Provider = base.token
		if loads++; loads == 2 { // when the new slot is read back
			r.token.(*hookedToken).Provider = deadRoots{base.token}
		}
	})
	leakless(t, "failures", func() {
		loads = 0
		if err := failing.Rotate(t.Context(), failing.records); !errors.Is(err, domain.ErrReadBack) || failing.Rotating() {
			t.Fatalf("rotated, %v", err)
		}
	})
	store := &lockingStore{Store: base.store}
	r := unlockRack(t, store, base.token)
	store.lock = r.Lock
	leakless(t, "locks", func() {
		store.n, store.at = 0, 2 // the rotation's own commit
		if err := r.Rotate(t.Context(), r.records); !errors.Is(err, domain.ErrLocked) {
			t.Fatal(err)
		}
		store.at = 0
		if err := r.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.finish(t)
	})
}

// leakless runs f more often than a slab of the arena has room for one key of each run, after it has filled the slabs there are but for
// that room.
func leakless(t *testing.T, what string, f func()) {
	t.Helper()
	const keysOfASlab, room = 16 << 10 / 32, 80 // of internal/securemem; more than a rotation holds at once
	for range 3 {
		f()
	}
	take := func() {
		b, err := securemem.New(32)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Free)
	}
	for start := securemem.Status().InUse; securemem.Status().InUse == start; {
		take()
	}
	for range keysOfASlab - 1 - room {
		take()
	}
	before := securemem.Status().InUse
	for range room + 20 {
		f()
	}
	if after := securemem.Status().InUse; after > before {
		t.Errorf("%s: %d bytes of locked memory in use, %d before", what, after, before)
	}
}

// deadRoots is a token that no longer finds its keys for want of a device.
type deadRoots struct{ hsm.Provider }

func (deadRoots) Load(context.Context, []byte) (hsm.Key, error) { return nil, errCrash }
