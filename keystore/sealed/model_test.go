package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/keystore/sealed"
	"pgregory.net/rapid"
)

// machine is a store beside what it should hold, through restarts and rotations.
type machine struct {
	t     *testing.T
	below keystore.Memory
	store *sealed.Store
	rows  map[keystore.Name]string

	from, to byte // versions of the domain key; equal at rest
	steps    uint64
	spread   int // of the names
}

// TestBehavesLikeItsModel plays writes, restarts, rotations and renewals of which any number of steps is made.
func TestBehavesLikeItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		m := &machine{t: t, below: keystore.NewMemory(), rows: make(map[keystore.Name]string), from: 1, to: 1, steps: 1}
		m.spread = rapid.SampledFrom([]int{1, 2, 1 << 16}).Draw(r, "buckets")
		defer m.below.Close()
		if err := sealed.Create(t.Context(), m.below, theKeys, theAppliance, theNode); err != nil {
			r.Fatal(err)
		}
		m.reopen(r)
		defer func() { m.store.Close() }()
		r.Repeat(map[string]func(*rapid.T){
			"write": m.write, "fail": m.fail, "reopen": func(r *rapid.T) { m.store.Close(); m.reopen(r) },
			"rekey": m.rekey, "rewrap": m.rewrap, "retire": m.retire, "renew": m.renew, "renew in part": m.renewPart, "": m.check,
		})
	})
}

func (m *machine) reopen(r *rapid.T) {
	keys := domainKeys{uint32(m.from): keysOf[uint32((m.from-1)%4+1)], uint32(m.to): keysOf[uint32((m.to-1)%4+1)]}
	var err error
	if m.store, err = sealed.Open(m.t.Context(), lent{m.below}, keys, theAppliance, theNode); err != nil {
		r.Fatal(err)
	}
	m.store.Spread(m.spread)
}

// play writes random rows, many of them in few buckets' worth of names.
func (m *machine) play(r *rapid.T, tx keystore.Tx) (map[keystore.Name]string, bool, error) {
	rows, dirty := maps.Clone(m.rows), false
	for range rapid.IntRange(0, 6).Draw(r, "writes") {
		n := name(rapid.IntRange(0, 12).Draw(r, "row"))
		_, was := rows[n]
		if rapid.Bool().Draw(r, "delete") {
			delete(rows, n)
			if err := tx.Delete(n); err != nil {
				return nil, false, err
			}
			dirty = dirty || was
			continue
		}
		rows[n] = rapid.StringN(0, 5, 8).Draw(r, "value")
		if err := tx.Put(n, []byte(rows[n])); err != nil {
			return nil, false, err
		}
		dirty = true
	}
	return rows, dirty, nil
}

func (m *machine) write(r *rapid.T) {
	var rows map[keystore.Name]string
	_, err := m.store.Update(m.t.Context(), func(tx keystore.Tx) (err error) {
		rows, _, err = m.play(r, tx)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	m.rows = rows
}

func (m *machine) fail(r *rapid.T) {
	failure := errors.New("on purpose")
	_, err := m.store.Update(m.t.Context(), func(tx keystore.Tx) error {
		_, _, err := m.play(r, tx)
		return errors.Join(err, failure)
	})
	if !errors.Is(err, failure) {
		r.Fatal(err)
	}
}

func (m *machine) rekey(r *rapid.T) {
	rows := m.rows
	next := m.to + 1
	key := keysOf.only(uint32((next-1)%4 + 1))
	err := m.store.Rekey(m.t.Context(), uint32(next), key, func(sealed, _ keystore.Tx) (err error) {
		rows, _, err = m.play(r, sealed)
		return err
	})
	switch {
	case m.from != m.to:
		if !errors.Is(err, sealed.ErrRotation) {
			r.Fatalf("Rekey in a rotation: %v", err)
		}
	case err != nil:
		r.Fatal(err)
	default:
		m.to, m.rows = next, rows
	}
}

func (m *machine) rewrap(r *rapid.T) {
	before := m.store.State().Left
	left, err := m.store.Rewrap(m.t.Context())
	if err != nil || left != max(0, before-32) || left != m.store.State().Left {
		r.Fatalf("Rewrap: %d of %d left, %v", left, before, err)
	}
}

func (m *machine) retire(r *rapid.T) {
	rows, left := m.rows, m.store.State().Left
	err := m.store.Retire(m.t.Context(), func(sealed, _ keystore.Tx) (err error) {
		rows, _, err = m.play(r, sealed)
		return err
	})
	switch {
	case m.from == m.to || left > 0:
		if !errors.Is(err, sealed.ErrRotation) {
			r.Fatalf("Retire: %v", err)
		}
	case err != nil:
		r.Fatal(err)
	default:
		m.from, m.rows = m.to, rows
	}
}

func (m *machine) renew(r *rapid.T) {
	n := name(rapid.IntRange(0, 12).Draw(r, "row"))
	before, err := m.store.BucketKey(m.t.Context(), n)
	if err != nil {
		r.Fatal(err)
	}
	if err := m.store.Renew(m.t.Context(), []keystore.Name{n}); err != nil {
		r.Fatal(err)
	}
	if after, err := m.store.BucketKey(m.t.Context(), n); err != nil || before != nil && bytes.Equal(before, after) {
		r.Fatalf("the key of the bucket stayed, or %v", err)
	}
}

// renewPart leaves the renewal of a bucket behind somewhere on its way.
func (m *machine) renewPart(r *rapid.T) {
	var names []keystore.Name
	for i := range 13 {
		if n := name(i); m.rows[n] != "" && rapid.Bool().Draw(r, "move") {
			names = append(names, n)
		}
	}
	if err := m.store.RenewPart(m.t.Context(), name(rapid.IntRange(0, 12).Draw(r, "row")), names); err != nil {
		r.Fatal(err)
	}
}

// check compares everything after each action.
func (m *machine) check(r *rapid.T) {
	report, err := m.store.Check(m.t.Context(), nil)
	state := m.store.State()
	if err != nil || len(report.Problems) > 0 || report.Rows != len(m.rows) || state.Rows != len(m.rows) || report.Buckets != state.Buckets {
		r.Fatalf("Check: %+v, %v; want %d rows; state %+v", report, err, len(m.rows), state)
	}
	if state.Generation < m.steps || fmt.Sprint(state.Versions) != fmt.Sprint(m.versions()) {
		r.Fatalf("state %+v after generation %d, want versions %v", state, m.steps, m.versions())
	}
	m.steps = state.Generation
	if versions, floors := m.store.Known(); versions != 1 || floors != 0 {
		r.Fatalf("%d versions known, %d floors", versions, floors)
	}
	read := func(get func(keystore.Name) ([]byte, error)) error {
		for i := range 13 {
			got, err := get(name(i))
			want, is := m.rows[name(i)]
			if is != (err == nil) || string(got) != want || !is && !errors.Is(err, keystore.ErrNotFound) {
				return fmt.Errorf("row %d: %q, %v, want %q, %v", i, got, err, want, is)
			}
		}
		return nil
	}
	_, err = m.store.Update(m.t.Context(), func(tx keystore.Tx) error { return read(tx.Get) })
	if err = errors.Join(err, m.store.View(m.t.Context(), func(v keystore.Reader) error { return read(v.Get) })); err != nil {
		r.Fatal(err)
	}
}

func (m *machine) versions() []uint32 {
	if m.from == m.to {
		return []uint32{uint32(m.to)}
	}
	return []uint32{uint32(m.from), uint32(m.to)}
}
