package domain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/soft"
	"github.com/keyrack/keyrack/internal/seal"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
)

var appliance = [16]byte([]byte("appliance-id-16b"))

func newToken(t *testing.T) *soft.Token {
	t.Helper()
	token, err := soft.Memory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { token.Close() })
	return token
}

// create returns an unlocked keyring with its store and token.
func create(t *testing.T) (*domain.Keyring, keystore.Store, *soft.Token) {
	t.Helper()
	store, token := keystore.NewMemory(), newToken(t)
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Lock)
	return k, store, token
}

func open(t *testing.T, store keystore.Store, token hsm.Provider) *domain.Keyring {
	t.Helper()
	k, err := domain.Open(t.Context(), store, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Lock)
	return k
}

func derive(t *testing.T, k *domain.Keyring) [32]byte {
	t.Helper()
	var out [32]byte
	if err := k.Derive(out[:], 1, seal.LabelState, []byte("context")); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCreateThenUnlockElsewhere(t *testing.T) {
	t.Parallel()
	k, store, token := create(t)
	want := derive(t, k)
	again := open(t, store, token)
	if again.State() != domain.Locked || k.State() != domain.Unlocked {
		t.Errorf("states %v and %v", again.State(), k.State())
	}
	for range 2 { // the second changes nothing
		if err := again.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := derive(t, again); got != want {
		t.Error("another domain key came out")
	}
	if k.ApplianceID() != appliance || again.ApplianceID() != appliance {
		t.Errorf("appliance ids %x and %x", k.ApplianceID(), again.ApplianceID())
	}
}

func TestDeriveSeparates(t *testing.T) {
	t.Parallel()
	k, _, _ := create(t)
	other, _, _ := create(t)
	seen := map[[32]byte]string{}
	for name, d := range map[string]struct {
		k       *domain.Keyring
		label   seal.Label
		context string
	}{
		"one":             {k, seal.LabelState, "a"},
		"another label":   {k, seal.LabelName, "a"},
		"another context": {k, seal.LabelState, "b"},
		"another domain":  {other, seal.LabelState, "a"},
	} {
		var out [32]byte
		if err := d.k.Derive(out[:], 1, d.label, []byte(d.context)); err != nil {
			t.Fatal(err)
		}
		if same, ok := seen[out]; ok {
			t.Errorf("%s and %s are one key", name, same)
		}
		seen[out] = name
	}
}

func TestDeriveRefusesOtherVersions(t *testing.T) {
	t.Parallel()
	k, _, _ := create(t)
	for _, v := range []uint32{0, 2, 1<<32 - 1} {
		out := bytes.Repeat([]byte{0xee}, 32)
		if err := k.Derive(out, v, seal.LabelState, nil); !errors.Is(err, domain.ErrVersion) || !bytes.Equal(out, bytes.Repeat([]byte{0xee}, 32)) {
			t.Errorf("version %d: derived %x, %v", v, out, err)
		}
	}
}

func TestLockedDerivesNothing(t *testing.T) {
	t.Parallel()
	k, store, token := create(t)
	k.Lock()
	k.Lock()
	for _, k := range []*domain.Keyring{k, open(t, store, token)} {
		out := bytes.Repeat([]byte{0xee}, 32)
		if err := k.Derive(out, 1, seal.LabelState, nil); !errors.Is(err, domain.ErrLocked) || !bytes.Equal(out, bytes.Repeat([]byte{0xee}, 32)) {
			t.Errorf("a locked keyring derived %x, %v", out, err)
		}
		if k.State() != domain.Locked || k.Versions() != nil {
			t.Errorf("state %v, versions %v", k.State(), k.Versions())
		}
	}
	if err := k.Unlock(t.Context()); err != nil || k.State() != domain.Unlocked || !slices.Equal(k.Versions(), []uint32{1}) {
		t.Errorf("unlocking again: %v, %v", err, k.State())
	}
}

// Not parallel: the page of the freed key must still be mapped when it is looked at.
func TestLockWipes(t *testing.T) {
	k, _, _ := create(t)
	neighbour, err := securemem.New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer neighbour.Free()
	key := k.Key()
	if bytes.Equal(key, make([]byte, 32)) {
		t.Fatal("the domain key is zero")
	}
	k.Lock()
	if !bytes.Equal(key, make([]byte, 32)) {
		t.Error("the domain key is still in memory")
	}
}

func TestCreateRefusesAStoreInUse(t *testing.T) {
	t.Parallel()
	k, store, token := create(t)
	want, before := derive(t, k), dump(t, store)
	if _, err := domain.Create(t.Context(), store, token, appliance); !errors.Is(err, domain.ErrExists) {
		t.Errorf("a second Create returned %v", err)
	}
	if after := dump(t, store); !equal(before, after) {
		t.Error("the second Create wrote")
	}
	again := open(t, store, token)
	if err := again.Unlock(t.Context()); err != nil || derive(t, again) != want {
		t.Errorf("the first domain is gone: %v", err)
	}
	orphan := keystore.NewMemory()
	write(t, orphan, before[0].Name, before[0].Value)
	if _, err := domain.Create(t.Context(), orphan, token, appliance); !errors.Is(err, domain.ErrExists) {
		t.Errorf("Create beside a slot without table returned %v", err)
	}
}

func equal(a, b []keystore.Entry) bool {
	return slices.EqualFunc(a, b, func(a, b keystore.Entry) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) })
}

func TestOneOfTwoCreatesWins(t *testing.T) {
	t.Parallel()
	store, token := keystore.NewMemory(), newToken(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []*domain.Keyring
	for range 4 {
		wg.Go(func() {
			k, err := domain.Create(t.Context(), store, token, appliance)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, k)
			case !errors.Is(err, domain.ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d Creates won", len(won))
	}
	k := open(t, store, token)
	if err := k.Unlock(t.Context()); err != nil || derive(t, k) != derive(t, won[0]) {
		t.Errorf("the store holds another domain than the winner's: %v", err)
	}
}

func TestOpenAnEmptyStore(t *testing.T) {
	t.Parallel()
	if _, err := domain.Open(t.Context(), keystore.NewMemory(), newToken(t)); !errors.Is(err, domain.ErrNotCreated) {
		t.Errorf("got %v", err)
	}
}

// Every byte of both rows, changed in every bit position once: refused, and the row is named.
func TestEveryStoredByteIsAuthenticated(t *testing.T) {
	t.Parallel()
	_, store, token := create(t)
	for _, row := range dump(t, store) {
		for i := range row.Value {
			bad := bytes.Clone(row.Value)
			bad[i] ^= 1 << (i % 8)
			write(t, store, row.Name, bad)
			k, err := domain.Open(t.Context(), store, token)
			if err == nil {
				err = k.Unlock(t.Context())
			}
			names(t, err, row.Name)
			if k != nil && k.State() != domain.Locked {
				t.Fatalf("row %s byte %d: unlocked", row.Name, i)
			}
		}
		write(t, store, row.Name, row.Value)
	}
	if err := open(t, store, token).Unlock(t.Context()); err != nil {
		t.Errorf("the rows as they were: %v", err)
	}
}

// Slots and tables of two appliances that share a token: every mixture is refused.
func TestMixturesOfTwoAppliances(t *testing.T) {
	t.Parallel()
	_, store, token := create(t)
	other := keystore.NewMemory()
	if _, err := domain.Create(t.Context(), other, token, appliance); err != nil {
		t.Fatal(err)
	}
	mine, theirs := dump(t, store), dump(t, other)
	for name, c := range map[string]struct {
		slot, table keystore.Entry
		refused     keystore.Name
	}{
		"their slot, my table":                {theirs[0], mine[1], tableName},
		"my slot, their table":                {mine[0], theirs[1], tableName},
		"their slot under my name, my table":  {keystore.Entry{Name: mine[0].Name, Value: theirs[0].Value}, mine[1], mine[0].Name},
		"my slot under their name, my table":  {keystore.Entry{Name: theirs[0].Name, Value: mine[0].Value}, mine[1], theirs[0].Name},
		"their slot as table, my slot":        {mine[0], keystore.Entry{Name: tableName, Value: theirs[0].Value}, tableName},
		"my table as slot, and my real table": {keystore.Entry{Name: mine[0].Name, Value: mine[1].Value}, mine[1], mine[0].Name},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mixed := keystore.NewMemory()
			write(t, mixed, c.slot.Name, c.slot.Value)
			write(t, mixed, c.table.Name, c.table.Value)
			k, err := domain.Open(t.Context(), mixed, token)
			if err == nil {
				err = k.Unlock(t.Context())
			}
			names(t, err, c.refused)
		})
	}
}

func TestTheTableMayNotChangeItsAppliance(t *testing.T) {
	t.Parallel()
	elsewhere := count(0xc0, 16)
	mine := slotRow(count(0x40, 16), "soft", "root", knownDomainKey)
	store := put(t, tableRow(knownDomainKey, elsewhere, mine), mine)
	k := open(t, store, &knownToken{root: knownRootKey})
	write(t, store, tableName, tableRow(knownDomainKey, knownAppliance, mine))
	names(t, k.Unlock(t.Context()), tableName)
}

func TestAnotherTokenIsNoWayIn(t *testing.T) {
	t.Parallel()
	_, store, _ := create(t)
	slot := dump(t, store)[0].Name
	err := open(t, store, newToken(t)).Unlock(t.Context())
	names(t, err, slot)
	if !errors.Is(err, domain.ErrNoSlot) || !errors.Is(err, hsm.ErrBlob) {
		t.Errorf("another soft token: %v", err)
	}
	err = open(t, store, otherKind{newToken(t)}).Unlock(t.Context())
	names(t, err, slot)
	if !errors.Is(err, domain.ErrNoSlot) {
		t.Errorf("a token of another kind: %v", err)
	}
	row := slotRow(count(0x40, 16), "soft", "root", knownDomainKey)
	forged := put(t, tableRow(knownDomainKey, knownAppliance, row), row)
	err = open(t, forged, &knownToken{root: count(1, 32)}).Unlock(t.Context())
	names(t, err, slotName(count(0x40, 16)))
}

type otherKind struct{ hsm.Provider }

func (otherKind) Describe() hsm.Description { return hsm.Description{Kind: "tpm2"} }

// A slot whose blob names a signing key must not be asked, whatever the store says.
func TestTheRootMustBeAPRF(t *testing.T) {
	t.Parallel()
	token := newToken(t)
	_, blob, err := token.Generate(t.Context(), hsm.SignP256)
	if err != nil {
		t.Fatal(err)
	}
	row := slotRow(count(0x40, 16), "soft", string(blob), knownDomainKey)
	err = open(t, put(t, tableRow(knownDomainKey, knownAppliance, row), row), token).Unlock(t.Context())
	names(t, err, slotName(count(0x40, 16)))
}

func TestTokenFaults(t *testing.T) {
	t.Parallel()
	broken := errors.New("device lost")
	for name, spoil := range map[string]func(*knownToken){
		"fails":          func(t *knownToken) { t.before = func() error { return broken } },
		"short answer":   func(t *knownToken) { t.after = func(b []byte) []byte { return b[:31] } },
		"long answer":    func(t *knownToken) { t.after = func(b []byte) []byte { return append(b, 0) } },
		"no answer":      func(t *knownToken) { t.after = func([]byte) []byte { return nil } },
		"another answer": func(t *knownToken) { n := byte(0); t.after = func(b []byte) []byte { n++; b[0] ^= n; return b } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, store := &knownToken{root: knownRootKey}, keystore.NewMemory()
			spoil(token)
			k, err := domain.Create(t.Context(), store, token, appliance)
			if err == nil || k != nil {
				t.Errorf("Create returned %v, %v", k, err)
			}
			if rows := dump(t, store); len(rows) != 0 {
				t.Errorf("%d rows remain", len(rows))
			}
			if name == "fails" && !errors.Is(err, broken) {
				t.Errorf("the token's error is lost: %v", err)
			}
		})
	}
}

// An answer in other memory than the one given is as good.
func TestATokenNeedNotAppendInPlace(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	token := &knownToken{root: knownRootKey, after: bytes.Clone}
	k, err := domain.Create(t.Context(), store, token, appliance)
	if err != nil {
		t.Fatal(err)
	}
	token.after = nil
	again := open(t, store, token)
	if err := again.Unlock(t.Context()); err != nil || derive(t, k) != derive(t, again) {
		t.Errorf("Unlock: %v", err)
	}
}

// lossy is a store that shows one byte of its rows changed.
type lossy struct {
	keystore.Store
	space keystore.Space
	at    int
}

func (s lossy) View(ctx context.Context, f func(keystore.Reader) error) error {
	return s.Store.View(ctx, func(r keystore.Reader) error { return f(lossyReader{r, s}) })
}

type lossyReader struct {
	keystore.Reader
	store lossy
}

func (r lossyReader) spoil(n keystore.Name, b []byte) []byte {
	b = bytes.Clone(b)
	if n.Space() == r.store.space && len(b) > 0 {
		b[r.store.at%len(b)] ^= 1
	}
	return b
}

func (r lossyReader) Get(n keystore.Name) ([]byte, error) {
	b, err := r.Reader.Get(n)
	return r.spoil(n, b), err
}

func (r lossyReader) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	return func(yield func(keystore.Entry, error) bool) {
		for e, err := range r.Reader.Scan(lo, hi) {
			e.Value = r.spoil(e.Name, e.Value)
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestCreateReadsBack(t *testing.T) {
	t.Parallel()
	for _, space := range []keystore.Space{keystore.SpaceSlot, keystore.SpaceSlotTable} {
		for at := 0; at < 300; at += 17 {
			store := keystore.NewMemory()
			k, err := domain.Create(t.Context(), lossy{store, space, at}, newToken(t), appliance)
			if !errors.Is(err, domain.ErrReadBack) || k != nil {
				t.Fatalf("%v byte %d: Create returned %v", space, at, err)
			}
			if rows := dump(t, store); len(rows) != 0 {
				t.Errorf("%v byte %d: %d rows remain", space, at, len(rows))
			}
		}
	}
}

func TestOnChangeTellsInOrder(t *testing.T) {
	t.Parallel()
	k, store, _ := create(t)
	k.Lock()
	var told []string
	watch := func(name string) func(domain.State) {
		return func(s domain.State) {
			err := k.Derive(make([]byte, 32), 1, seal.LabelState, nil)
			if (s == domain.Unlocked) != (err == nil) || k.State() != s {
				t.Errorf("told %v while Derive returns %v", s, err)
			}
			told = append(told, fmt.Sprint(name, " ", s))
		}
	}
	k.OnChange(watch("a"))
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.OnChange(watch("b"))
	if err := k.Unlock(t.Context()); err != nil { // no change
		t.Fatal(err)
	}
	k.Lock()
	k.Lock() // no change
	spoiled := dump(t, store)[0]
	write(t, store, spoiled.Name, []byte("damaged"))
	if err := k.Unlock(t.Context()); err == nil { // no change
		t.Error("unlocked with a damaged slot")
	}
	write(t, store, spoiled.Name, spoiled.Value)
	if err := k.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"a locked", "a unlocked", "b unlocked", "a locked", "b locked", "a unlocked", "b unlocked"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// A Lock that comes while the token is still thinking wins, and does not wait for it.
func TestLockOvertakesUnlock(t *testing.T) {
	t.Parallel()
	row := slotRow(count(0x40, 16), "soft", "root", knownDomainKey)
	asked, answer := make(chan bool), make(chan bool)
	token := &knownToken{root: knownRootKey, before: func() error { asked <- true; <-answer; return nil }}
	k := open(t, put(t, tableRow(knownDomainKey, knownAppliance, row), row), token)
	var told []domain.State
	k.OnChange(func(s domain.State) { told = append(told, s) })
	unlocked := make(chan error)
	go func() { unlocked <- k.Unlock(t.Context()) }()
	<-asked
	k.Lock()
	close(answer)
	if err := <-unlocked; !errors.Is(err, domain.ErrLocked) || k.State() != domain.Locked {
		t.Errorf("Unlock returned %v, the keyring is %v", err, k.State())
	}
	if !slices.Equal(told, []domain.State{domain.Locked}) {
		t.Errorf("told %v", told)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	k, _, _ := create(t)
	want := derive(t, k)
	stop := make(chan bool)
	var derivers, wg sync.WaitGroup
	for range 4 {
		derivers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var out [32]byte
				switch err := k.Derive(out[:], 1, seal.LabelState, []byte("context")); {
				case err == nil && out != want:
					t.Error("derived from a wiped key")
				case err != nil && (!errors.Is(err, domain.ErrLocked) || out != [32]byte{}):
					t.Errorf("%v, %x", err, out)
				}
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for range 30 {
				if err := k.Unlock(t.Context()); err != nil && !errors.Is(err, domain.ErrLocked) {
					t.Error(err)
				}
				k.Lock()
			}
		})
	}
	wg.Wait()
	close(stop)
	derivers.Wait()
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	_, store, token := create(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := domain.Open(ctx, store, token); !errors.Is(err, context.Canceled) {
		t.Errorf("Open returned %v", err)
	}
	k := open(t, store, token)
	if err := k.Unlock(ctx); !errors.Is(err, context.Canceled) || k.State() != domain.Locked {
		t.Errorf("Unlock returned %v", err)
	}
	if _, err := domain.Create(ctx, keystore.NewMemory(), token, appliance); !errors.Is(err, context.Canceled) {
		t.Errorf("Create returned %v", err)
	}
}
