package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

const writers = 64

// viewIsOneSnapshot keeps a View open while the store changes under it.
func viewIsOneSnapshot(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "old")
	put(t, s, row(2), "old")
	entered, changed := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		view(t, s, func(r keystore.Reader) error {
			before := r.Revision()
			held, err := r.Get(row(1))
			close(entered)
			<-changed
			names, scanned := collect(r, keystore.Name{}, keystore.Name{})
			if string(held) != "old" || len(names) != 2 || r.Revision() != before {
				err = fmt.Errorf("held %q, %d names, revision %d -> %d", held, len(names), before, r.Revision())
			}
			return errors.Join(err, scanned, expect(r, row(1), "old"), expect(r, row(2), "old"), expect(r, row(3), "-"))
		})
	})
	<-entered
	update(t, s, func(tx keystore.Tx) error {
		return errors.Join(tx.Put(row(1), []byte("new")), tx.Delete(row(2)), tx.Put(row(3), []byte("new")))
	})
	view(t, s, func(r keystore.Reader) error {
		return errors.Join(expect(r, row(1), "new"), expect(r, row(2), "-"), expect(r, row(3), "new"))
	})
	close(changed)
	done.Wait()
}

// countersLoseNothing has all writers add to one row and each to a row of its own, in one
// transaction: a lost update shows in the first, a doubled run of a function in both.
func countersLoseNothing(t *testing.T, s keystore.Store) {
	const times = 8
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for range times {
				update(t, s, func(tx keystore.Tx) error { return errors.Join(add(tx, row(0), 1), add(tx, row(1+w), 1)) })
			}
		})
	}
	done.Wait()
	view(t, s, func(r keystore.Reader) error {
		total, err := number(r, row(0))
		for w := range writers {
			own, e := number(r, row(1+w))
			if e != nil || own != times {
				err = errors.Join(err, e, fmt.Errorf("writer %d counted %d, want %d", w, own, times))
			}
		}
		if total != writers*times {
			err = errors.Join(err, fmt.Errorf("together %d, want %d", total, writers*times))
		}
		return err
	})
}

// noWriteSkew has pairs of rows of which at least one must stay. Each transaction reads both and
// takes away one: under mere snapshot isolation two of them pass each other.
func noWriteSkew(t *testing.T, s keystore.Store) {
	const pairs = 32
	for i := range pairs {
		put(t, s, row(2*i), "on duty")
		put(t, s, row(2*i+1), "on duty")
	}
	var done sync.WaitGroup
	for i := range 2 * pairs {
		own, other := row(i), row(i^1)
		done.Go(func() {
			update(t, s, func(tx keystore.Tx) error {
				_, err := tx.Get(other)
				if errors.Is(err, keystore.ErrNotFound) {
					return nil
				}
				return errors.Join(err, tx.Delete(own))
			})
		})
	}
	done.Wait()
	view(t, s, func(r keystore.Reader) error {
		left, err := collect(r, row(0), row(2*pairs))
		if len(left) != pairs {
			err = errors.Join(err, fmt.Errorf("%d of %d pairs have one left", len(left), pairs))
		}
		return err
	})
}

// updatesFormOneOrder has all writers take the next place in a list. The places are an order of all
// Updates that agrees with their revisions, with what a Watch tells, and with time: an Update that
// began after another had returned comes behind it.
func updatesFormOneOrder(t *testing.T, s keystore.Store) {
	const times = 4
	watch := follow(t, s, 0)
	var returned atomic.Int64
	var mu sync.Mutex // guards revisions
	revisions := make(map[int64]keystore.Revision)
	var done sync.WaitGroup
	for range writers {
		done.Go(func() {
			for range times {
				var place int64
				before := returned.Load()
				r := update(t, s, func(tx keystore.Tx) (err error) {
					if place, err = number(tx, row(0)); err != nil {
						return err
					}
					return errors.Join(add(tx, row(0), 1), tx.Put(row(1+int(place)), []byte("taken")))
				})
				returned.Add(1)
				if place < before {
					t.Errorf("place %d was taken after %d Updates had returned", place, before)
				}
				mu.Lock()
				if _, twice := revisions[place]; twice {
					t.Errorf("place %d was taken twice", place)
				}
				revisions[place] = r
				mu.Unlock()
			}
		})
	}
	done.Wait()
	watch.stop(t)
	var want []change
	for place := range int64(writers * times) {
		if place > 0 && revisions[place] < revisions[place-1] {
			t.Errorf("place %d is of revision %d, the one before of %d", place, revisions[place], revisions[place-1])
		}
		want = append(want, change{revisions[place], row(1 + int(place)), false})
	}
	watch.seen = slices.DeleteFunc(watch.seen, func(c change) bool { return c.name == row(0) })
	watch.expect(t, want...)
}

// noTransactionIsHalf moves amounts between rows while others add up all rows, in Views by Scan and
// by Get and in Updates: the sum never changes, and nobody sees an older state than before.
func noTransactionIsHalf(t *testing.T, s keystore.Store) {
	const rows, amount, movers, times = 8, 100, 16, 12
	update(t, s, func(tx keystore.Tx) (err error) {
		for i := range rows {
			err = errors.Join(err, add(tx, row(i), amount))
		}
		return err
	})
	whole := func(g getter) error {
		sum := int64(0)
		for i := range rows {
			n, err := number(g, row(i))
			if err != nil {
				return err
			}
			sum += n
		}
		if sum != rows*amount {
			return fmt.Errorf("the rows add up to %d, want %d", sum, rows*amount)
		}
		return nil
	}
	var moving, looking sync.WaitGroup
	var over atomic.Bool
	for m := range movers {
		moving.Go(func() {
			for i := range times {
				from, to := row((m+i)%rows), row((m+3*i+1)%rows)
				update(t, s, func(tx keystore.Tx) error {
					return errors.Join(whole(tx), add(tx, from, -7), add(tx, to, 7), whole(tx))
				})
			}
		})
	}
	for range 4 {
		looking.Go(func() {
			for last := keystore.Revision(0); !over.Load(); {
				view(t, s, func(r keystore.Reader) error {
					if r.Revision() < last {
						return fmt.Errorf("revision %d after %d", r.Revision(), last)
					}
					last = r.Revision()
					_, err := collect(r, row(0), row(rows)) // what Scan yields is what Get returns
					return errors.Join(err, whole(r))
				})
			}
		})
	}
	moving.Wait()
	over.Store(true)
	looking.Wait()
}

// failuresCostOthersNothing runs writers of one counter, of which one fails and one panics after
// having written.
func failuresCostOthersNothing(t *testing.T, s keystore.Store) {
	failure := errors.New("changed its mind")
	start := make(chan struct{})
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			<-start
			var want error
			defer func() {
				if v := recover(); (w == 27) != (v == "of writer 27") {
					t.Errorf("writer %d: panic with %v", w, v)
				}
			}()
			_, err := s.Update(context.Background(), func(tx keystore.Tx) error {
				if err := errors.Join(add(tx, row(0), 1), tx.Put(row(1+w), []byte("was here"))); err != nil {
					return err
				}
				switch w {
				case 13:
					want = failure
				case 27:
					panic("of writer 27")
				}
				return want
			})
			if err != want {
				t.Errorf("writer %d: got error %v, want %v itself", w, err, want)
			}
		})
	}
	close(start)
	done.Wait()
	view(t, s, func(r keystore.Reader) error {
		total, err := number(r, row(0))
		if total != writers-2 {
			err = errors.Join(err, fmt.Errorf("counted %d, want %d", total, writers-2))
		}
		return errors.Join(err, expect(r, row(1), "was here"), expect(r, row(1+13), "-"), expect(r, row(1+27), "-"))
	})
}

// endedGoroutine: a function that ends its goroutine, as t.FailNow does, leaves a store that works.
func endedGoroutine(t *testing.T, s keystore.Store) {
	var done sync.WaitGroup
	done.Go(func() {
		s.Update(context.Background(), func(tx keystore.Tx) error {
			tx.Put(row(1), []byte("half"))
			runtime.Goexit()
			return nil
		})
	})
	done.Go(func() { s.View(context.Background(), func(keystore.Reader) error { runtime.Goexit(); return nil }) })
	done.Wait()
	put(t, s, row(2), "whole")
	expectRow(t, s, row(1), "-")
}

// largeBatches writes more at once than any engine takes in one commit.
func largeBatches(t *testing.T, s keystore.Store) {
	start := make(chan struct{})
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			<-start
			update(t, s, func(tx keystore.Tx) (err error) {
				for i := range keystore.MaxRows {
					err = errors.Join(err, tx.Put(row(w*keystore.MaxRows+i), []byte("v")))
				}
				return err
			})
		})
	}
	close(start)
	done.Wait()
	view(t, s, func(r keystore.Reader) error {
		rows := 0
		for _, err := range r.Scan(row(0), keystore.Name{}) {
			if err != nil {
				return err
			}
			rows++
		}
		if rows != writers*keystore.MaxRows {
			return fmt.Errorf("%d rows, want %d", rows, writers*keystore.MaxRows)
		}
		return nil
	})
}
