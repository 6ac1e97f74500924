package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"pgregory.net/rapid"
)

// modelRows is how many names the model plays with: few, so that its actions meet.
const modelRows = 8

// model is a store beside what it should hold. Index i stands for row(i).
type model struct {
	store    keystore.Store
	rows     map[int]string
	revision keystore.Revision
	changes  []change // everything a Watch from the beginning should have delivered
	watch    *follower
}

// behavesLikeItsModel plays random transactions, scans and watches against a map.
func behavesLikeItsModel(t *testing.T, open Open) {
	rapid.Check(t, func(r *rapid.T) {
		s := open(t)
		defer closeStore(t, s)
		m := &model{store: s, rows: make(map[int]string), watch: follow(t, s, 0)}
		r.Repeat(map[string]func(*rapid.T){
			"update":      m.update,
			"fail update": m.failUpdate,
			"scan":        m.scan,
			"watch":       func(r *rapid.T) { m.watchAgain(t, r) },
			"":            m.check,
		})
		m.watch.stop(t)
	})
}

// step is one thing a transaction does to a row.
type step struct {
	do    string
	row   int
	value string
}

var steps = rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
	return step{
		rapid.SampledFrom([]string{"get", "put", "delete"}).Draw(r, "do"),
		rapid.IntRange(0, modelRows-1).Draw(r, "row"),
		rapid.StringN(0, 8, 20).Draw(r, "value"),
	}
}), 0, 6)

// apply plays steps on a transaction and on a copy of the model's rows at once.
func (m *model) apply(tx keystore.Tx, steps []step) (map[int]string, error) {
	rows := maps.Clone(m.rows)
	for _, s := range steps {
		var err error
		switch s.do {
		case "get":
			err = expect(tx, row(s.row), or(rows, s.row))
		case "put":
			rows[s.row] = s.value
			err = tx.Put(row(s.row), []byte(s.value))
		case "delete":
			delete(rows, s.row)
			err = tx.Delete(row(s.row))
		}
		if err != nil {
			return nil, fmt.Errorf("%s of row %d: %w", s.do, s.row, err)
		}
	}
	return rows, nil
}

// or returns the row as expect writes it.
func or(rows map[int]string, i int) string {
	if v, ok := rows[i]; ok {
		return v
	}
	return "-"
}

// update plays a transaction that succeeds on store and model.
func (m *model) update(r *rapid.T) {
	todo := steps.Draw(r, "steps")
	var rows map[int]string
	revision, err := m.store.Update(context.Background(), func(tx keystore.Tx) (err error) {
		rows, err = m.apply(tx, todo)
		return err
	})
	if err != nil {
		r.Fatalf("Update: %v", err)
	}
	if revision < m.revision {
		r.Fatalf("revision went from %d to %d", m.revision, revision)
	}
	m.commit(rows, todo, revision)
}

// commit notes what a Watch should tell: rows that were put, and rows that were there and are no
// longer.
func (m *model) commit(rows map[int]string, todo []step, revision keystore.Revision) {
	last := make(map[int]string)
	for _, s := range todo {
		if s.do != "get" {
			last[s.row] = s.do
		}
	}
	for _, i := range slices.Sorted(maps.Keys(last)) {
		_, was := m.rows[i]
		if last[i] == "put" || was {
			m.changes = append(m.changes, change{revision, row(i), last[i] == "delete"})
		}
	}
	m.rows, m.revision = rows, revision
}

// failUpdate: whatever the function did before it failed is not there.
func (m *model) failUpdate(r *rapid.T) {
	failure := errors.New("on purpose")
	todo := steps.Draw(r, "steps")
	_, err := m.store.Update(context.Background(), func(tx keystore.Tx) error {
		_, err := m.apply(tx, todo)
		return errors.Join(err, failure)
	})
	if !errors.Is(err, failure) {
		r.Fatalf("got error %v, want the function's own", err)
	}
}

// scan compares a random range.
func (m *model) scan(r *rapid.T) {
	lo, hi := rapid.IntRange(0, modelRows).Draw(r, "lo"), rapid.IntRange(0, modelRows).Draw(r, "hi")
	var want []keystore.Name
	for _, i := range slices.Sorted(maps.Keys(m.rows)) {
		if i >= lo && i < hi {
			want = append(want, row(i))
		}
	}
	err := m.store.View(context.Background(), func(reader keystore.Reader) error {
		got, err := collect(reader, row(lo), row(hi))
		if !slices.Equal(got, want) {
			err = errors.Join(err, fmt.Errorf("rows %d to %d: got %v, want %v", lo, hi, got, want))
		}
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

// watchAgain replaces the watcher by one that begins after an older revision and must deliver the
// rest once more.
func (m *model) watchAgain(t *testing.T, r *rapid.T) {
	m.watch.stop(t)
	from := 0
	if len(m.changes) > 0 {
		from = rapid.IntRange(0, len(m.changes)).Draw(r, "from")
	}
	after := m.revision
	if from < len(m.changes) {
		after = m.changes[from].revision - 1
	}
	m.changes = slices.DeleteFunc(m.changes, func(c change) bool { return c.revision <= after })
	m.watch = follow(t, m.store, after)
}

// check compares everything after each action.
func (m *model) check(r *rapid.T) {
	m.watch.mu.Lock()
	defer m.watch.mu.Unlock()
	if !slices.Equal(m.watch.seen, m.changes) {
		r.Fatalf("watched %v, want %v", m.watch.seen, m.changes)
	}
	err := m.store.View(context.Background(), func(reader keystore.Reader) (err error) {
		for i := range modelRows {
			err = errors.Join(err, expect(reader, row(i), or(m.rows, i)))
		}
		if reader.Revision() < m.revision {
			err = errors.Join(err, fmt.Errorf("read at %d after an Update at %d", reader.Revision(), m.revision))
		}
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}
