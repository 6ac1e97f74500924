package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
)

// unspeakable stands for a secret that reaches a panic.
const unspeakable = "the-material-of-key-4711"

// one returns the only record since the last time.
func (r *rig) one() audit.Record {
	r.tb.Helper()
	all := r.records()
	if len(all) != 1 {
		r.tb.Fatalf("got %d records, want 1: %+v", len(all), all)
	}
	return all[0]
}

// TestExactlyOneRecord: whatever happens to a call, it leaves one record and
// one reply, and both say the same.
func TestExactlyOneRecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		f    method
		body []byte
		who  *identity.Principal
		want api.Kind
	}{
		"success": {func(c *access.Call, in *ask, out *answer) error {
			out.Text = "hello " + in.Name
			return c.Admit(thing{})
		}, goodBody, root, api.KindNone},
		"not CBOR":       {nil, []byte{0xff}, root, api.KindSerialization},
		"nothing":        {nil, nil, root, api.KindSerialization},
		"unknown member": {nil, []byte{0xa1, 0x18, 0x3c, 0x01}, root, api.KindSerialization},
		"broken rule":    {nil, change.In.AppendCBOR(nil, &ask{Name: "a name that is too long"}), root, api.KindValidation},
		"refused":        {func(c *access.Call, _ *ask, _ *answer) error { return c.Admit(thing{}) }, goodBody, nobody, api.KindAccessDenied},
		"refusal ignored": {func(c *access.Call, _ *ask, _ *answer) error {
			c.Admit(thing{})
			return nil
		}, goodBody, nobody, api.KindInternal},
		"one of two refusals ignored": {func(c *access.Call, _ *ask, _ *answer) error {
			c.Admit(access.Appliance(c))
			return c.Admit(thing{})
		}, goodBody, root, api.KindInternal},
		"door forgotten": {func(_ *access.Call, _ *ask, out *answer) error {
			out.Text = unspeakable
			return nil
		}, goodBody, root, api.KindInternal},
		"error of the method": {func(*access.Call, *ask, *answer) error { return api.Errorf(api.KindDisabled, "no") }, goodBody, root, api.KindDisabled},
		"error of a library":  {func(*access.Call, *ask, *answer) error { return errors.New(unspeakable) }, goodBody, root, api.KindInternal},
		"time is over": {func(*access.Call, *ask, *answer) error {
			return fmt.Errorf("wait for the token: %w", context.DeadlineExceeded)
		}, goodBody, root, api.KindUnavailable},
		"error of no kind": {func(*access.Call, *ask, *answer) error { return &api.Error{Message: unspeakable} }, goodBody, root, api.KindInternal},
		"nil *api.Error": {func(c *access.Call, _ *ask, _ *answer) error {
			var e *api.Error
			c.Admit(thing{})
			return e
		}, goodBody, root, api.KindNone},
		"panic of the runtime": {func(c *access.Call, _ *ask, out *answer) error {
			out.Text, out.Secret = unspeakable, api.Secret(unspeakable)
			c.Admit(thing{})
			return errors.New(out.Text[len(out.Text)+len(goodBody):])
		}, goodBody, root, api.KindInternal},
		"panic with a value": {func(c *access.Call, _ *ask, _ *answer) error { panic(unspeakable) }, goodBody, root, api.KindInternal},
		"panic with an error": {func(c *access.Call, _ *ask, _ *answer) error {
			panic(api.Errorf(api.KindValidation, unspeakable))
		}, goodBody, root, api.KindInternal},
		"panic on a worker": {func(c *access.Call, in *ask, _ *answer) error {
			if err := c.Need(work.Compute); err != nil {
				return err
			}
			panic(in)
		}, goodBody, root, api.KindInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			reply := r.call(c.who, access.Handle(r.Gate, change, c.f), c.body)
			if reply.Kind != c.want {
				t.Errorf("answered %v (%v), want %v", reply.Kind, reply.Err(), c.want)
			}
			rec := r.one()
			if rec.Error != uint16(c.want) || rec.Op != change.Number || rec.Principal != c.who.ARN || rec.RequestID != 7 || rec.Event == [16]byte{} {
				t.Errorf("recorded %+v, want error %v", rec, c.want)
			}
			if seen := string(reply.Body) + string(rec.Request) + string(rec.Response) + rec.Reason; strings.Contains(seen, unspeakable) || strings.Contains(seen, "petals") {
				t.Errorf("reply or record tells: %q", seen)
			}
		})
	}
}

// TestPanicsAreLoggedWithoutTheirValue: who is on call learns where, not what.
func TestPanicsAreLoggedWithoutTheirValue(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{
		"text": unspeakable, "error": errors.New(unspeakable), "bytes": []byte(unspeakable), "array": [24]byte([]byte(unspeakable)),
	} {
		r := newRig(t)
		reply := r.call(root, access.Handle(r.Gate, change, func(*access.Call, *ask, *answer) error { panic(value) }), goodBody)
		if err := reply.Err(); api.KindOf(err) != api.KindInternal || strings.Contains(err.Error(), unspeakable) {
			t.Errorf("%s: answered %v", name, err)
		}
		log := r.lines.String()
		if !strings.Contains(log, "operation panicked") || !strings.Contains(log, "record_test.go") {
			t.Errorf("%s: the log does not say where: %s", name, log)
		}
		if strings.Contains(log, unspeakable) || strings.Contains(log, "0x74") || strings.Contains(log, "116 104 101") {
			t.Errorf("%s: the log tells what: %s", name, log)
		}
		r.one()
	}
}

// TestAPanicOfDecodingCostsOneRequest: also before the method is reached.
func TestAPanicOfDecodingCostsOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	route := access.Handle(r.Gate, trap, func(*access.Call, *trapped, *answer) error { return nil })
	if reply := r.call(root, route, []byte{0xa0}); reply.Kind != api.KindInternal {
		t.Errorf("answered %v", reply.Kind)
	}
	if rec := r.one(); rec.Error != uint16(api.KindInternal) || rec.Op != trap.Number {
		t.Errorf("recorded %+v", rec)
	}
}

// mute is a wire that has no way to say yes.
type mute struct{ protocol.Native }

func (mute) AppendReply(dst []byte, op *api.Op, id api.RequestID, out any, err error) []byte {
	if err == nil {
		panic(unspeakable)
	}
	return protocol.Native{}.AppendReply(dst, op, id, out, err)
}

// TestAnAnswerThatCannotBeWritten is an internal error to the caller; the record
// stays the one that was made.
func TestAnAnswerThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, out *answer) error {
		out.Secret = c.Bytes(6)
		return c.Admit(thing{})
	})
	s := r.session(root)
	route.Serve(s.Call(7), mute{}, goodBody)
	held := s.Flush(false)
	if reply := r.reply(&held); reply.Kind != api.KindInternal || bytes.Contains(reply.Body, []byte(unspeakable)) {
		t.Errorf("answered %v", reply.Err())
	}
	if rec := r.one(); rec.Error != 0 || rec.Op != change.Number {
		t.Errorf("recorded %+v", rec)
	}
}

// TestWhatReachesNoOperation: an unknown operation and a full pool are answered
// and recorded once too, the latter under the event of the call that yielded.
func TestWhatReachesNoOperation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.session(root)
	s.Refuse(protocol.Native{}, 7, nil, api.Errorf(api.KindUnknownOperation, "no such operation"))
	held := s.Flush(false)
	if reply := r.reply(&held); reply.Kind != api.KindUnknownOperation {
		t.Errorf("answered %v", reply.Kind)
	}
	if rec := r.one(); rec.Op != 0 || rec.Error != uint16(api.KindUnknownOperation) || rec.Principal != root.ARN {
		t.Errorf("recorded %+v", rec)
	}
	runs := 0
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, _ *answer) error {
		runs++
		return c.Need(work.Token)
	})
	c := s.Call(7)
	if class := route.Serve(c, protocol.Native{}, goodBody); class != work.Token {
		t.Fatalf("yielded for %s", class)
	}
	ticket := c.Ticket()
	s.RefuseAgain(protocol.Native{}, ticket, route.Op(), api.Errorf(api.KindThrottling, "full"))
	held = s.Flush(false)
	if reply := r.reply(&held); reply.Kind != api.KindThrottling {
		t.Errorf("answered %v", reply.Kind)
	}
	if rec := r.one(); rec.Op != change.Number || rec.Error != uint16(api.KindThrottling) || rec.Event != access.EventOf(ticket) || runs != 1 {
		t.Errorf("recorded %+v after %d runs", rec, runs)
	}
}

// TestAYieldLeavesNothing: the first run of a call that has to wait leaves no
// record, no reply and no memory; the second one decides anew.
func TestAYieldLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var dir identity.Directory
	dir.Publish([]*identity.Principal{root})
	s := r.Session(t.Context(), dir.Handle(root.Credential, farAway), "test")
	defer s.Close()
	var kept []byte
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, out *answer) error {
		if err := c.Admit(thing{}); err != nil {
			return err
		}
		kept = c.Bytes(6)
		if !bytes.Equal(kept, make([]byte, 6)) {
			t.Errorf("memory is not zero: %q", kept)
		}
		copy(kept, "petals")
		return c.Need(work.Store)
	})
	c := s.Call(7)
	if class := route.Serve(c, protocol.Native{}, goodBody); class != work.Store {
		t.Fatalf("yielded for %s", class)
	}
	if !bytes.Equal(kept, make([]byte, 6)) {
		t.Errorf("a yield leaves %q in memory", kept)
	}
	ticket := c.Ticket()
	if held := s.Flush(false); held.Len() != 0 || len(r.records()) != 0 {
		t.Error("a yield left a reply or a record")
	}
	dir.Publish(nil)
	route.Serve(s.Again(t.Context(), ticket), protocol.Native{}, goodBody)
	held := s.Flush(false)
	if reply := r.reply(&held); reply.Kind != api.KindUnrecognizedClient {
		t.Errorf("a principal removed while the call was queued: answered %v", reply.Kind)
	}
	if rec := r.one(); rec.Error != uint16(api.KindUnrecognizedClient) || rec.Principal != "" || rec.Credential != root.Credential || rec.Event != access.EventOf(ticket) {
		t.Errorf("recorded %+v", rec)
	}
}

// TestNestedCalls: a call on behalf of another one has its own decision and its
// own record.
func TestNestedCalls(t *testing.T) {
	t.Parallel()
	inner := func(f method) method {
		return func(c *access.Call, in *ask, out *answer) error {
			if err := c.Admit(thing{}); err != nil {
				return err
			}
			return access.Nest(c.Via("outer"), look, f, &ask{Name: "in"}, out)
		}
	}
	for name, c := range map[string]struct {
		f            method
		outer, inner api.Kind
	}{
		"success":        {func(c *access.Call, _ *ask, _ *answer) error { return c.Admit(thing{}) }, api.KindNone, api.KindNone},
		"refused":        {func(c *access.Call, _ *ask, _ *answer) error { return c.Admit(access.Appliance(c)) }, api.KindAccessDenied, api.KindAccessDenied},
		"door forgotten": {func(*access.Call, *ask, *answer) error { return nil }, api.KindInternal, api.KindInternal},
		"panic":          {func(*access.Call, *ask, *answer) error { panic(unspeakable) }, api.KindInternal, api.KindInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if reply := r.call(root, access.Handle(r.Gate, change, inner(c.f)), goodBody); reply.Kind != c.outer {
				t.Errorf("answered %v (%v), want %v", reply.Kind, reply.Err(), c.outer)
			}
			all := r.records()
			if len(all) != 2 {
				t.Fatalf("got %d records, want 2", len(all))
			}
			in, out := all[0], all[1]
			if in.Op != look.Number || in.Via != "outer" || in.Error != uint16(c.inner) || in.Principal != root.ARN {
				t.Errorf("inner call recorded as %+v", in)
			}
			if out.Op != change.Number || out.Via != "" || out.Error != uint16(c.outer) || out.Event == in.Event {
				t.Errorf("outer call recorded as %+v", out)
			}
		})
	}
}

// TestASlowerClassYieldsAgain: a worker does what its class does and what is faster, and yields for what is
// slower, until the call has changed something.
func TestASlowerClassYieldsAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.session(root)
	store := keystore.NewMemory()
	var late error
	route := access.Handle(r.Gate, change, func(c *access.Call, _ *ask, _ *answer) error {
		if err := c.Admit(thing{}); err != nil {
			return err
		}
		for _, class := range []work.Class{work.Store, work.Compute, work.Store} {
			if err := c.Need(class); err != nil {
				return err
			}
		}
		if err := c.Update(store, func(keystore.Tx) error { return nil }); err != nil {
			return err
		}
		late = c.Need(work.Generate)
		return nil
	})
	c := s.Call(7)
	for _, want := range []work.Class{work.Store, work.Compute, work.None} {
		if class := route.Serve(c, protocol.Native{}, goodBody); class != want {
			t.Fatalf("yielded for %s, want %s", class, want)
		}
		if want != work.None {
			c = s.Again(t.Context(), c.Ticket())
		}
	}
	held := s.Flush(false)
	if reply := r.reply(&held); reply.Err() != nil || late != nil {
		t.Errorf("answered %v; behind its change it yields: %v", reply.Err(), late)
	}
	r.one()
}
