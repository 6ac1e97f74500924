package access_test

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol"
)

// refuse makes n calls of p that are refused, in one burst.
func (r *rig) refuse(p *identity.Principal, n int) {
	r.tb.Helper()
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, _ *answer) error { return c.Admit(access.Appliance(c)) })
	s := r.session(p)
	for range n {
		route.Serve(s.Call(7), protocol.Native{}, goodBody)
	}
	held := s.Flush(false)
	if _, err := held.Bytes(r.tb.Context()); err != nil {
		r.tb.Fatal(err)
	}
	held.Release()
}

// TestRefusalsAreFolded: beyond ten a second they become one record with a
// count, and the counts add up to the calls.
func TestRefusalsAreFolded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refuse(root, 25)
	r.refuse(nobody, 10)
	if all := r.records(); len(all) != 20 || calls(all) != 20 {
		t.Fatalf("got %d records of %d calls at first, want 20", len(all), calls(all))
	}
	access.Keep(t.Context(), r.Gate, false)
	r.flush()
	if all := r.records(); len(all) != 0 {
		t.Errorf("got %d records before the second is over", len(all))
	}
	r.advance(time.Second)
	access.Keep(t.Context(), r.Gate, false)
	r.flush()
	rec := r.one()
	if rec.Count != 15 || rec.Principal != root.ARN || rec.Op != change.Number || rec.Error != uint16(api.KindAccessDenied) ||
		rec.Source != "test" || rec.Credential != root.Credential || rec.Event == [16]byte{} || rec.Time == 0 {
		t.Errorf("got %+v", rec)
	}
	if n := access.Refusals(r.Gate); n != 0 {
		t.Errorf("%d callers are remembered", n)
	}
	for range 2 { // each second has ten of its own, also where housekeeping is late
		r.refuse(root, 12)
		if all := r.records(); len(all) != 10 {
			t.Errorf("got %d records in a later second, want 10", len(all))
		}
		r.advance(time.Second)
	}
	access.Keep(t.Context(), r.Gate, false)
	r.flush()
	if rec := r.one(); rec.Count != 4 {
		t.Errorf("got %+v", rec)
	}
}

// TestAFoldedRecordSaysWhatHoldsForAll: members in which the calls differ are
// left out.
func TestAFoldedRecordSaysWhatHoldsForAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refuse(root, 12)
	twin := *root
	twin.Credential = identity.KeyHash{3}
	r.refuse(&twin, 1)
	r.records()
	access.Keep(t.Context(), r.Gate, true)
	r.flush()
	rec := r.one()
	if rec.Count != 3 || rec.Principal != root.ARN || rec.Credential != [32]byte{} || rec.Source != "test" || rec.Resource == "" {
		t.Errorf("got %+v", rec)
	}
}

// TestStrangersAreOneCaller: whoever comes with a new key each time gets no
// record of his own beyond ten, and no memory.
func TestStrangersAreOneCaller(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var dir identity.Directory
	for n := range uint64(1000) {
		var key identity.KeyHash
		binary.BigEndian.PutUint64(key[:], n+1)
		s := r.Session(t.Context(), dir.Handle(key, time.Time{}), "test")
		s.RecordConnection(api.Errorf(api.KindUnrecognizedClient, "who are you?"))
		held := s.Flush(false)
		if _, err := held.Bytes(t.Context()); err != nil {
			t.Fatal(err)
		}
		held.Release()
		s.Close()
	}
	if n := access.Refusals(r.Gate); n != 1 {
		t.Errorf("%d callers are remembered, want 1", n)
	}
	access.Keep(t.Context(), r.Gate, true)
	r.flush()
	all := r.records()
	if len(all) != api.RefusalsPerSecond+1 || calls(all) != 1000 {
		t.Errorf("got %d records of %d calls, want 11 of 1000", len(all), calls(all))
	}
}

// TestNoRefusalIsLost: many connections, housekeeping at any time, and an end.
func TestNoRefusalIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const connections, bursts = 8, 20
	var wg sync.WaitGroup
	for i := range connections {
		wg.Go(func() {
			for n := range bursts {
				r.refuse([]*identity.Principal{root, nobody}[i%2], n)
				if n%5 == i%5 {
					r.advance(300 * time.Millisecond)
					access.Keep(t.Context(), r.Gate, false)
				}
			}
		})
	}
	wg.Wait()
	access.Keep(t.Context(), r.Gate, true)
	r.flush()
	if n, want := calls(r.records()), connections*bursts*(bursts-1)/2; n != want {
		t.Errorf("the records count %d calls, want %d", n, want)
	}
}

// TestFoldedRefusalsOutliveAFullLog: what the log does not take is counted on.
func TestFoldedRefusalsOutliveAFullLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refuse(root, 15)
	if err := r.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.advance(time.Second)
		access.Keep(t.Context(), r.Gate, false)
	}
	if n := access.Refusals(r.Gate); n != 1 {
		t.Errorf("%d callers are remembered, want 1", n)
	}
}
