package access_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
)

// machine is what outlives a process: a store, the audit log's files and key.
type machine struct {
	tb    testing.TB
	key   *ecdsa.PrivateKey
	disk  *racktest.Platter
	store keystore.Store
	lost  bool // with a process goes what it did not sync
	keeps audit.Durability
}

func newMachine(tb testing.TB) *machine {
	return &machine{tb: tb, key: newKey(tb), disk: racktest.NewPlatter(), store: keystore.NewMemory()}
}

const forEver = 1 << 60

// run starts a process that lives for so many uses of the disk and the store,
// runs f in it, kills it, and reports whether it lived until f had returned nil.
func (m *machine) run(life int, f func(r *rig, store keystore.Store) error) (whole bool) {
	m.tb.Helper()
	p := racktest.NewPower(life)
	r, err := openRig(m.tb, m.key, func(c *audit.Config) {
		c.Files, c.SegmentBytes, c.Durability, c.CheckpointEvery = m.disk.In(p), 16<<10, m.keeps, time.Millisecond
	})
	if err == nil {
		err = f(r, mortalStore{m.store, p})
	}
	if dead := p.Off(); err != nil && !dead {
		m.tb.Fatal(err)
	}
	if r != nil {
		r.log.Close(context.Background())
	}
	if m.lost {
		m.disk.Lose()
	}
	return err == nil
}

// recover starts and kills processes that recover, until one has done it, and
// returns how many were killed.
func (m *machine) recover(rnd *rand.Rand) (killed int) {
	m.tb.Helper()
	for !m.run(5+rnd.IntN(20), recoverOutbox) {
		killed++
	}
	return killed
}

func recoverOutbox(r *rig, store keystore.Store) error {
	_, err := r.Recover(r.tb.Context(), store)
	return err
}

func outboxName(event [16]byte) keystore.Name {
	return keystore.MakeName(keystore.SpaceOutbox, string(event[:]))
}

func changed(name string) keystore.Name {
	return keystore.MakeName(keystore.SpaceAlias, "111122223333", name)
}

// change makes one change, named and answered, or returns why there is no answer.
func (r *rig) change(store keystore.Store, name string) error {
	s, held := r.unanswered(store, name)
	defer s.Close()
	h := held()
	defer h.Release()
	_, err := h.Bytes(r.tb.Context())
	return err
}

// unanswered makes one change whose record has not left its session.
func (r *rig) unanswered(store keystore.Store, name string) (s *access.Session, flush func() access.Held) {
	r.advance(time.Millisecond)
	route := access.Handle(r.Gate, change, func(c *access.Call, in *ask, _ *answer) error {
		if err := c.Admit(thing{}); err != nil {
			return err
		}
		if err := c.Need(work.Store); err != nil {
			return err
		}
		return c.Update(store, func(tx keystore.Tx) error { return tx.Put(changed(in.Name), nil) })
	})
	body := change.In.AppendCBOR(nil, &ask{Name: name})
	s = r.Session(r.tb.Context(), identity.Always(root), "test")
	c := s.Call(7)
	if route.Serve(c, protocol.Native{}, body) != work.None {
		route.Serve(s.Again(r.tb.Context(), c.Ticket()), protocol.Native{}, body)
	}
	return s, func() access.Held { return s.Flush(false) }
}

// check says of each change that the store has whether the log has it once, of
// others that it has not, and that the log has them in their order.
func (m *machine) check(names []string) {
	m.tb.Helper()
	outbox, made := m.rows()
	if len(outbox) > 0 {
		m.tb.Errorf("%d rows are left in the outbox", len(outbox))
	}
	var logged []string
	m.run(forEver, func(r *rig, _ keystore.Store) error {
		for _, rec := range r.records() {
			if rec.Op == change.Number && rec.Error == 0 {
				logged = append(logged, nameIn(rec))
			}
		}
		return nil
	})
	var want []string
	for _, name := range names {
		if made[changed(name)] {
			want = append(want, name)
		}
	}
	if got, want := strings.Join(logged, " "), strings.Join(want, " "); got != want {
		m.tb.Errorf("changes in the log:   %s\nchanges in the store: %s", got, want)
	}
}

// nameIn returns the member Name of the request of a recorded change.
func nameIn(rec audit.Record) string { return string(rec.Request[len(rec.Request)-5:]) }

func (m *machine) rows() (outbox [][]byte, made map[keystore.Name]bool) {
	m.tb.Helper()
	made = map[keystore.Name]bool{}
	err := m.store.View(m.tb.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			if made[e.Name] = true; e.Name.Space() == keystore.SpaceOutbox {
				outbox = append(outbox, bytes.Clone(e.Value))
			}
		}
		return nil
	})
	if err != nil {
		m.tb.Fatal(err)
	}
	return outbox, made
}

func manyNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%05d", i))
	}
	return names
}

// TestEveryChangeHasOneRecord kills a process at each of its steps, and those
// that recover after it at some of theirs.
func TestEveryChangeHasOneRecord(t *testing.T) {
	t.Parallel()
	names := manyNames(7)
	for _, way := range []machine{{}, {lost: true}, {keeps: audit.Written}, {keeps: audit.Written, lost: true}} {
		t.Run(fmt.Sprintf("%v lost=%t", way.keeps, way.lost), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(1, 2))
			killed, half, whole := 0, 0, false
			for life := 1; !whole; life++ {
				m := newMachine(t)
				m.lost, m.keeps = way.lost, way.keeps
				whole = m.run(life, func(r *rig, store keystore.Store) error { return changeAll(r, store, names) })
				if outbox, _ := m.rows(); len(outbox) > 0 {
					half++
				}
				killed += m.recover(rnd)
				m.check(names)
			}
			if half < 10 || killed < 20 {
				t.Errorf("%d processes left something to recover, %d that recovered were killed", half, killed)
			}
		})
	}
}

// changeAll makes changes, of which the last three wait for each other's sync,
// and drops the rows of others.
func changeAll(r *rig, store keystore.Store, names []string) error {
	for i, name := range names[:4] {
		if err := r.change(store, name); err != nil {
			return err
		}
		if i == 2 { // and perhaps a checkpoint has come
			access.Keep(r.tb.Context(), r.Gate, false)
		}
	}
	var last access.Held
	for _, name := range names[4:] {
		s, flush := r.unanswered(store, name)
		defer s.Close()
		last = flush()
	}
	_, err := last.Bytes(r.tb.Context())
	return err
}

// TestRecoverALogThatLostItsEnd: what a row says of the place of its record no
// longer holds, and nothing is recorded twice all the same.
func TestRecoverALogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	names := manyNames(20)
	killed := 0
	for seed := range uint64(20) {
		m := newMachine(t)
		m.run(forEver, func(r *rig, store keystore.Store) error {
			if err := r.fill(30); err != nil {
				return err
			}
			for _, name := range names {
				if err := r.change(store, name); err != nil {
					return err
				}
			}
			return nil
		})
		m.disk = racktest.NewPlatter()
		killed += m.recover(rand.New(rand.NewPCG(seed, 0)))
		m.check(names)
	}
	if killed < 20 {
		t.Errorf("only %d processes were killed", killed)
	}
}

// fill appends records of nothing to the log.
func (r *rig) fill(n int) error {
	var t audit.Trail
	for range n {
		t.Add(&audit.Record{Time: 1})
	}
	at, err := r.log.Append(&t, false)
	if err != nil {
		return err
	}
	return r.log.Wait(r.tb.Context(), at)
}

// TestRecoverThousands: more rows than are held at once, in an order that has
// nothing to do with their names.
func TestRecoverThousands(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	names := manyNames(10_000)
	for _, i := range rand.Perm(len(names)) {
		event := [16]byte{byte(i * 7), byte(i >> 8), byte(i)}
		rec := audit.Record{Event: event, Time: int64(1000 + i%5000), Op: change.Number, Request: append([]byte{0xa1, 1, 0x65}, names[i]...)}
		value := audit.AppendRecord(binary.BigEndian.AppendUint64(nil, uint64(i/5000)), &rec)
		m.put(outboxName(event), value)
		m.put(changed(names[i]), nil)
	}
	m.count(len(names))
	m.run(forEver, func(r *rig, store keystore.Store) error {
		n, err := r.Recover(t.Context(), store)
		if n != len(names) {
			t.Errorf("recovered %d records", n)
		}
		if again, err := r.Recover(t.Context(), store); again != 0 || err != nil {
			t.Errorf("and %d again: %v", again, err)
		}
		return err
	})
	m.check(names)
}

func (m *machine) remove(n keystore.Name) {
	_, err := m.store.Update(m.tb.Context(), func(tx keystore.Tx) error { return tx.Delete(n) })
	if err != nil {
		m.tb.Fatal(err)
	}
}

// count makes the row that counts say what it would.
func (m *machine) count(rows int) {
	m.put(keystore.MakeName(keystore.SpaceOutboxCount), binary.BigEndian.AppendUint64(nil, uint64(rows)))
}

func (m *machine) put(n keystore.Name, value []byte) {
	m.tb.Helper()
	if _, err := m.store.Update(m.tb.Context(), func(tx keystore.Tx) error { return tx.Put(n, value) }); err != nil {
		m.tb.Fatal(err)
	}
}

// TestRecoverReadsTheLogsEndOnly: the part of the log before the first row is
// not looked at, but for the one look of the log's start whether a file was cut.
func TestRecoverReadsTheLogsEndOnly(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run(forEver, func(r *rig, store keystore.Store) error {
		for r.log.State().Segments < 4 {
			if err := r.change(store, "00000"); err != nil {
				return err
			}
			access.Keep(t.Context(), r.Gate, false)
		}
		s, _ := r.unanswered(store, "00001")
		t.Cleanup(s.Close)
		return nil
	})
	m.run(forEver, func(r *rig, store keystore.Store) error {
		m.disk.ForgetReads()
		n, err := r.Recover(t.Context(), store)
		for segment := range 3 {
			if reads := m.disk.Reads(fmt.Sprintf("%016d.seg", segment)); reads > 1 || n != 1 {
				t.Errorf("%d records recovered; segment %d was read %d times", n, segment, reads)
			}
		}
		return err
	})
}

// TestRecoverMissesRows: somebody took a row away beneath the store, so that a
// change would have no record; or the row that counts.
func TestRecoverMissesRows(t *testing.T) {
	t.Parallel()
	for _, taken := range []string{"a row", "the count", "more than are counted"} {
		m := newMachine(t)
		m.run(forEver, func(r *rig, store keystore.Store) error {
			for range 2 {
				s, _ := r.unanswered(store, "00000")
				t.Cleanup(s.Close)
			}
			return nil
		})
		outbox, _ := m.rows()
		if len(outbox) != 2 {
			t.Fatalf("%d rows", len(outbox))
		}
		event := [16]byte{0xfe}
		switch taken {
		case "a row":
			rec, err := audit.ParseRecord(outbox[1][8:])
			if err != nil {
				t.Fatal(err)
			}
			m.remove(outboxName(rec.Event))
		case "the count":
			m.remove(keystore.MakeName(keystore.SpaceOutboxCount))
		default:
			m.put(outboxName(event), audit.AppendRecord(make([]byte, 8), &audit.Record{Event: event}))
		}
		m.run(forEver, func(r *rig, store keystore.Store) error {
			if n, err := r.Recover(t.Context(), store); n != 0 || !errors.Is(err, keystore.ErrDamaged) {
				t.Errorf("%s: recovered %d, %v", taken, n, err)
			}
			return nil
		})
	}
}

// TestRecoverRefusesDamage names the row and leaves everything as it is.
func TestRecoverRefusesDamage(t *testing.T) {
	t.Parallel()
	event, lacking := [16]byte{0xfe}, [16]byte{0x01}
	good := audit.AppendRecord(make([]byte, 8), &audit.Record{Event: event, Time: 5})
	other := audit.AppendRecord(make([]byte, 8), &audit.Record{Event: [16]byte{0xfd}, Time: 5})
	for what, value := range map[string][]byte{
		"nothing": nil, "half a position": good[:5], "no record": good[:8], "half a record": good[:len(good)-1],
		"more than a record": append(bytes.Clone(good), 0), "the record of another event": other,
	} {
		m := newMachine(t)
		m.run(forEver, func(r *rig, store keystore.Store) error { return r.change(store, "00000") })
		m.put(outboxName(lacking), audit.AppendRecord(make([]byte, 8), &audit.Record{Event: lacking}))
		m.put(outboxName(event), value)
		before, _ := m.rows()
		m.run(forEver, func(r *rig, store keystore.Store) error {
			size := r.log.State().Size
			n, err := r.Recover(t.Context(), store)
			if n != 0 || !errors.Is(err, keystore.ErrDamaged) || !strings.Contains(fmt.Sprint(err), "outbox/0xfe") {
				t.Errorf("%s: recovered %d, %v", what, n, err)
			}
			if r.log.State().Size != size {
				t.Errorf("%s: something was appended", what)
			}
			return nil
		})
		if after, _ := m.rows(); len(after) != len(before) {
			t.Errorf("%s: %d rows of %d are left", what, len(after), len(before))
		}
	}
}

// TestRecoverIntoALogThatIsFull says so, and keeps the rows until there is room.
func TestRecoverIntoALogThatIsFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *audit.Config) { c.SegmentBytes = 64 << 10 })
	store := keystore.NewMemory()
	s, _ := r.unanswered(store, "00000")
	t.Cleanup(s.Close)
	r.disk.Fill(true)
	r.until(func() bool {
		var junk audit.Trail
		junk.Add(&audit.Record{Reason: strings.Repeat("x", 1000)})
		_, err := r.log.Append(&junk, true)
		return errors.Is(errors.Join(err, r.log.Err()), audit.ErrFull)
	})
	if n, err := r.Recover(t.Context(), store); n != 0 || !errors.Is(err, audit.ErrFull) {
		t.Errorf("recovered %d, %v", n, err)
	}
	if outbox, _ := rows(t, store); len(outbox) != 1 {
		t.Errorf("%d rows are left", len(outbox))
	}
	r.disk.Fill(false)
	r.until(func() bool { return r.log.Err() == nil })
	if n, err := r.Recover(t.Context(), store); n != 1 || err != nil {
		t.Errorf("recovered %d, %v", n, err)
	}
}

// TestRecoverAgainInOneProcess: what the first try appended and did not see
// durable is not appended again.
func TestRecoverAgainInOneProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := mortalStore{keystore.NewMemory(), racktest.NewPower(forEver)}
	s, _ := r.unanswered(store, "00000")
	t.Cleanup(s.Close)
	r.disk.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan error)
	go func() {
		_, err := r.Recover(ctx, store)
		first <- err
	}()
	r.until(func() bool { return r.log.State().Size == 1 })
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("the first try ended with %v", err)
	}
	before := store.Used()
	go func() {
		n, err := r.Recover(t.Context(), store)
		if n != 0 {
			t.Errorf("the second try appended %d records", n)
		}
		second <- err
	}()
	r.until(func() bool { return store.Used() > before })
	r.disk.Release()
	if err := <-second; err != nil || len(r.encoded()) != 1 {
		t.Errorf("the second try ended with %v", err)
	}
}

// TestFormatExample recovers the row of FORMAT.md, and writes one like it.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```row\n")
	line, _, _ := strings.Cut(rest, "\n")
	encodedName, encodedValue, _ := strings.Cut(line, " ")
	rawName, err1 := hex.DecodeString(encodedName)
	value, err2 := hex.DecodeString(encodedValue)
	name, err3 := keystore.ParseName(rawName)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	m.run(forEver, func(r *rig, store keystore.Store) error {
		for range 17 {
			if err := r.change(store, "00000"); err != nil {
				return err
			}
		}
		access.Keep(t.Context(), r.Gate, true)
		s, _ := r.unanswered(store, "00000")
		t.Cleanup(s.Close)
		if outbox, _ := m.rows(); len(outbox) != 1 || !bytes.Equal(outbox[0][:8], value[:8]) {
			t.Errorf("after 17 records the outbox is %x", outbox)
		}
		m.put(name, value)
		m.count(2)
		if n, err := r.Recover(t.Context(), store); n != 2 || err != nil {
			t.Fatalf("recovered %d, %v", n, err)
		}
		all := r.encoded()
		if got := all[len(all)-1]; !bytes.Equal(got, value[8:]) {
			t.Errorf("the log has %x", got)
		}
		return nil
	})
	rec, err := audit.ParseRecord(value[8:])
	if err != nil || rec.Op != 1 || !time.UnixMicro(rec.Time).Equal(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the example's record is %+v, %v", rec, err)
	}
}

// TestASessionThatEndsUnflushed: its changes are recorded all the same.
func TestASessionThatEndsUnflushed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run(forEver, func(r *rig, store keystore.Store) error {
		s, _ := r.unanswered(store, "00000")
		s.Close()
		access.Keep(t.Context(), r.Gate, false)
		r.flush()
		access.Keep(t.Context(), r.Gate, false)
		return nil
	})
	m.check([]string{"00000"})
}
