package access_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/protocol"
)

// admitted is a method that does as it is told, after the door.
func admitted(f func(c *access.Call, out *answer)) method {
	return func(c *access.Call, _ *ask, out *answer) error {
		if err := c.Admit(thing{}); err != nil {
			return err
		}
		f(c, out)
		return nil
	}
}

// TestAnOpenSessionFollowsTheDirectory: a principal that is removed, changed or
// whose certificate ends is so with the next call.
func TestAnOpenSessionFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	route := access.Handle(r.Gate, change, admitted(func(*access.Call, *answer) {}))
	var dir identity.Directory
	end := r.Clock.Now().Add(time.Hour)
	s := r.Session(t.Context(), dir.Handle(root.Credential, end), "test")
	defer s.Close()
	weak := *nobody
	weak.Credential = root.Credential
	for _, step := range []struct {
		name string
		do   func()
		want api.Kind
	}{
		{"nobody yet", func() {}, api.KindUnrecognizedClient},
		{"published", func() { dir.Publish([]*identity.Principal{nobody, root}) }, api.KindNone},
		{"unchanged", func() {}, api.KindNone},
		{"changed", func() { dir.Publish([]*identity.Principal{&weak}) }, api.KindAccessDenied},
		{"removed", func() { dir.Publish([]*identity.Principal{nobody}) }, api.KindUnrecognizedClient},
		{"back", func() { dir.Publish([]*identity.Principal{root}) }, api.KindNone},
		{"last second", func() { r.advance(time.Hour) }, api.KindNone},
		{"certificate over", func() { r.advance(time.Microsecond) }, api.KindUnrecognizedClient},
	} {
		step.do()
		route.Serve(s.Call(7), protocol.Native{}, goodBody)
		held := s.Flush(false)
		if reply := r.reply(&held); reply.Kind != step.want {
			t.Errorf("%s: answered %v, want %v", step.name, reply.Kind, step.want)
		}
		held.Release()
		if rec := r.one(); rec.Error != uint16(step.want) || rec.Credential != root.Credential {
			t.Errorf("%s: recorded %+v", step.name, rec)
		}
	}
}

// serveOne makes one call in a session of its own and leaves its reply held.
func (r *rig) serveOne() *access.Held {
	s := r.session(root)
	route := access.Handle(r.Gate, change, admitted(func(_ *access.Call, out *answer) { out.Text = "made" }))
	route.Serve(s.Call(7), protocol.Native{}, goodBody)
	held := s.Flush(false)
	return &held
}

// TestNoReplyBeforeItsRecordIsDurable: until the disk has the record, there is
// no way to the reply's bytes.
func TestNoReplyBeforeItsRecordIsDurable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.disk.Hold()
	held := r.serveOne()
	if held.Ready() || held.Len() == 0 || len(r.records()) != 0 {
		t.Errorf("ready=%t with %d bytes and the record not on disk", held.Ready(), held.Len())
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	impatient := *held
	if b, err := impatient.Bytes(gone); err == nil || b != nil {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	got := make(chan []byte)
	go func() {
		b, err := held.Bytes(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	select {
	case <-got:
		t.Error("the reply is out before its record is on disk")
	default:
	}
	r.disk.Release()
	if b := <-got; len(b) != held.Len() || !held.Ready() {
		t.Errorf("got %d bytes, ready=%t", len(b), held.Ready())
	}
	if rec := r.one(); rec.Error != 0 {
		t.Errorf("recorded %+v", rec)
	}
}

// TestADeadLogAnswersNothing: after a failed sync there is no reply, neither to
// what was recorded then nor to anything later.
func TestADeadLogAnswersNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.disk.Break(errors.New("input/output error"))
	for _, when := range []string{"the call whose sync fails", "a later call"} {
		held := r.serveOne()
		if b, err := held.Bytes(t.Context()); !errors.Is(err, audit.ErrDead) || b != nil {
			t.Errorf("%s: got %d bytes, %v", when, len(b), err)
		}
		held.Release()
	}
}

// TestAFullLogRefuses: while there is no room for records nothing is done, and
// the refusal still has its record.
func TestAFullLogRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *audit.Config) { c.SegmentBytes = 64 << 10 })
	r.disk.Fill(true)
	called := false
	route := access.Handle(r.Gate, change, admitted(func(*access.Call, *answer) { called = true }))
	calls := 0
	for ; r.log.Err() == nil; calls++ {
		if calls > 10_000 {
			t.Fatal("the log is never full")
		}
		r.call(root, route, goodBody)
	}
	called = false
	reply := r.call(root, route, goodBody)
	err, _ := errors.AsType[*api.Error](reply.Err())
	if err == nil || err.Kind != api.KindUnavailable || err.Reason != "audit" || called {
		t.Errorf("answered %v, called=%t", reply.Err(), called)
	}
	all := r.records()
	if last := all[len(all)-1]; len(all) != calls+1 || last.Error != uint16(api.KindUnavailable) || last.Reason != "audit" {
		t.Errorf("got %d records of %d calls, the last one %+v", len(all), calls+1, last)
	}
}

// TestRepliesAreWiped is alone, not parallel: the memory goes back to a pool
// that all sessions share.
func TestRepliesAreWiped(t *testing.T) {
	r := newRig(t)
	var lent []byte
	route := access.Handle(r.Gate, change, admitted(func(c *access.Call, out *answer) {
		lent = c.Bytes(6)
		copy(lent, "petals")
		out.Secret = lent
	}))
	s := r.session(root)
	route.Serve(s.Call(7), protocol.Native{}, goodBody)
	if !bytes.Equal(lent, make([]byte, 6)) {
		t.Errorf("the call's memory still holds %q", lent)
	}
	held := s.Flush(false)
	b, err := held.Bytes(t.Context())
	if err != nil || !bytes.Contains(b, []byte("petals")) {
		t.Fatalf("got %q, %v", b, err)
	}
	held.Release()
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("the reply's memory still holds %q", b)
	}
	held.Release() // twice is harmless

	route.Serve(s.Call(7), protocol.Native{}, goodBody)
	b = access.Replies(s)
	s.Close()
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("replies never flushed are left: %q", b)
	}
}

// TestGrowingLeavesNoCopies: a burst whose replies need more memory leaves
// nothing behind where it was.
func TestGrowingLeavesNoCopies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	secret := access.Handle(r.Gate, change, admitted(func(c *access.Call, out *answer) {
		out.Secret = c.Bytes(30_000)
		for i := range out.Secret {
			out.Secret[i] = 'p'
		}
	}))
	text := access.Handle(r.Gate, look, admitted(func(_ *access.Call, out *answer) { out.Text = string(bytes.Repeat([]byte("t"), 100_000)) }))
	s := r.session(root)
	both := access.Handle(r.Gate, look, admitted(func(c *access.Call, out *answer) {
		out.Secret = c.Bytes(6)
		copy(out.Secret, "petals")
		out.Text = string(bytes.Repeat([]byte("t"), 300_000)) // more than the pool keeps
	}))
	small := r.session(root)
	both.Serve(small.Call(7), protocol.Native{}, nil) // refused, and so short
	first := access.Replies(small)
	both.Serve(small.Call(7), protocol.Native{}, goodBody)
	if left := first[:cap(first)]; bytes.Contains(left, []byte("petals")) || !bytes.Contains(access.Replies(small), []byte("petals")) {
		t.Error("a reply that did not fit is left in part")
	}
	var before [][]byte
	for _, route := range []access.Route{secret, text, secret, text} {
		route.Serve(s.Call(7), protocol.Native{}, goodBody)
		before = append(before, access.Replies(s))
	}
	last := before[len(before)-1]
	for _, b := range before[:len(before)-1] {
		if &b[0] != &last[0] && bytes.ContainsAny(b, "pt") {
			t.Errorf("a copy of %d bytes is left behind", len(b))
		}
	}
	for _, c := range []byte("pt") {
		if n := bytes.Count(last, []byte{c}); n < 60_000 {
			t.Errorf("only %d bytes %q are in the replies", n, c)
		}
	}
	frames := 0
	for frame, rest, _, err := protocol.Split(last, api.MaxReplyFrame); frame != nil; frame, rest, _, err = protocol.Split(rest, api.MaxReplyFrame) {
		if reply, perr := protocol.ParseReply(frame); err != nil || perr != nil || reply.Kind != api.KindNone {
			t.Errorf("reply %d: %v, %v", frames, err, perr)
		}
		frames++
	}
	if frames != 4 {
		t.Errorf("got %d replies, want 4", frames)
	}
}

// TestBytesStayUntilTheReply: memory that a call was given earlier is not taken
// back when it asks for more, and all of it is zero at first and wiped at last.
func TestBytesStayUntilTheReply(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var all [][]byte
	outer := access.Handle(r.Gate, change, admitted(func(c *access.Call, out *answer) {
		all = nil
		for i, n := range []int{6, 10_000, 20_000, 6, 100_000} {
			b := c.Bytes(n)
			if !bytes.Equal(b, make([]byte, n)) {
				t.Errorf("memory %d is not zero", i)
			}
			for j := range b {
				b[j] = byte(i + 1)
			}
			all = append(all, b)
		}
		inner := &answer{}
		if err := access.Nest(c.Via("outer"), look, admitted(func(c *access.Call, in *answer) {
			in.Secret = c.Bytes(6)
			copy(in.Secret, "petals")
		}), &ask{Name: "in"}, inner); err != nil {
			t.Error(err)
		}
		all = append(all, inner.Secret)
		for i, b := range all[:5] {
			if bytes.Count(b, []byte{byte(i + 1)}) != len(b) {
				t.Errorf("memory %d was changed", i)
			}
		}
		if string(inner.Secret) != "petals" {
			t.Errorf("the nested call's memory holds %q", inner.Secret)
		}
		out.Secret = all[2]
	}))
	for range 2 {
		reply := r.call(root, outer, goodBody)
		if reply.Kind != api.KindNone || bytes.Count(reply.Body, []byte{3}) < 20_000 {
			t.Errorf("answered %v with %d bytes", reply.Kind, len(reply.Body))
		}
		for i, b := range all {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Errorf("memory %d is not wiped", i)
			}
		}
	}
}

// TestFarewellIsLast: the frame that ends a connection stands behind the replies.
func TestFarewellIsLast(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.session(root)
	route := access.Handle(r.Gate, change, admitted(func(*access.Call, *answer) {}))
	route.Serve(s.Call(7), protocol.Native{}, goodBody)
	if s.Pending() == 0 {
		t.Error("nothing is pending")
	}
	s.Farewell([]byte("bye"))
	held := s.Flush(true)
	b, err := held.Bytes(t.Context())
	if err != nil || !bytes.HasSuffix(b, []byte("bye")) || len(b) < 8 || s.Pending() != 0 {
		t.Errorf("got %q, %v", b, err)
	}
}
