package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// readsItsOwnWrites: within a transaction the last write of a row counts, a deletion too, and
// outside of it nothing is seen before the end.
func readsItsOwnWrites(t *testing.T, s keystore.Store) {
	put(t, s, row(1), "old")
	put(t, s, row(2), "gone")
	update(t, s, func(tx keystore.Tx) error {
		return errors.Join(
			tx.Put(row(1), []byte("new")), tx.Delete(row(2)), tx.Put(row(3), nil),
			expect(tx, row(1), "new"), expect(tx, row(2), "-"), expect(tx, row(3), ""),
			tx.Put(row(2), []byte("back")), tx.Delete(row(3)),
			expect(tx, row(2), "back"), expect(tx, row(3), "-"),
		)
	})
	view(t, s, func(r keystore.Reader) error {
		return errors.Join(expect(r, row(1), "new"), expect(r, row(2), "back"), expect(r, row(3), "-"))
	})
}

// keepsItsOwnCopies: the caller's buffer is the caller's again, and a value that was got does not
// change under its reader.
func keepsItsOwnCopies(t *testing.T, s keystore.Store) {
	buffer := []byte("first")
	update(t, s, func(tx keystore.Tx) error {
		err := tx.Put(row(1), buffer)
		copy(buffer, "wiped")
		return errors.Join(err, expect(tx, row(1), "first"))
	})
	update(t, s, func(tx keystore.Tx) error {
		got, err := tx.Get(row(1))
		err = errors.Join(err, tx.Put(row(1), []byte("later")), expect(tx, row(1), "later"))
		if string(got) != "first" {
			return fmt.Errorf("a value that was read became %q", got)
		}
		return err
	})
	expectRow(t, s, row(1), "later")
}

// valuesStay: what Get returned in a View or an Update is the same until that ends, whatever else is
// read in it, and nobody who changes a row can reach it.
func valuesStay(t *testing.T, s keystore.Store) {
	const rows = keystore.MaxRows
	value := func(i int) string { return fmt.Sprint(i, strings.Repeat(" some text", 40)) }
	update(t, s, func(tx keystore.Tx) (err error) {
		for i := range rows {
			err = errors.Join(err, tx.Put(row(i), []byte(value(i))))
		}
		return err
	})
	hold := func(g getter, meanwhile func() error) error {
		held := make([][]byte, rows)
		var err error
		for i := range rows {
			held[i], err = g.Get(row(i))
			if err != nil {
				return err
			}
		}
		err = meanwhile()
		for i, v := range held {
			if string(v) != value(i) {
				err = errors.Join(err, fmt.Errorf("row %d became %.40q", i, v))
			}
		}
		return err
	}
	update(t, s, func(tx keystore.Tx) error { return hold(tx, func() error { return expect(tx, row(0), value(0)) }) })
	view(t, s, func(r keystore.Reader) error {
		return hold(r, func() error {
			var done sync.WaitGroup
			done.Go(func() { put(t, s, row(1), "changed") })
			done.Wait()
			_, err := collect(r, keystore.Name{}, keystore.Name{})
			return err
		})
	})
}

// deleteOfNothing: a row that was not there before and is not there afterwards has not changed, so
// no watcher hears of it.
func deleteOfNothing(t *testing.T, s keystore.Store) {
	f := follow(t, s, 0)
	before := put(t, s, row(1), "here")
	after := update(t, s, func(tx keystore.Tx) error {
		return errors.Join(tx.Delete(row(2)), tx.Put(row(3), nil), tx.Delete(row(3)))
	})
	if after < before {
		t.Errorf("revision went from %d to %d", before, after)
	}
	f.stop(t)
	f.expect(t, change{before, row(1), false})
}

// scanIsOrderedAndBounded writes rows out of order in two spaces and looks at them through bounds
// of every kind.
func scanIsOrderedAndBounded(t *testing.T, s keystore.Store) {
	outside := keystore.MakeName(keystore.SpaceKey, "0123456789abcdef")
	all := []keystore.Name{outside}
	for i := range 100 {
		all = append(all, row(i*37%100))
	}
	for chunk := range slices.Chunk(all, keystore.MaxRows) {
		update(t, s, func(tx keystore.Tx) (err error) {
			for _, n := range chunk {
				err = errors.Join(err, tx.Put(n, n.Append(nil)))
			}
			return err
		})
	}
	slices.SortFunc(all, keystore.Name.Compare)
	none := keystore.Name{}
	lo, hi := keystore.Range(keystore.SpaceAlias, "test")
	other, otherEnd := keystore.Range(keystore.SpaceAlias, "tes")
	for _, c := range []struct {
		what   string
		lo, hi keystore.Name
		want   []keystore.Name
	}{
		{"everything", none, none, all},
		{"from a row that is there", row(40), none, all[41:]},
		{"up to a row, without it", none, row(40), all[:41]},
		{"between two rows", row(10), row(13), all[11:14]},
		{"from a row that is not there", row(98), row(200), all[99:]},
		{"what shares components", lo, hi, all[1:]},
		{"what shares only bytes", other, otherEnd, nil},
		{"nothing", row(10), row(10), nil},
		{"backwards", row(20), row(10), nil},
	} {
		view(t, s, func(r keystore.Reader) error {
			got, err := collect(r, c.lo, c.hi)
			if !slices.Equal(got, c.want) {
				err = errors.Join(err, fmt.Errorf("%s: got %v, want %v", c.what, got, c.want))
			}
			return err
		})
	}
}

// scanOrdersBytes: names sort by their bytes, a short component before a longer one, and no byte in
// a component reaches into its neighbour or into a range that is not its own.
func scanOrdersBytes(t *testing.T, s keystore.Store) {
	parts := []string{"", "\x00", "a", "a/b", "\xfe", "\xff", "\xff\xff"}
	var all []keystore.Name
	for _, space := range []keystore.Space{keystore.SpacePrincipal, keystore.SpaceAlias} {
		for _, a := range parts {
			all = append(all, keystore.MakeName(space, a))
			for _, b := range parts {
				all = append(all, keystore.MakeName(space, a, b))
			}
		}
	}
	for chunk := range slices.Chunk(all, keystore.MaxRows) {
		update(t, s, func(tx keystore.Tx) (err error) {
			for _, n := range chunk {
				err = errors.Join(err, tx.Put(n, n.Append(nil)))
			}
			return err
		})
	}
	slices.SortFunc(all, func(a, b keystore.Name) int { return bytes.Compare(a.Append(nil), b.Append(nil)) })
	expectScan(t, s, keystore.Name{}, keystore.Name{}, all)
	for _, part := range parts {
		lo, hi := keystore.Range(keystore.SpaceAlias, part)
		expectScan(t, s, lo, hi, slices.DeleteFunc(slices.Clone(all), func(n keystore.Name) bool {
			return n.Space() != keystore.SpaceAlias || n.Components()[0] != part
		}))
	}
}

// expectScan compares the names of a range in a View of its own.
func expectScan(t *testing.T, s keystore.Store, lo, hi keystore.Name, want []keystore.Name) {
	t.Helper()
	view(t, s, func(r keystore.Reader) error {
		got, err := collect(r, lo, hi)
		if !slices.Equal(got, want) {
			err = errors.Join(err, fmt.Errorf("from %v to %v: got %v, want %v", lo, hi, got, want))
		}
		return err
	})
}

// scanStopsWhenTold: a Scan that was left early has let go of everything; the next one is complete.
func scanStopsWhenTold(t *testing.T, s keystore.Store) {
	for i := range 5 {
		put(t, s, row(i), "v")
	}
	view(t, s, func(r keystore.Reader) error {
		steps := 0
		for range r.Scan(row(0), row(5)) {
			if steps++; steps == 2 {
				break
			}
		}
		names, err := collect(r, row(0), row(5))
		if steps != 2 || len(names) != 5 {
			return fmt.Errorf("%d steps, then %d names", steps, len(names))
		}
		return err
	})
}

// revisionsOnlyGrow: an Update returns the revision that the next View shows, and one that wrote
// nothing makes none.
func revisionsOnlyGrow(t *testing.T, s keystore.Store) {
	var last keystore.Revision
	view(t, s, func(r keystore.Reader) error {
		last = r.Revision() // not 0 where a layer keeps rows of its own
		return nil
	})
	for i := range 10 {
		r := put(t, s, row(i%3), fmt.Sprint(i))
		if r <= last {
			t.Errorf("revision %d after %d", r, last)
		}
		last = r
		view(t, s, func(r keystore.Reader) error {
			if r.Revision() != last {
				return fmt.Errorf("read at %d, want the %d of the last Update", r.Revision(), last)
			}
			return nil
		})
	}
	if r := update(t, s, func(tx keystore.Tx) error { return expect(tx, row(0), "9") }); r != last {
		t.Errorf("an Update that wrote nothing is at %d, want %d", r, last)
	}
}

// refusesNamesOfNothing: what MakeName could not make never becomes a row, nor does a bound of a
// Scan that only looks like a name.
func refusesNamesOfNothing(t *testing.T, s keystore.Store) {
	_, bound := keystore.Range(keystore.SpaceAlias, strings.Repeat("\xff", 3)) // the length of the component is one more
	tooLong := keystore.MakeName(keystore.SpaceAlias, strings.Repeat("n", keystore.MaxName))
	unknown := keystore.MakeName(255, "x")
	for what, n := range map[string]keystore.Name{"zero": {}, "bound": bound, "too long": tooLong, "unknown space": unknown} {
		_, err := s.Update(context.Background(), func(tx keystore.Tx) error { _, err := tx.Get(n); return err })
		wantError(t, what+": Tx.Get", err, keystore.ErrName)
		_, err = s.Update(context.Background(), func(tx keystore.Tx) error { return tx.Put(n, nil) })
		wantError(t, what+": Put", err, keystore.ErrName)
		_, err = s.Update(context.Background(), func(tx keystore.Tx) error { return tx.Delete(n) })
		wantError(t, what+": Delete", err, keystore.ErrName)
		err = s.View(context.Background(), func(r keystore.Reader) error { _, err := r.Get(n); return err })
		wantError(t, what+": Reader.Get", err, keystore.ErrName)
	}
	longest := keystore.MakeName(keystore.SpaceAlias, strings.Repeat("n", keystore.MaxName-3))
	put(t, s, longest, "fits")
	expectRow(t, s, longest, "fits")
}

// wantError compares with errors.Is, as callers do.
func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

// rowsPerTransaction: rows count once each, however they are touched, and also where they are only
// read or only written.
func rowsPerTransaction(t *testing.T, s keystore.Store) {
	get := func(tx keystore.Tx, n keystore.Name) error { _, err := tx.Get(n); return err }
	put := func(tx keystore.Tx, n keystore.Name) error { return tx.Put(n, []byte("v")) }
	deleted := func(tx keystore.Tx, n keystore.Name) error { return tx.Delete(n) }
	for what, kinds := range map[string][]func(keystore.Tx, keystore.Name) error{
		"read": {get, get}, "written": {put, put}, "deleted": {deleted}, "touched": {get, put, deleted},
	} {
		touch := func(rows int) error {
			_, err := s.Update(context.Background(), func(tx keystore.Tx) error {
				for i := range len(kinds) * rows {
					if err := kinds[i/rows](tx, row(i%rows)); err != nil && !errors.Is(err, keystore.ErrNotFound) {
						return err
					}
				}
				return nil
			})
			return err
		}
		if err := touch(keystore.MaxRows); err != nil {
			t.Errorf("%d rows %s: %v", keystore.MaxRows, what, err)
		}
		wantError(t, "one row more "+what, touch(keystore.MaxRows+1), keystore.ErrTooManyRows)
	}
}

// bytesPerTransaction: the largest value fits, as do as many bytes of names and values as a
// transaction may write, and not one more.
func bytesPerTransaction(t *testing.T, s keystore.Store) {
	value := bytes.Repeat([]byte("v"), keystore.MaxValue+1024)
	write := func(sizes ...int) error {
		_, err := s.Update(context.Background(), func(tx keystore.Tx) (err error) {
			for i, size := range sizes {
				if err := tx.Put(row(i), value[:size]); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	}
	if err := write(keystore.MaxValue); err != nil {
		t.Errorf("largest value: %v", err)
	}
	expectRow(t, s, row(0), string(value[:keystore.MaxValue]))
	wantError(t, "value with a byte more", write(keystore.MaxValue+1), keystore.ErrTooLarge)
	wantError(t, "value beyond what any layer may write", write(keystore.MaxValue+257), keystore.ErrTooLarge)

	sizes, left := []int{}, keystore.MaxBytes
	for left > 0 {
		size := min(left-row(0).Len(), keystore.MaxValue)
		sizes, left = append(sizes, size), left-row(0).Len()-size
	}
	last := len(sizes) - 1
	if err := write(sizes...); err != nil {
		t.Errorf("a transaction of all bytes that it may write: %v", err)
	}
	expectRow(t, s, row(last), string(value[:sizes[last]]))
	sizes[last]++
	wantError(t, "a transaction of a byte more", write(sizes...), keystore.ErrTooLarge)
	expectRow(t, s, row(last), string(value[:sizes[last]-1]))
}

// hiddenErrorDoesNotCommit: a function that overlooks an error of its Tx has not decided on what it
// meant to.
func hiddenErrorDoesNotCommit(t *testing.T, s keystore.Store) {
	_, err := s.Update(context.Background(), func(tx keystore.Tx) error {
		tx.Put(row(1), []byte("half"))
		tx.Put(keystore.Name{}, nil)
		tx.Put(row(2), []byte("half"))
		return nil
	})
	wantError(t, "Update", err, keystore.ErrName)
	update(t, s, func(tx keystore.Tx) error {
		return errors.Join(expect(tx, row(1), "-"), expect(tx, row(2), "-"), tx.Put(row(3), []byte("whole")))
	})
	expectRow(t, s, row(3), "whole")
}
