package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// cache is the pattern of the package comment of keystore in its smallest form: rows by name,
// filled by readers that miss, emptied by a Watch alone.
type cache struct {
	store keystore.Store
	stop  func(*testing.T)
	// paused runs between the View of a fill and its insertion.
	paused func()

	mu     sync.Mutex // guards the maps; not held during a View
	values map[keystore.Name]string
	fills  map[keystore.Name]*fill
}

// fill is announced for a name while readers fetch it. noted is the newest change of the name that
// was delivered since.
type fill struct {
	readers int
	noted   keystore.Revision
}

// newCache returns an empty cache that already follows the store: fills before that could miss a
// change.
func newCache(t *testing.T, s keystore.Store) *cache {
	c := &cache{store: s, paused: func() {}, values: make(map[keystore.Name]string), fills: make(map[keystore.Name]*fill)}
	ctx, cancel := context.WithCancel(context.Background())
	ended, caughtUp := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- s.Watch(ctx, 0, func(r keystore.Revision, changes []keystore.Change) error {
			if len(changes) == 0 {
				close(caughtUp)
			}
			c.drop(r, changes)
			return nil
		})
	}()
	<-caughtUp
	c.stop = func(t *testing.T) { cancel(); wantError(t, "Watch", <-ended, context.Canceled) }
	return c
}

// drop is what the Watch does.
func (c *cache) drop(r keystore.Revision, changes []keystore.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range changes {
		delete(c.values, change.Name)
		if f := c.fills[change.Name]; f != nil {
			f.noted = r
		}
	}
}

// get returns the value of a row, "-" when there is none.
func (c *cache) get(n keystore.Name) (string, error) {
	c.mu.Lock()
	if v, ok := c.values[n]; ok {
		c.mu.Unlock()
		return v, nil
	}
	f := c.fills[n]
	if f == nil {
		f = new(fill)
		c.fills[n] = f
	}
	f.readers++
	c.mu.Unlock()
	v, r, err := c.read(n)
	c.paused()
	c.insert(n, f, v, r, err)
	return v, err
}

// read is one View: the value and the revision that it is of.
func (c *cache) read(n keystore.Name) (value string, at keystore.Revision, err error) {
	err = c.store.View(context.Background(), func(r keystore.Reader) error {
		v, err := r.Get(n)
		value, at = string(v), r.Revision()
		if errors.Is(err, keystore.ErrNotFound) {
			value, err = "-", nil
		}
		return err
	})
	return value, at, err
}

// insert ends a fill, and keeps what it brought only if nothing newer was delivered while it ran.
func (c *cache) insert(n keystore.Name, f *fill, value string, r keystore.Revision, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && f.noted <= r {
		c.values[n] = value
	}
	if f.readers--; f.readers == 0 {
		delete(c.fills, n)
	}
}

// cacheFillRace stops a fill between its read and its insertion, changes the row meanwhile, and
// lets it go on: the old value must not get into the cache, for the row as for its absence.
func cacheFillRace(t *testing.T, s keystore.Store) {
	for i, c := range []struct{ before, after string }{{"-", "new"}, {"old", "new"}, {"old", "-"}} {
		set(t, s, row(i), c.before)
		racedFill(t, s, row(i), c.before, c.after)
	}
}

// set writes a row, or deletes it where the value is "-".
func set(t *testing.T, s keystore.Store, n keystore.Name, value string) {
	update(t, s, func(tx keystore.Tx) error {
		if value == "-" {
			return tx.Delete(n)
		}
		return tx.Put(n, []byte(value))
	})
}

func racedFill(t *testing.T, s keystore.Store, n keystore.Name, before, after string) {
	c := newCache(t, s)
	read, changed := make(chan struct{}), make(chan struct{})
	c.paused = func() { close(read); <-changed }
	var done sync.WaitGroup
	done.Go(func() {
		if got, err := c.get(n); got != before || err != nil {
			t.Errorf("the paused fill read %q, %v, want %q", got, err, before)
		}
	})
	<-read
	set(t, s, n, after)
	close(changed)
	done.Wait()
	c.paused = func() {}
	if got, err := c.get(n); got != after || err != nil {
		t.Errorf("after the race the cache has %q, %v, want %q", got, err, after)
	}
	if c.values[n] != after || len(c.fills) != 0 {
		t.Errorf("a fill that nothing disturbed was not kept: %v, %v", c.values, c.fills)
	}
	c.stop(t)
}

// cacheUnderLoad has writers that read their own writes through the cache while others fill it:
// once an Update has returned, nobody sees less than it wrote.
func cacheUnderLoad(t *testing.T, s keystore.Store) {
	const rows, times = 4, 50
	c := newCache(t, s)
	var done sync.WaitGroup
	for i := range rows {
		done.Go(func() {
			for v := range times {
				want := fmt.Sprint(v)
				put(t, s, row(i), want)
				if got, err := c.get(row(i)); got != want || err != nil {
					t.Errorf("%s: the cache has %q, %v after an Update to %q returned", row(i), got, err, want)
				}
			}
		})
		done.Go(func() {
			for j := range rows * times {
				if _, err := c.get(row((i + j) % rows)); err != nil {
					t.Errorf("cache: %v", err)
				}
			}
		})
	}
	done.Wait()
	c.stop(t)
}
