package access_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
)

var farAway = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

var row = keystore.MakeName(keystore.SpaceAlias, "111122223333", "rose")

// write is a method that changes a row, and then ends with after.
func write(store keystore.Store, after error) method {
	return func(c *access.Call, in *ask, out *answer) error {
		if err := c.Admit(thing{}); err != nil {
			return err
		}
		if err := c.Need(work.Store); err != nil {
			return err
		}
		out.Text = "made"
		if err := c.Update(store, func(tx keystore.Tx) error { return tx.Put(row, []byte(in.Name)) }); err != nil {
			return err
		}
		return after
	}
}

// rows returns the outbox rows of a store, and whether the row that write makes is there.
func rows(t *testing.T, store keystore.Store) (outbox [][]byte, made bool) {
	t.Helper()
	err := store.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			if e.Name.Space() == keystore.SpaceOutbox {
				outbox = append(outbox, bytes.Clone(e.Value))
			}
			made = made || e.Name == row
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return outbox, made
}

// TestAChangeAndItsRecordAreOne: they stand in the store together and in the
// same bytes as in the log, until the log is durable past the record.
func TestAChangeAndItsRecordAreOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := keystore.NewMemory()
	route := access.Handle(r.Gate, change, write(store, nil))
	r.disk.Hold()
	s := r.session(root)
	if class := route.Serve(s.Again(t.Context(), access.Ticket{}), protocol.Native{}, goodBody); class != work.None {
		t.Fatalf("yielded for %s", class)
	}
	held := s.Flush(false)
	outbox, made := rows(t, store)
	if len(outbox) != 1 || !made {
		t.Fatalf("%d rows in the outbox, changed=%t", len(outbox), made)
	}
	access.Keep(t.Context(), r.Gate, false)
	if now, _ := rows(t, store); len(now) != 1 {
		t.Error("the row is dropped before the log is durable")
	}
	r.disk.Release()
	if _, err := held.Bytes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in := r.encoded(); len(in) != 1 || !bytes.Equal(in[0], outbox[0][8:]) {
		t.Errorf("the log has %x, the store %x", in, outbox[0])
	}
	access.Keep(t.Context(), r.Gate, false)
	if now, made := rows(t, store); len(now) != 0 || !made || access.Outbox(r.Gate) != 0 {
		t.Errorf("%d rows are left in the outbox, changed=%t", len(now), made)
	}
}

// TestAChangeThatFailsAfterwards: the change is made, so its record says so,
// once; the caller is told of the failure.
func TestAChangeThatFailsAfterwards(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := keystore.NewMemory()
	reply := r.call(root, access.Handle(r.Gate, change, write(store, errors.New("could not read it back"))), goodBody)
	if reply.Kind != api.KindInternal {
		t.Errorf("answered %v", reply.Kind)
	}
	if rec := r.one(); rec.Error != 0 || rec.Op != change.Number {
		t.Errorf("recorded %+v", rec)
	}
	if _, made := rows(t, store); !made {
		t.Error("nothing was changed")
	}
	if !strings.Contains(r.lines.String(), "could not read it back") {
		t.Error("nobody on call is told why")
	}
}

// TestARefusalThatLeavesSomething: what it leaves is made with its record, which says
// that it was refused and shows nothing of the response.
func TestARefusalThatLeavesSomething(t *testing.T) {
	t.Parallel()
	cause := api.Errorf(api.KindInvalidCiphertext, "damaged")
	refuse := func(store keystore.Store) method {
		return func(c *access.Call, _ *ask, out *answer) error {
			if err := errors.Join(c.Admit(thing{}), c.Need(work.Store)); err != nil {
				return c.Need(work.Store)
			}
			out.Text = "never shown"
			return c.Refuse(store, cause, func(tx keystore.Tx) error { return tx.Put(row, nil) })
		}
	}
	store := keystore.NewMemory()
	for name, c := range map[string]struct {
		store keystore.Store
		want  api.Kind
	}{"made": {store, cause.Kind}, "not made": {brokenStore{keystore.NewMemory()}, api.KindInternal}} {
		r := newRig(t)
		if reply := r.call(root, access.Handle(r.Gate, change, refuse(c.store)), goodBody); reply.Kind != c.want {
			t.Errorf("%s: answered %v (%v), want %v", name, reply.Kind, reply.Err(), c.want)
		}
		if rec := r.one(); rec.Error != uint16(c.want) || rec.Response != nil || rec.Op != change.Number {
			t.Errorf("%s: recorded %+v", name, rec)
		}
	}
	outbox, made := rows(t, store)
	if len(outbox) != 1 || !made {
		t.Fatalf("%d rows in the outbox, changed=%t", len(outbox), made)
	}
	if rec, err := audit.ParseRecord(outbox[0][8:]); err != nil || rec.Error != uint16(cause.Kind) {
		t.Errorf("the store has %+v, %v", rec, err)
	}
}

// TestAChangeThatIsNotMade leaves one record of the failure, and no row.
func TestAChangeThatIsNotMade(t *testing.T) {
	t.Parallel()
	store := keystore.NewMemory()
	unadmitted := func(c *access.Call, _ *ask, _ *answer) error {
		if err := c.Need(work.Store); err != nil {
			return err
		}
		return c.Update(store, func(tx keystore.Tx) error { return tx.Put(row, nil) })
	}
	for name, c := range map[string]struct {
		f    method
		op   api.OpOf[ask, answer]
		who  *identity.Principal
		want api.Kind
	}{
		"the store fails": {write(brokenStore{store}, nil), change, root, api.KindInternal},
		"the change fails": {func(c *access.Call, _ *ask, _ *answer) error {
			if err := errors.Join(c.Admit(thing{}), c.Need(work.Store)); err != nil {
				return c.Need(work.Store)
			}
			return c.Update(store, func(tx keystore.Tx) error {
				tx.Put(row, nil)
				return api.Errorf(api.KindLimitExceeded, "too many")
			})
		}, change, root, api.KindLimitExceeded},
		"not on a worker": {func(c *access.Call, _ *ask, _ *answer) error {
			c.Admit(thing{})
			return c.Update(store, func(tx keystore.Tx) error { return tx.Put(row, nil) })
		}, change, root, api.KindInternal},
		"without the door":         {unadmitted, change, root, api.KindInternal},
		"in spite of the door":     {func(c *access.Call, in *ask, out *answer) error { c.Admit(thing{}); return unadmitted(c, in, out) }, change, nobody, api.KindInternal},
		"by a read-only operation": {write(store, nil), look, root, api.KindInternal},
	} {
		r := newRig(t)
		if reply := r.call(c.who, access.Handle(r.Gate, c.op, c.f), goodBody); reply.Kind != c.want {
			t.Errorf("%s: answered %v (%v), want %v", name, reply.Kind, reply.Err(), c.want)
		}
		if rec := r.one(); rec.Error != uint16(c.want) {
			t.Errorf("%s: recorded %+v", name, rec)
		}
		if outbox, made := rows(t, store); made || len(outbox) > 0 || access.Outbox(r.Gate) > 0 {
			t.Errorf("%s: changed=%t, %d rows in the outbox", name, made, len(outbox))
		}
	}
}

// TestOutboxRowsAreDroppedLater: a store that refuses for a while is asked again.
func TestOutboxRowsAreDroppedLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := &moody{Store: keystore.NewMemory()}
	route := access.Handle(r.Gate, change, write(store, nil))
	for range 20 { // more than one transaction drops
		r.call(root, route, goodBody)
	}
	store.refuse = true
	access.Keep(t.Context(), r.Gate, false)
	if n, _ := rows(t, store); len(n) != 20 || access.Outbox(r.Gate) != 20 {
		t.Errorf("%d rows, %d known", len(n), access.Outbox(r.Gate))
	}
	store.refuse = false
	access.Keep(t.Context(), r.Gate, true)
	if n, _ := rows(t, store); len(n) != 0 || access.Outbox(r.Gate) != 0 {
		t.Errorf("%d rows, %d known", len(n), access.Outbox(r.Gate))
	}
}

// TestOutboxRowsOfAClosedStore: nobody waits for a store that was closed. Its rows are met when it is open again.
func TestOutboxRowsOfAClosedStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := keystore.NewMemory()
	r.call(root, access.Handle(r.Gate, change, write(store, nil)), goodBody)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	access.Keep(t.Context(), r.Gate, false)
	if n := access.Outbox(r.Gate); n != 0 {
		t.Errorf("%d rows are waited for", n)
	}
}

// TestAChangeThatTheLogRefuses is made, and not answered; its record follows as
// soon as the log has room.
func TestAChangeThatTheLogRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *audit.Config) { c.SegmentBytes = 64 << 10 })
	store := keystore.NewMemory()
	s := r.session(root)
	access.Handle(r.Gate, change, write(store, nil)).Serve(s.Again(t.Context(), access.Ticket{}), protocol.Native{}, goodBody)
	r.disk.Fill(true)
	var junk audit.Trail
	for err := error(nil); err == nil; _, err = r.log.Append(&junk, true) {
		junk.Add(&audit.Record{Event: [16]byte{1}, Reason: strings.Repeat("x", 1000)})
	}
	held := s.Flush(false)
	if b, err := held.Bytes(t.Context()); !errors.Is(err, audit.ErrFull) || b != nil || !held.Ready() {
		t.Fatalf("got %d bytes, %v", len(b), err)
	}
	access.Keep(t.Context(), r.Gate, false)
	outbox, made := rows(t, store)
	if len(outbox) != 1 || !made {
		t.Fatalf("%d rows in the outbox, changed=%t", len(outbox), made)
	}
	r.disk.Fill(false)
	r.until(func() bool {
		access.Keep(t.Context(), r.Gate, false)
		return access.Outbox(r.Gate) == 0
	})
	if left, _ := rows(t, store); len(left) != 0 {
		t.Errorf("%d rows are left in the outbox", len(left))
	}
	found := 0
	for _, record := range r.encoded() {
		if bytes.Equal(record, outbox[0][8:]) {
			found++
		}
	}
	if found != 1 {
		t.Errorf("the log has the record %d times", found)
	}
}

// moody is a store that refuses changes when told to.
type moody struct {
	keystore.Store
	refuse bool
}

func (m *moody) Update(ctx context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	if m.refuse {
		return 0, errMedium
	}
	return m.Store.Update(ctx, f)
}

// TestKeepEndsWithALastRound: what was counted is written, also when the
// context ends at once.
func TestKeepEndsWithALastRound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, _ *answer) error { return c.Admit(thing{}) })
	for range 15 {
		r.call(nobody, route, goodBody)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Keep(ctx)
	r.flush()
	if n := calls(r.records()); n != 15 {
		t.Errorf("the records count %d calls, want 15", n)
	}
}

// calls returns how many calls records stand for.
func calls(all []audit.Record) (n int) {
	for _, rec := range all {
		n += int(max(rec.Count, 1))
	}
	return n
}
