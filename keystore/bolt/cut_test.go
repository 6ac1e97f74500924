package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/bolt"
	"go.etcd.io/bbolt"
)

// TestMain lets the test binary stand in for a process that is killed, or whose files may not grow.
func TestMain(m *testing.M) {
	role, path, _ := strings.Cut(os.Getenv("KEYRACK_BOLT_TEST"), ":")
	switch role {
	case "count":
		exit(count(path))
	case "grow", "write":
		exit(fill(path, role))
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child returns this binary in another role.
func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "KEYRACK_BOLT_TEST="+role+":"+path)
	return cmd
}

// counters each have this many rows, changed in one transaction.
const counters, rowsOfOne = 4, 5

// count counts up for ever, in all counters at once, and prints "counter number" once it is durable.
func count(path string) error {
	s, err := bolt.Open(path)
	if err != nil {
		return err
	}
	var done sync.WaitGroup
	failed := make(chan error, counters)
	for c := range counters {
		done.Go(func() {
			n, err := counted(s, c)
			for err == nil {
				n++
				if _, err = put(s, rowsOfOne*c, values(n)...); err == nil {
					_, err = fmt.Printf("%d %d\n", c, n)
				}
			}
			failed <- err
		})
	}
	return <-failed
}

// values are what a counter's rows hold: each a number and something that makes them long.
func values(n int) (list []string) {
	for i := range rowsOfOne {
		list = append(list, fmt.Sprintf("%d %s", n, strings.Repeat("-", (n*(i+1)*700)%6000)))
	}
	return list
}

// counted reads a counter, whose rows must agree.
func counted(s keystore.Store, c int) (n int, err error) {
	err = s.View(context.Background(), func(r keystore.Reader) error {
		for i := range rowsOfOne {
			v, err := r.Get(name(rowsOfOne*c + i))
			if errors.Is(err, keystore.ErrNotFound) {
				v, err = []byte("0 "), nil
			}
			if err != nil {
				return err
			}
			number, _, _ := bytes.Cut(v, []byte(" "))
			got, err := strconv.Atoi(string(number))
			if err != nil || i > 0 && got != n {
				return fmt.Errorf("counter %d: row %d has %d, others %d: %v", c, i, got, n, err)
			}
			n = got
		}
		return nil
	})
	return n, err
}

// TestKill kills a process that commits, twenty times, at any moment: what it had acknowledged is
// there, what it had not is there as a whole or not at all.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	closeStore(t, create(t, path))
	random := rand.New(rand.NewPCG(5, 6))
	last := make([]int, counters)
	for range 20 {
		cmd := child(t, "count", path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		lines, left := bufio.NewScanner(out), 5+random.IntN(60)
		for lines.Scan() {
			var c, n int
			if _, err := fmt.Sscanf(lines.Text(), "%d %d", &c, &n); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			last[c] = n
			if left--; left == 0 {
				check(t, cmd.Process.Kill())
			}
		}
		cmd.Wait()
		if left > 0 {
			t.Fatal("the process ended before it was killed")
		}
		s := open(t, path)
		for c := range counters {
			n, err := counted(s, c)
			if err != nil || n != last[c] && n != last[c]+1 {
				t.Errorf("counter %d is %d, %v after %d was acknowledged", c, n, err, last[c])
			}
			last[c] = n
		}
		closeStore(t, s)
	}
}

// fill commits until its files may not be longer, then is allowed to go on. In the role grow the
// limit is met where bolt extends the file, in the role write where it writes pages into an extended
// one.
func fill(path, role string) error {
	signal.Ignore(syscall.SIGXFSZ) // with EFBIG as its error, which is as good as ENOSPC
	s, err := bolt.Create(path)
	if err != nil {
		return err
	}
	written, limit := 0, uint64(40<<10)
	if role == "write" {
		written, limit = 5, uint64(300<<10)
		for i := range written {
			if _, err := put(s, i, long(i)); err != nil {
				return err
			}
		}
	}
	if err := limitFiles(limit); err != nil {
		return err
	}
	for ; written < 1000 && err == nil; written++ {
		_, err = put(s, written, long(written))
	}
	if written--; !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), path) {
		return fmt.Errorf("after %d rows: got %v, want EFBIG and the file", written, err)
	}
	if _, err = put(s, written, long(written)); !errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("once more: got %v, want EFBIG", err)
	}
	if err := holds(s, written); err != nil {
		return err
	}
	if err := limitFiles(1 << 30); err != nil {
		return err
	}
	for range 20 {
		if _, err := put(s, written, long(written)); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
		written++
	}
	if err := errors.Join(holds(s, written), s.Close()); err != nil {
		return err
	}
	if s, err = bolt.Open(path); err != nil {
		return err
	}
	return errors.Join(holds(s, written), s.Close())
}

func long(i int) string { return fmt.Sprint(i, strings.Repeat(" long", 2000)) }

func limitFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	limit.Cur = n
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}

// holds checks that the first n rows are there and no more.
func holds(s keystore.Store, n int) error {
	rows, at, err := scan(s)
	if err != nil || len(rows) != n || int(at) != n {
		return fmt.Errorf("%d rows at %d, %v, want %d", len(rows), at, err, n)
	}
	for i := range n {
		if rows[name(i)] != long(i) {
			return fmt.Errorf("row %d is wrong", i)
		}
	}
	return nil
}

// TestFull: nothing is lost, the error says what it is, and with room again the store goes on.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"grow", "write"} {
		out, err := child(t, role, filepath.Join(t.TempDir(), "store.db")).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", role, err, out)
		}
	}
}

// TestCommitFails: after an error that leaves the end of a commit open nothing is answered any more,
// not even what a failed sync seems to have left; a store that is opened again knows.
func TestCommitFails(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		end  func(path string, tx *bbolt.Tx) error
		want error
		now  string
	}{
		"sync of rows":      {func(path string, tx *bbolt.Tx) error { return errors.Join(syscall.EIO, tx.Rollback()) }, syscall.EIO, "old"},
		"sync of meta":      {func(path string, tx *bbolt.Tx) error { return errors.Join(tx.Commit(), syscall.EIO) }, syscall.EIO, "new"},
		"no room for meta":  {func(path string, tx *bbolt.Tx) error { return errors.Join(tx.Commit(), syscall.ENOSPC) }, syscall.ENOSPC, "new"},
		"panic, locks held": {func(path string, tx *bbolt.Tx) error { panic("impossible page") }, bolt.ErrDamaged, "old"},
		"fault": {func(path string, tx *bbolt.Tx) error {
			check(t, os.Truncate(path, 0))
			_, err := tx.WriteTo(io.Discard)
			tx.Bucket([]byte("rows")).Put([]byte("x"), nil)
			return errors.Join(err, tx.Commit())
		}, bolt.ErrDamaged, ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			s := create(t, path)
			mustPut(t, s, 1, "old", strings.Repeat("more than fits beside the header", 100))
			s.EndWith(func(tx *bbolt.Tx) error { return c.end(path, tx) })
			_, err := put(s, 1, "new")
			wantError(t, "Update", err, bolt.ErrStopped)
			wantError(t, "Update", err, c.want)
			s.EndWith((*bbolt.Tx).Commit)
			_, err = put(s, 1, "newer")
			wantError(t, "next Update", err, bolt.ErrStopped)
			_, err = get(s, 1)
			wantError(t, "View", err, bolt.ErrStopped)
			closeStore(t, s)
			if c.now == "" {
				return
			}
			s = open(t, path)
			defer closeStore(t, s)
			if v, err := get(s, 1); v != c.now || err != nil {
				t.Errorf("opened again: %q, %v, want %q", v, err, c.now)
			}
			mustPut(t, s, 1, "goes on")
		})
	}
}

// TestFullOnce: no room before the meta page was written costs that commit alone.
func TestFullOnce(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, fmt.Errorf("resize: %s", syscall.ENOSPC)} {
		path := filepath.Join(t.TempDir(), "store.db")
		s := create(t, path)
		mustPut(t, s, 1, "old")
		s.EndWith(func(tx *bbolt.Tx) error { check(t, tx.Rollback()); return cause })
		_, err := put(s, 1, "new")
		if !errors.Is(err, keystore.ErrFull) || !strings.Contains(err.Error(), path) || errors.Is(err, bolt.ErrStopped) {
			t.Errorf("%v: got %v, want the file and a way out", cause, err)
		}
		s.EndWith((*bbolt.Tx).Commit)
		if v, err := get(s, 1); v != "old" || err != nil {
			t.Errorf("%v: %q, %v are left", cause, v, err)
		}
		if r := mustPut(t, s, 1, "next"); r != 2 {
			t.Errorf("revision %d, want 2", r)
		}
		closeStore(t, s)
	}
}

// TestCommitsAreSynced: a process that is killed leaves what the kernel has; only a power cut would
// show that bolt was told not to sync.
func TestCommitsAreSynced(t *testing.T) {
	t.Parallel()
	s := create(t, filepath.Join(t.TempDir(), "store.db"))
	defer closeStore(t, s)
	s.EndWith(func(tx *bbolt.Tx) error {
		if db := tx.DB(); db.NoSync || db.NoGrowSync || db.NoFreelistSync {
			t.Errorf("bolt syncs: rows %v, growth %v, freelist %v", !db.NoSync, !db.NoGrowSync, !db.NoFreelistSync)
		}
		return tx.Commit()
	})
	mustPut(t, s, 1, "v")
}
