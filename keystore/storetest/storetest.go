// Package storetest is the contract of keystore.Store as a suite of tests: whatever keeps rows,
// alone or over another store, runs it.
//
// Read [Run]; each test is named after the promise it holds a store to. The suite does not cut
// power or touch the medium: an engine's own tests do.
package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/keystore"
)

// Open returns a new, empty store for one test or for one run of a model. The suite closes it.
type Open func(t *testing.T) keystore.Store

// suite lists the tests by the name under which they run.
var suite = []struct {
	name string
	test func(t *testing.T, s keystore.Store)
}{
	{"ReadsItsOwnWrites", readsItsOwnWrites},
	{"KeepsItsOwnCopies", keepsItsOwnCopies},
	{"ValuesStay", valuesStay},
	{"DeleteOfNothingIsNothing", deleteOfNothing},
	{"ScanIsOrderedAndBounded", scanIsOrderedAndBounded},
	{"ScanOrdersBytes", scanOrdersBytes},
	{"ScanStopsWhenTold", scanStopsWhenTold},
	{"RevisionsOnlyGrow", revisionsOnlyGrow},
	{"RefusesNamesOfNothing", refusesNamesOfNothing},
	{"RowsPerTransaction", rowsPerTransaction},
	{"BytesPerTransaction", bytesPerTransaction},
	{"HiddenErrorDoesNotCommit", hiddenErrorDoesNotCommit},
	{"ViewIsOneSnapshot", viewIsOneSnapshot},
	{"CountersLoseNothing", countersLoseNothing},
	{"NoWriteSkew", noWriteSkew},
	{"UpdatesFormOneOrder", updatesFormOneOrder},
	{"NoTransactionIsHalf", noTransactionIsHalf},
	{"FailuresCostOthersNothing", failuresCostOthersNothing},
	{"EndedGoroutineCostsNothing", endedGoroutine},
	{"LargeBatchesAreSplit", largeBatches},
	{"WatchRunsBeforeUpdateReturns", watchRunsBeforeUpdateReturns},
	{"WatchBeginsAfterARevision", watchBeginsAfter},
	{"WatchMissesAndDoublesNothing", watchMissesNothing},
	{"WatchMayView", watchMayView},
	{"WatchEndsWithContext", watchEndsWithContext},
	{"WatchEndsWithItsError", watchEndsWithItsError},
	{"WatchPanicReachesItsCaller", watchPanic},
	{"WatchOfUnknownRevision", watchOfUnknownRevision},
	{"CacheFillRace", cacheFillRace},
	{"CacheUnderLoad", cacheUnderLoad},
	{"ContextEndsUpdate", contextEndsUpdate},
	{"ContextEndsView", contextEndsView},
	{"KeptReaderIsClosed", keptReaderIsClosed},
	{"ClosedStoreRefuses", closedStoreRefuses},
	{"CloseWaitsForViews", closeWaitsForViews},
	{"CloseWaitsForUpdates", closeWaitsForUpdates},
	{"CloseEndsWatches", closeEndsWatches},
}

// Run holds the stores that open makes to the contract, in parallel subtests.
func Run(t *testing.T, open Open) {
	for _, c := range suite {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { closeStore(t, s) })
			c.test(t, s)
		})
	}
	t.Run("BehavesLikeItsModel", func(t *testing.T) {
		t.Parallel()
		behavesLikeItsModel(t, open)
	})
}

// closeStore closes s, which may be closed already.
func closeStore(t *testing.T, s keystore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// row returns the i-th name of a test, in the order of i.
func row(i int) keystore.Name {
	return keystore.MakeName(keystore.SpaceAlias, "test", string(binary.BigEndian.AppendUint32(nil, uint32(i))))
}

// update runs f and fails the test when Update does.
func update(t *testing.T, s keystore.Store, f func(keystore.Tx) error) keystore.Revision {
	t.Helper()
	r, err := s.Update(context.Background(), f)
	if err != nil {
		t.Errorf("Update: %v", err)
	}
	return r
}

// put writes one row.
func put(t *testing.T, s keystore.Store, n keystore.Name, value string) keystore.Revision {
	t.Helper()
	return update(t, s, func(tx keystore.Tx) error { return tx.Put(n, []byte(value)) })
}

// view runs f and fails the test when View does.
func view(t *testing.T, s keystore.Store, f func(keystore.Reader) error) {
	t.Helper()
	if err := s.View(context.Background(), f); err != nil {
		t.Errorf("View: %v", err)
	}
}

// getter is what Reader and Tx share.
type getter interface {
	Get(keystore.Name) ([]byte, error)
}

// expect returns an error unless the row has the value; "-" is no row.
func expect(g getter, n keystore.Name, want string) error {
	got, err := g.Get(n)
	if errors.Is(err, keystore.ErrNotFound) {
		got, err = []byte("-"), nil
	}
	if err != nil {
		return err
	}
	if string(got) != want {
		return fmt.Errorf("%s = %q, want %q", n, got, want)
	}
	return nil
}

// expectRow checks a row in a View of its own.
func expectRow(t *testing.T, s keystore.Store, n keystore.Name, want string) {
	t.Helper()
	view(t, s, func(r keystore.Reader) error { return expect(r, n, want) })
}

// add adds to a row that holds a number.
func add(tx keystore.Tx, n keystore.Name, d int64) error {
	v, err := number(tx, n)
	if err != nil {
		return err
	}
	return tx.Put(n, binary.BigEndian.AppendUint64(nil, uint64(v+d)))
}

// number reads a row that holds a number, 0 when there is none.
func number(g getter, n keystore.Name) (int64, error) {
	v, err := g.Get(n)
	if errors.Is(err, keystore.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%s holds %d bytes, want a number of 8", n, len(v))
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

// collect returns the names of a Scan and checks their order and that Get agrees with the Scan.
func collect(r keystore.Reader, lo, hi keystore.Name) (names []keystore.Name, err error) {
	for e, err := range r.Scan(lo, hi) {
		if err != nil {
			return nil, err
		}
		if err := expect(r, e.Name, string(e.Value)); err != nil {
			return nil, err
		}
		names = append(names, e.Name)
	}
	if !slices.IsSortedFunc(names, keystore.Name.Compare) {
		return nil, errors.New("the Scan is out of order")
	}
	return names, nil
}
