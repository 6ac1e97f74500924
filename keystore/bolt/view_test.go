package bolt_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"go.etcd.io/bbolt"
)

// hold keeps a View open until release is called, and checks then that it still shows one state.
func hold(t *testing.T, s keystore.Store) (release func()) {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		err := s.View(context.Background(), func(r keystore.Reader) error {
			close(entered)
			<-leave
			v, err := r.Get(name(0))
			if string(v) != "here" {
				err = errors.Join(err, errors.New("the View changed"))
			}
			for e, other := range r.Scan(keystore.Name{}, keystore.Name{}) {
				if err = errors.Join(err, other); err == nil && e.Name != name(0) {
					err = errors.New("the View shows what came later")
				}
			}
			return err
		})
		if err != nil {
			t.Errorf("View: %v", err)
		}
	})
	<-entered
	return func() { close(leave); done.Wait() }
}

// megabyte commits almost one.
func megabyte(s keystore.Store, i int) error {
	values := make([]string, 7)
	for j := range values {
		values[j] = strings.Repeat("v", keystore.MaxValue)
	}
	_, err := put(s, 1+7*i, values...)
	return err
}

// TestViewDelaysNoCommit: the file grows a thousandfold under an open View. A mapping that began with
// the size of the file would have to be renewed many times, and wait for the View each time.
func TestViewDelaysNoCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	closeStore(t, create(t, path))
	s := open(t, path)
	defer closeStore(t, s)
	mustPut(t, s, 0, "here")
	release := hold(t, s)
	for i := range 20 {
		check(t, megabyte(s, i))
	}
	release()
}

// TestMappingIsOutgrown: the commit that needs a larger mapping waits for the View that is open, and
// goes on after it.
func TestMappingIsOutgrown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	closeStore(t, create(t, path))
	s, err := bolt.OpenMapped(path, 16<<20)
	check(t, err)
	defer closeStore(t, s)
	mustPut(t, s, 0, "here")
	release := hold(t, s)
	half := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := range 24 {
			if i == 10 {
				close(half)
			}
			if err := megabyte(s, i); err != nil {
				t.Errorf("Update: %v", err)
			}
		}
	})
	<-half
	release()
	done.Wait()
	if v, err := get(s, 7*24); len(v) != keystore.MaxValue || err != nil {
		t.Errorf("the last row has %d bytes, %v", len(v), err)
	}
}

// TestViewIsOvertaken lets a commit end between the look at the newest state and the hold on it: the
// View must not show a state that nobody holds.
func TestViewIsOvertaken(t *testing.T) {
	t.Parallel()
	s := create(t, filepath.Join(t.TempDir(), "store.db"))
	defer closeStore(t, s)
	mustPut(t, s, 0, strings.Repeat("long", 2000))
	ending, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.EndWith(func(tx *bbolt.Tx) error {
		defer close(ended)
		close(ending)
		<-goOn
		return tx.Commit()
	})
	var done sync.WaitGroup
	done.Go(func() { mustPut(t, s, 0, "new") })
	<-ending
	var once sync.Once
	s.BeginWith(func() { once.Do(func() { close(goOn); <-ended }) })
	err := s.View(context.Background(), func(r keystore.Reader) error {
		v, err := r.Get(name(0))
		if string(v) != "new" || r.Revision() != 2 {
			t.Errorf("the View shows %.8q of revision %d, and holds revision 2", v, r.Revision())
		}
		return err
	})
	check(t, err)
	done.Wait()
}
