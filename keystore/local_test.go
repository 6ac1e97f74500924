package keystore_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/storetest"
)

// checked is an Engine of plain maps that holds Local to its side of the bargain, and can be made
// slow or broken.
type checked struct {
	t        *testing.T
	newest   atomic.Pointer[state]
	open     atomic.Int32 // snapshots
	commits  atomic.Int32
	inCommit atomic.Bool

	// commit, snapshot and closed are asked before each of these, and may block or fail; shown runs
	// when a commit can be seen.
	commit   func(r keystore.Revision, rows []keystore.Row) error
	shown    func()
	snapshot func() error
	closed   error
}

type state struct {
	of       *checked
	rows     map[keystore.Name][]byte
	revision keystore.Revision
	over     bool
}

func newChecked(t *testing.T) *checked {
	e := &checked{t: t, shown: func() {}}
	e.commit = func(keystore.Revision, []keystore.Row) error { return nil }
	e.snapshot = func() error { return nil }
	e.newest.Store(&state{})
	return e
}

func (e *checked) Snapshot() (keystore.Snapshot, error) {
	if err := e.snapshot(); err != nil {
		return nil, err
	}
	e.open.Add(1)
	s := e.newest.Load()
	return &state{of: e, rows: s.rows, revision: s.revision}, nil
}

func (e *checked) Commit(r keystore.Revision, rows []keystore.Row) error {
	if e.inCommit.Swap(true) {
		e.t.Error("two Commits at a time")
	}
	defer e.inCommit.Store(false)
	e.commits.Add(1)
	if err := e.commit(r, rows); err != nil {
		return err
	}
	s := e.newest.Load()
	if r != s.revision+1 || len(rows) == 0 || len(rows) > 1000 {
		e.t.Errorf("Commit of revision %d with %d rows after %d", r, len(rows), s.revision)
	}
	next := &state{rows: maps.Clone(s.rows), revision: r}
	if next.rows == nil {
		next.rows = make(map[keystore.Name][]byte)
	}
	for i, row := range rows {
		if i > 0 && rows[i-1].Name.Compare(row.Name) >= 0 {
			e.t.Errorf("rows %v and %v are out of order", rows[i-1].Name, row.Name)
		}
		if row.Deleted {
			delete(next.rows, row.Name)
		} else {
			next.rows[row.Name] = row.Value
		}
	}
	e.newest.Store(next)
	e.shown()
	return nil
}

func (e *checked) Close() error {
	if e.open.Load() != 0 || e.inCommit.Load() {
		e.t.Error("closed while in use")
	}
	return e.closed
}

func (s *state) Get(n keystore.Name) ([]byte, error) {
	if s.over {
		s.of.t.Error("Get of a closed snapshot")
	}
	v, ok := s.rows[n]
	if !ok {
		return nil, fmt.Errorf("in a map: %w", keystore.ErrNotFound)
	}
	return v, nil
}

func (s *state) Scan(lo, hi keystore.Name) iter.Seq2[keystore.Entry, error] {
	return func(yield func(keystore.Entry, error) bool) {
		for _, n := range slices.SortedFunc(maps.Keys(s.rows), keystore.Name.Compare) {
			if within(n, lo, hi) && !yield(keystore.Entry{Name: n, Value: s.rows[n]}, nil) {
				return
			}
		}
	}
}

func (s *state) Revision() keystore.Revision { return s.revision }

func (s *state) Close() {
	if s.over {
		s.of.t.Error("snapshot closed twice")
	}
	s.over = true
	s.of.open.Add(-1)
}

func open(t *testing.T, e *checked) *keystore.Local {
	t.Helper()
	l, err := keystore.NewLocal(e)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func name(i int) keystore.Name { return keystore.MakeName(keystore.SpaceAlias, fmt.Sprintf("%04d", i)) }

func put(l keystore.Store, i int, value string) error {
	_, err := l.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(name(i), []byte(value)) })
	return err
}

func TestLocalKeepsItsBargain(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) keystore.Store { return open(t, newChecked(t)) })
}

// TestTransactionsGatherWhileOneCommits: what arrives during a commit is one commit together.
func TestTransactionsGatherWhileOneCommits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release := newChecked(t), make(chan struct{})
		e.commit = func(keystore.Revision, []keystore.Row) error { <-release; return nil }
		l := open(t, e)
		var done sync.WaitGroup
		for i := range 64 {
			done.Go(func() {
				if err := put(l, i, "v"); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(release)
		done.Wait()
		if got := e.commits.Load(); got != 2 {
			t.Errorf("%d commits, want the first one's and one for all others", got)
		}
	})
}

// TestReadersWaitForWhatTheyRead: an answer that rests on a row is given only once the row is
// durable.
func TestReadersWaitForWhatTheyRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release := newChecked(t), make(chan struct{})
		e.commit = func(keystore.Revision, []keystore.Row) error { <-release; return nil }
		l := open(t, e)
		taken := errors.New("name is taken")
		outcomes := make(chan error, 3)
		go func() { outcomes <- put(l, 1, "v") }()
		synctest.Wait()
		for _, answer := range []error{nil, taken} {
			go func() {
				_, err := l.Update(t.Context(), func(tx keystore.Tx) error {
					if v, err := tx.Get(name(1)); string(v) != "v" {
						t.Errorf("read %q, %v from a transaction that commits", v, err)
					}
					return answer
				})
				if err != answer {
					t.Errorf("got %v, want %v", err, answer)
				}
				outcomes <- nil
			}()
		}
		synctest.Wait()
		if len(outcomes) != 0 {
			t.Error("an Update returned before the row it read was durable")
		}
		close(release)
		for range 3 {
			if err := <-outcomes; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestRefusedCommitTakesNobodyAlong: the transactions of a refused batch get the engine's error;
// those that read its rows run again.
func TestRefusedCommitTakesNobodyAlong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release, full := newChecked(t), make(chan struct{}), errors.New("medium is full")
		e.commit = func(r keystore.Revision, rows []keystore.Row) error {
			<-release
			if slices.ContainsFunc(rows, func(row keystore.Row) bool { return string(row.Value) == "too much" }) {
				return full
			}
			return nil
		}
		l := open(t, e)
		var done sync.WaitGroup
		done.Go(func() {
			if err := put(l, 0, "too much"); err != full {
				t.Errorf("the refused Update got %v, want %v", err, full)
			}
		})
		synctest.Wait()
		seen := make([][]string, 8)
		for i := range seen {
			done.Go(func() {
				failure := errors.New("on purpose")
				_, err := l.Update(t.Context(), func(tx keystore.Tx) error {
					v, _ := tx.Get(name(0))
					seen[i] = append(seen[i], string(v))
					if i == 5 {
						return failure
					}
					return tx.Put(name(1+i), []byte("v"))
				})
				if (i == 5) != (err == failure) || i != 5 && err != nil {
					t.Errorf("Update %d: %v", i, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		done.Wait()
		for i, runs := range seen {
			if !slices.Equal(runs, []string{"too much", ""}) {
				t.Errorf("Update %d saw %q, want the refused row and then none", i, runs)
			}
		}
	})
}

// TestFailureOfRefusedReadRunsAgain: a function failed over a row of its own batch, which the
// engine then refused.
func TestFailureOfRefusedReadRunsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release, full := newChecked(t), make(chan struct{}), errors.New("medium is full")
		e.commit = func(_ keystore.Revision, rows []keystore.Row) error {
			<-release
			if string(rows[0].Value) == "too much" {
				return full
			}
			return nil
		}
		l := open(t, e)
		var done sync.WaitGroup
		for i, value := range []string{"v", "too much"} {
			done.Go(func() {
				if err := put(l, i, value); (err == full) != (i == 1) {
					t.Errorf("put %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		taken := errors.New("name is taken")
		done.Go(func() {
			_, err := l.Update(t.Context(), func(tx keystore.Tx) error {
				if _, err := tx.Get(name(1)); err == nil {
					return taken
				}
				return tx.Put(name(1), []byte("mine"))
			})
			if err != nil {
				t.Errorf("got %v for a name that was never taken", err)
			}
		})
		synctest.Wait()
		close(release)
		done.Wait()
	})
}

// TestBatchesAreBounded: what gathers during a commit is split where a batch would grow too large,
// which checked looks at.
func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release := newChecked(t), make(chan struct{})
		e.commit = func(keystore.Revision, []keystore.Row) error { <-release; return nil }
		l := open(t, e)
		var done sync.WaitGroup
		for w := range 64 {
			done.Go(func() {
				_, err := l.Update(t.Context(), func(tx keystore.Tx) (err error) {
					for i := range keystore.MaxRows {
						err = errors.Join(err, tx.Put(name(w*keystore.MaxRows+i), []byte("v")))
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(release)
		done.Wait()
		if got := e.commits.Load(); got < 4 {
			t.Errorf("%d commits of 2560 rows, want at least one of 40, two of 1000 and one of the rest", got)
		}
	})
}

// TestWatchBetweenCommitAndDelivery begins after a revision that a View already shows and the
// watchers do not know yet.
func TestWatchBetweenCommitAndDelivery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, deliver := newChecked(t), make(chan struct{})
		e.shown = func() { <-deliver }
		l := open(t, e)
		var done sync.WaitGroup
		done.Go(func() { put(l, 1, "v") })
		synctest.Wait()
		var at keystore.Revision
		l.View(t.Context(), func(r keystore.Reader) error { at = r.Revision(); return nil })
		var told []keystore.Revision
		done.Go(func() {
			err := l.Watch(t.Context(), at, func(r keystore.Revision, changes []keystore.Change) error {
				told = append(told, r)
				return nil
			})
			if !errors.Is(err, keystore.ErrClosed) {
				t.Errorf("Watch: %v", err)
			}
		})
		synctest.Wait()
		close(deliver)
		if err := put(l, 2, "v"); err != nil {
			t.Error(err)
		}
		l.Close()
		done.Wait()
		if !slices.Equal(told, []keystore.Revision{1, 2}) {
			t.Errorf("told of %d, want that it has caught up with 1, then 2", told)
		}
	})
}

// TestRunningTransactionNoticesRefusal: the batch fails while the function of a transaction over it
// runs.
func TestRunningTransactionNoticesRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, refuse, goOn := newChecked(t), make(chan struct{}), make(chan struct{})
		e.commit = func(r keystore.Revision, rows []keystore.Row) error {
			if string(rows[0].Value) == "too much" {
				<-refuse
				return errors.New("medium is full")
			}
			return nil
		}
		l := open(t, e)
		var done sync.WaitGroup
		done.Go(func() { put(l, 0, "too much") })
		synctest.Wait()
		var seen []string
		done.Go(func() {
			_, err := l.Update(t.Context(), func(tx keystore.Tx) error {
				v, _ := tx.Get(name(0))
				seen = append(seen, string(v))
				<-goOn
				return tx.Put(name(1), v)
			})
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(refuse)
		synctest.Wait()
		close(goOn)
		done.Wait()
		if !slices.Equal(seen, []string{"too much", ""}) {
			t.Errorf("saw %q, want the refused row and then none", seen)
		}
	})
}

// TestEnginePanicStrandsNobody: it reaches whoever commits, and those who wait get an error instead
// of waiting for ever.
func TestEnginePanicStrandsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, release := newChecked(t), make(chan struct{})
		e.commit = func(r keystore.Revision, rows []keystore.Row) error {
			<-release
			if len(rows) > 1 {
				panic("of the engine")
			}
			return nil
		}
		l := open(t, e)
		var done sync.WaitGroup
		var panics, failed atomic.Int32
		for i := range 5 {
			done.Go(func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				if put(l, i, "v") != nil {
					failed.Add(1)
				}
			})
			synctest.Wait()
		}
		close(release)
		done.Wait()
		if panics.Load() != 1 || failed.Load() != 3 {
			t.Errorf("%d panics and %d errors, want one and those of the other three", panics.Load(), failed.Load())
		}
		if err := put(l, 9, "v"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestEngineErrorsReachTheCaller(t *testing.T) {
	t.Parallel()
	e, broken := newChecked(t), errors.New("medium is gone")
	e.snapshot = func() error { return broken }
	if _, err := keystore.NewLocal(e); err != broken {
		t.Errorf("NewLocal: %v", err)
	}
	e.snapshot = func() error { return nil }
	e.closed = broken
	l := open(t, e)
	e.snapshot = func() error { return broken }
	if err := put(l, 1, "v"); err != broken {
		t.Errorf("Update: %v", err)
	}
	if err := l.View(t.Context(), func(keystore.Reader) error { return nil }); err != broken {
		t.Errorf("View: %v", err)
	}
	if err := l.Watch(t.Context(), 0, func(keystore.Revision, []keystore.Change) error { return nil }); err != broken {
		t.Errorf("Watch: %v", err)
	}
	e.snapshot = func() error { return nil }
	if err := l.Close(); err != broken {
		t.Errorf("Close: %v", err)
	}
}

// TestHistoryIsBounded: a Watch that begins too far back is told so, and one within the history is
// served.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	m := keystore.NewMemory()
	defer m.Close()
	for i := range 1500 {
		if err := put(m, i%10, "v"); err != nil {
			t.Fatal(err)
		}
	}
	enough := errors.New("enough")
	watch := func(after keystore.Revision) error {
		return m.Watch(t.Context(), after, func(r keystore.Revision, changes []keystore.Change) error {
			if after++; len(changes) > 0 && r != after {
				t.Errorf("got revision %d, want %d", r, after)
			}
			if len(changes) == 0 {
				return enough
			}
			return nil
		})
	}
	for after, want := range map[keystore.Revision]error{0: keystore.ErrCompacted, 400: keystore.ErrCompacted, 476: enough, 1500: enough} {
		if err := watch(after); err != want {
			t.Errorf("Watch after %d: %v, want %v", after, err, want)
		}
	}
}

// TestWiden: a layer's transaction may touch more, and has a bound all the same.
func TestWiden(t *testing.T) {
	t.Parallel()
	m := keystore.NewMemory()
	defer m.Close()
	write := func(rows, size int) error {
		_, err := m.Update(t.Context(), func(tx keystore.Tx) error {
			keystore.Widen(tx)
			for i := range rows {
				if err := tx.Put(name(i), make([]byte, size)); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	}
	for _, c := range []struct {
		rows, size int
		want       error
	}{
		{3 * keystore.MaxRows, 1, nil},
		{3*keystore.MaxRows + 1, 1, keystore.ErrTooManyRows},
		{1, keystore.MaxValue + 256, nil},
		{1, keystore.MaxValue + 257, keystore.ErrTooLarge},
		{9, keystore.MaxValue + 256, nil},
		{10, keystore.MaxValue + 256, keystore.ErrTooLarge},
	} {
		if err := write(c.rows, c.size); !errors.Is(err, c.want) {
			t.Errorf("%d rows of %d bytes: %v, want %v", c.rows, c.size, err, c.want)
		}
	}
	keystore.Widen(nil) // a Tx without the method
}

func BenchmarkUpdate(b *testing.B) {
	m := keystore.NewMemory()
	defer m.Close()
	value := make([]byte, 256)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(name(1), value) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	m := keystore.NewMemory()
	defer m.Close()
	n := name(1)
	if err := put(m, 1, "v"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := m.View(context.Background(), func(r keystore.Reader) error { _, err := r.Get(n); return err }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
