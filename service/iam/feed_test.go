package iam_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/securemem"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/service/iam"
)

var (
	realm  = api.Realm{Partition: "aws", Region: "rack-1"}
	tenant = api.AccountID([]byte("000000000042"))
)

func key(n byte) identity.KeyHash { return identity.KeyHash{n} }

// node is a service over a store that others may write to.
type node struct {
	*iam.Service
	people *identity.Directory
	stop   context.CancelFunc
}

// open starts a service for the length of a test.
func open(tb testing.TB, store keystore.Store, fixed ...*identity.Principal) (*node, error) {
	tb.Helper()
	ctx, stop := context.WithCancel(tb.Context())
	tb.Cleanup(stop)
	n := &node{people: new(identity.Directory), stop: stop}
	var err error
	n.Service, err = iam.New(ctx, iam.Config{
		Store: store, Realm: realm, Directory: n.people, Fixed: fixed, Logger: slog.New(slog.DiscardHandler),
	})
	return n, err
}

func mustOpen(tb testing.TB, store keystore.Store, fixed ...*identity.Principal) *node {
	tb.Helper()
	n, err := open(tb, store, fixed...)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// lets reports whether the door lets a key in.
func (n *node) lets(h identity.KeyHash) bool {
	handle := n.people.Handle(h, time.Time{})
	p := handle.Principal(time.Time{})
	return p != nil && p.Credential == h && p.Type == identity.Root && p.ARN == realm.RootARN(p.Account)
}

func (n *node) expect(tb testing.TB, when string, want map[byte]bool) {
	tb.Helper()
	for k, in := range want {
		if got := n.lets(key(k)); got != in {
			tb.Errorf("%s: key %d is let in: %t, want %t", when, k, got, in)
		}
	}
}

func write(tb testing.TB, store keystore.Store, name string, k byte) {
	tb.Helper()
	if err := iam.Write(tb.Context(), store, tenant, name, key(k), 1); err != nil {
		tb.Fatal(err)
	}
}

func erase(tb testing.TB, store keystore.Store, name string, k byte) {
	tb.Helper()
	if err := iam.Erase(tb.Context(), store, tenant, name, key(k)); err != nil {
		tb.Fatal(err)
	}
}

// put writes one row, of whatever.
func put(tb testing.TB, store keystore.Store, n keystore.Name, value string) {
	tb.Helper()
	_, err := store.Update(tb.Context(), func(tx keystore.Tx) error { return tx.Put(n, []byte(value)) })
	if err != nil {
		tb.Fatal(err)
	}
}

// TestChangesOfOthers acts on what another node of the appliance writes.
func TestChangesOfOthers(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	write(t, store, "before", 1)
	n := mustOpen(t, store, &identity.Principal{ARN: realm.RootARN(tenant), Type: identity.Root, Account: tenant, Credential: key(9)})
	n.expect(t, "at the start", map[byte]bool{1: true, 2: false, 9: true})
	write(t, store, "later", 2)
	n.expect(t, "after an addition", map[byte]bool{1: true, 2: true, 9: true})
	erase(t, store, "before", 1)
	n.expect(t, "after a removal", map[byte]bool{1: false, 2: true, 9: true})
	write(t, store, "before", 3)
	n.expect(t, "after the name has another key", map[byte]bool{1: false, 2: true, 3: true, 9: true})
	n.stop()
	n.Wait()
	n.expect(t, "after the end", map[byte]bool{1: false, 2: false, 3: false, 9: false})
}

// paused is a store whose first View waits, when it has read, until release is closed.
type paused struct {
	keystore.Store
	once             sync.Once
	waiting, release chan struct{}
}

func newPaused(store keystore.Store) *paused {
	return &paused{Store: store, waiting: make(chan struct{}), release: make(chan struct{})}
}

func (p *paused) View(ctx context.Context, f func(keystore.Reader) error) error {
	err := p.Store.View(ctx, f)
	p.once.Do(func() {
		close(p.waiting)
		<-p.release
	})
	return err
}

// TestChangeDuringLoad holds the load up when it has read: what was removed
// meanwhile must not come back, what was added must be there.
func TestChangeDuringLoad(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]int{"few": 0, "more than the store remembers": 2000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := keystore.NewMemory()
			write(t, store, "removed", 1)
			write(t, store, "stays", 2)
			p := newPaused(store)
			var n *node
			var err error
			done := make(chan struct{})
			go func() {
				defer close(done)
				n, err = open(t, p)
			}()
			<-p.waiting
			erase(t, store, "removed", 1)
			write(t, store, "added", 3)
			for i := range changes {
				put(t, store, keystore.MakeName(keystore.SpaceKey, fmt.Sprint(i)), "")
			}
			close(p.release)
			if <-done; err != nil {
				t.Fatal(err)
			}
			n.expect(t, "after the load", map[byte]bool{1: false, 2: true, 3: true})
			erase(t, store, "stays", 2)
			n.expect(t, "after a later change", map[byte]bool{2: false, 3: true})
		})
	}
}

// TestRowsThatCannotBeRead keep their client out and nobody else, at the start and later.
func TestRowsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	client := func(k byte) keystore.Name {
		h := key(k)
		return keystore.MakeName(keystore.SpaceClient, string(h[:]))
	}
	principal := func(name string) keystore.Name {
		return keystore.MakeName(keystore.SpacePrincipal, tenant.String(), name)
	}
	for name, spoil := range map[string]func(t *testing.T, store keystore.Store){
		"client's row":    func(t *testing.T, store keystore.Store) { put(t, store, client(1), "no row") },
		"principal's row": func(t *testing.T, store keystore.Store) { put(t, store, principal("one"), "no row") },
		"client of a later version": func(t *testing.T, store keystore.Store) {
			put(t, store, client(1), "\xa3\x00\x02\x01\x6c000000000042\x02\x63one")
		},
		"client of another principal": func(t *testing.T, store keystore.Store) {
			put(t, store, client(1), "\xa3\x00\x01\x01\x6c000000000042\x02\x63two")
		},
		"principal with another key": func(t *testing.T, store keystore.Store) {
			put(t, store, principal("one"), "\xa4\x00\x01\x01\x01\x02\x01\x03\x58\x20"+"\x07"+strings.Repeat("\x00", 31))
		},
		"principal of a later version": func(t *testing.T, store keystore.Store) {
			put(t, store, principal("one"), "\xa4\x00\x02\x01\x01\x02\x01\x03\x58\x20\x01"+strings.Repeat("\x00", 31))
		},
		"principal of another type": func(t *testing.T, store keystore.Store) {
			put(t, store, principal("one"), "\xa4\x00\x01\x01\x02\x02\x01\x03\x58\x20\x01"+strings.Repeat("\x00", 31))
		},
		"principal's row missing": func(t *testing.T, store keystore.Store) { drop(t, store, principal("one")) },
		"client's row missing":    func(t *testing.T, store keystore.Store) { drop(t, store, client(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := keystore.NewMemory()
			write(t, store, "one", 1)
			write(t, store, "two", 2)
			n := mustOpen(t, store)
			problems(t, n, 0)
			spoil(t, store)
			n.expect(t, "while it runs", map[byte]bool{1: false, 2: true, 7: false})
			problems(t, n, 1)
			n = mustOpen(t, store)
			n.expect(t, "at the start", map[byte]bool{1: false, 2: true, 7: false})
			problems(t, n, 1)
			if len(n.Warnings()) == 0 {
				t.Error("nobody is warned")
			}
		})
	}
}

func drop(tb testing.TB, store keystore.Store, n keystore.Name) {
	tb.Helper()
	if _, err := store.Update(tb.Context(), func(tx keystore.Tx) error { return tx.Delete(n) }); err != nil {
		tb.Fatal(err)
	}
}

// problems runs a check, which must find at least so many problems, and none where there are none.
func problems(tb testing.TB, n *node, atLeast int) {
	tb.Helper()
	done, total := 0, 0
	found, err := n.Check(tb.Context(), func(d, t int) { done, total = d, t })
	if err != nil || len(found) < atLeast || atLeast == 0 && len(found) > 0 || done != total || done == 0 {
		tb.Errorf("check: %q, %v, %d of %d; want %d problems", found, err, done, total, atLeast)
	}
}

// TestCheckMissesNoRow takes rows away, or adds some that belong to nobody.
func TestCheckMissesNoRow(t *testing.T) {
	t.Parallel()
	one := key(1)
	principal := keystore.MakeName(keystore.SpacePrincipal, tenant.String(), "one")
	client := keystore.MakeName(keystore.SpaceClient, string(one[:]))
	owner := keystore.MakeName(keystore.SpaceNameOwner, "one")
	for name, c := range map[string]struct {
		spoil func(t *testing.T, store keystore.Store)
		want  []string
	}{
		"no principal": {func(t *testing.T, store keystore.Store) { drop(t, store, principal) }, []string{client.String() + ": no principal", owner.String() + ": there is no"}},
		"no client":    {func(t *testing.T, store keystore.Store) { drop(t, store, client) }, []string{principal.String() + ": its other rows"}},
		"no owner":     {func(t *testing.T, store keystore.Store) { drop(t, store, owner) }, []string{principal.String() + ": its other rows"}},
		"a client more": {func(t *testing.T, store keystore.Store) {
			put(t, store, keystore.MakeName(keystore.SpaceClient, strings.Repeat("k", 32)), "\xa3\x00\x01\x01\x6c000000000042\x02\x63one")
		}, []string{"client/" + strings.Repeat("k", 32) + ": no principal"}},
		"an owner more": {func(t *testing.T, store keystore.Store) {
			put(t, store, keystore.MakeName(keystore.SpaceNameOwner, "two"), "\xa2\x00\x01\x01\x6c000000000042")
		}, []string{"name-owner/two: there is no"}},
		"another owner": {func(t *testing.T, store keystore.Store) {
			put(t, store, owner, "\xa2\x00\x01\x01\x6c000000000043")
		}, []string{principal.String() + ": its other rows", owner.String() + ": there is no"}},
		"no name": {func(t *testing.T, store keystore.Store) {
			put(t, store, keystore.MakeName(keystore.SpaceNameOwner), "\xa2\x00\x01\x01\x6c000000000042")
			put(t, store, keystore.MakeName(keystore.SpaceClient), "")
			put(t, store, keystore.MakeName(keystore.SpacePrincipal), "")
		}, []string{"client: ", "name-owner: ", "principal: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := keystore.NewMemory()
			write(t, store, "one", 1)
			c.spoil(t, store)
			found, err := mustOpen(t, store).Check(t.Context(), func(int, int) {})
			if err != nil || !slices.EqualFunc(slices.Sorted(slices.Values(found)), slices.Sorted(slices.Values(c.want)), strings.HasPrefix) {
				t.Errorf("found %q, %v, want %q", found, err, c.want)
			}
		})
	}
}

// cracked is a store whose scans of a space meet a damaged row behind the first,
// or another error.
type cracked struct {
	keystore.Store
	space keystore.Space
	err   error
}

func (c *cracked) View(ctx context.Context, f func(keystore.Reader) error) error {
	return c.Store.View(ctx, func(r keystore.Reader) error { return f(&crackedReader{r, c}) })
}

type crackedReader struct {
	keystore.Reader
	of *cracked
}

func (r *crackedReader) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	return func(yield func(keystore.Entry, error) bool) {
		for e, err := range r.Reader.Scan(lo, hi) {
			if !yield(e, err) {
				return
			}
			if e.Name.Space() == r.of.space {
				yield(keystore.Entry{}, r.of.err)
				return
			}
		}
	}
}

// TestDamagedListing: a row that the store refuses ends a Scan. Whoever stands
// behind it is kept out, and the rest is let in. What is no damage ends the start.
func TestDamagedListing(t *testing.T) {
	t.Parallel()
	for _, space := range []keystore.Space{keystore.SpaceClient, keystore.SpacePrincipal} {
		store := keystore.NewMemory()
		write(t, store, "a", 1)
		write(t, store, "b", 2)
		n := mustOpen(t, &cracked{store, space, fmt.Errorf("row: %w", keystore.ErrDamaged)})
		n.expect(t, space.String(), map[byte]bool{1: true, 2: false})
		if len(n.Warnings()) != 1 {
			t.Errorf("%s: warnings %q", space, n.Warnings())
		}
		if _, err := n.Check(t.Context(), func(int, int) {}); !errors.Is(err, keystore.ErrDamaged) {
			t.Errorf("%s: check: %v", space, err)
		}
		medium := errors.New("the medium is gone")
		n, err := open(t, &cracked{store, space, medium})
		if !errors.Is(err, medium) {
			t.Errorf("%s: starts with %v", space, err)
		}
		n.expect(t, space.String(), map[byte]bool{1: false, 2: false})
	}
}

// TestStoreEnds: who cannot hear of removals lets nobody in.
func TestStoreEnds(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	write(t, store, "a", 1)
	n := mustOpen(t, store, &identity.Principal{Type: identity.Root, Account: tenant, Credential: key(9), ARN: realm.RootARN(tenant)})
	n.expect(t, "at the start", map[byte]bool{1: true, 9: true})
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Wait(); !errors.Is(err, keystore.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
	n.expect(t, "after the store's end", map[byte]bool{1: false, 9: false})
	if _, err := open(t, store); !errors.Is(err, keystore.ErrClosed) {
		t.Errorf("starts on a closed store: %v", err)
	}
}

// TestManyPrincipals loads more than one View may hold open at once.
func TestManyPrincipals(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	const many = 3000
	hash := func(i int) (h identity.KeyHash) { copy(h[:], fmt.Sprintf("%32d", i)); return h }
	for i := range many {
		if err := iam.Write(t.Context(), store, tenant, fmt.Sprint("client-", i), hash(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	n := mustOpen(t, store)
	for i := range many {
		if !n.lets(hash(i)) {
			t.Fatalf("client %d is kept out", i)
		}
	}
	problems(t, n, 0)
}

// short is a store that lacks locked memory while it is told so.
type short struct {
	keystore.Store
	now atomic.Bool
}

func (s *short) View(ctx context.Context, f func(keystore.Reader) error) error {
	if s.now.Load() {
		return fmt.Errorf("open a row: %w", securemem.ErrFull)
	}
	return s.Store.View(ctx, f)
}

// TestShortageOfMemoryPasses: a client whose rows could not be read for lack of memory is
// let in when there is memory again, and nobody is told of damage. What changed meanwhile
// counts: who was removed stays out.
func TestShortageOfMemoryPasses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &short{Store: keystore.NewMemory()}
		write(t, store, "before", 1)
		n := mustOpen(t, store)
		store.now.Store(true)
		write(t, store.Store, "added", 2)
		write(t, store.Store, "removed", 3)
		erase(t, store.Store, "removed", 3)
		time.Sleep(time.Minute)
		n.expect(t, "while memory is short", map[byte]bool{1: true, 2: false, 3: false})
		store.now.Store(false)
		time.Sleep(2 * time.Second)
		n.expect(t, "afterwards", map[byte]bool{1: true, 2: true, 3: false})
		if w := n.Warnings(); len(w) != 0 {
			t.Errorf("warnings: %q", w)
		}
		n.stop()
		n.Wait()
		time.Sleep(time.Minute)
		n.expect(t, "after the end", map[byte]bool{1: false, 2: false})
	})
}

// TestRetryLetsNobodyBackIn: a read that was put off and comes after the feed's end
// publishes nothing.
func TestRetryLetsNobodyBackIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &short{Store: keystore.NewMemory()}
		n := mustOpen(t, store)
		store.now.Store(true)
		write(t, store.Store, "added", 1)
		store.now.Store(false)
		n.stop()
		n.Wait()
		time.Sleep(time.Minute)
		n.expect(t, "after the end", map[byte]bool{1: false})
	})
}
