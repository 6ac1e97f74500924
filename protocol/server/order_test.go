package server_test

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
)

// answers reads n replies and returns their kinds by id, and their order.
func (c *raw) answers(n int) (kinds map[api.RequestID]api.Kind, order []api.RequestID) {
	c.b.tb.Helper()
	kinds = map[api.RequestID]api.Kind{}
	for range n {
		r := c.reply()
		if _, twice := kinds[r.ID]; twice || r.ID == 0 {
			c.b.tb.Fatalf("reply to %d is one too many: %v", r.ID, r.Err())
		}
		kinds[r.ID] = r.Kind
		order = append(order, r.ID)
	}
	return kinds, order
}

// TestSlowWorkHoldsNobodyUp: what needs no waiting is answered before what came
// earlier on the same connection and waits, for the store or for the token.
func TestSlowWorkHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	store, s := racktest.NewGated(), newSlow()
	b := start(t, s.routes, func(set *setup) { set.store = store })
	c := b.open()
	waiting, release := store.Hold()
	c.send(c.uncached(1), echoes(2, "slow"), c.encrypt(3, "fast"))
	await(t, waiting)
	await(t, s.inside)
	if r := c.reply(); r.ID != 3 || r.Kind != api.KindNone {
		t.Errorf("answered %d first: %v", r.ID, r.Err())
	}
	c.send(c.encrypt(4, "fast"))
	if r := c.reply(); r.ID != 4 || r.Kind != api.KindNone {
		t.Errorf("answered %d next: %v", r.ID, r.Err())
	}
	release()
	if r := c.reply(); r.ID != 1 || r.Kind != api.KindNotFound {
		t.Errorf("after the store: %d, %v", r.ID, r.Err())
	}
	close(s.release)
	if r := c.reply(); r.ID != 2 || r.Kind != api.KindNone || !bytes.Contains(r.Body, []byte("slow")) {
		t.Errorf("after the token: %d, %v", r.ID, r.Err())
	}
	if all := b.records(); len(all) != 4 {
		t.Errorf("got %d records, want 4", len(all))
	}
}

// TestNoReplyLeavesBeforeItsRecordIsOnDisk, whether it is alone on its
// connection, one of many, or a worker's.
func TestNoReplyLeavesBeforeItsRecordIsOnDisk(t *testing.T) {
	t.Parallel()
	s := newSlow()
	close(s.release)
	b := start(t, s.routes)
	t.Cleanup(b.Disk.Release)
	alone, many := b.open(), b.open()
	for id := range api.RequestID(2) { // the second is answered by the reader itself
		alone.send(alone.encrypt(id+1, "x"))
		alone.reply()
	}
	b.Disk.Hold()
	alone.send(alone.encrypt(3, "rose"))
	many.send(many.encrypt(1, "rose"), echoes(2, "lily"), many.encrypt(3, "iris"))
	await(t, s.inside)
	for _, c := range []*raw{alone, many} {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if frame, err := c.next(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v while no record is on disk", len(frame), err)
		}
		c.SetReadDeadline(time.Now().Add(patience))
	}
	b.Disk.Release()
	if r := alone.reply(); r.ID != 3 || r.Kind != api.KindNone {
		t.Errorf("%d was answered %v", r.ID, r.Err())
	}
	if kinds, _ := many.answers(3); kinds[2] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
}

// TestADeadLogAnswersNobody: when a sync fails, connections end without the
// replies whose records it would have kept.
func TestADeadLogAnswersNobody(t *testing.T) {
	t.Parallel()
	b := start(t)
	one, two, idle := b.open(), b.open(), b.open()
	b.Disk.Hold()
	one.send(one.encrypt(1, "rose"))
	two.send(two.encrypt(1, "lily"), two.encrypt(2, "iris"))
	b.Disk.Break(errors.New("input/output error"))
	b.Disk.Release()
	for _, c := range []*raw{one, two} {
		if frame, err := c.next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v after a failed sync", len(frame), err)
		}
	}
	idle.send(idle.encrypt(1, "aster"))
	if frame, err := idle.next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %d bytes, %v from a dead log", len(frame), err)
	}
}

// TestQueuedRequestsAreCopies: what waits for a worker does not change when its
// place in the read buffer is used again.
func TestQueuedRequestsAreCopies(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes) // one worker
	c := b.open()
	c.send(echoes(1, "rose"), echoes(2, "lily"))
	await(t, s.inside)
	c.send(echoes(3, "iris"), c.encrypt(4, "over it"))
	if r := c.reply(); r.ID != 4 {
		t.Errorf("answered %d first: %v", r.ID, r.Err())
	}
	close(s.release)
	for id, text := range []string{1: "rose", 2: "lily", 3: "iris"} {
		if id == 0 {
			continue
		}
		if r := c.reply(); r.ID != api.RequestID(id) || r.Kind != api.KindNone || !bytes.Contains(r.Body, []byte(text)) {
			t.Errorf("%d was answered %v, %q", r.ID, r.Err(), r.Body)
		}
	}
}

// TestServedRequestsAreOverwritten: their plaintext does not stay, neither in the
// read buffer nor in a worker's copy.
func TestServedRequestsAreOverwritten(t *testing.T) {
	t.Parallel()
	s := newSlow()
	close(s.release)
	b := start(t, s.routes)
	c := b.open()
	for id, op := range []*api.Op{talk.Op, echo.Op} {
		c.send(protocol.AppendRequest(nil, api.RequestID(id+1), op, &said{Text: api.Blob("petals")}))
		if r := c.reply(); r.Kind != api.KindNone {
			t.Errorf("answered %v", r.Err())
		}
		if kept := await(t, s.kept); !bytes.Equal(kept, bytes.Repeat([]byte{racktest.Scribble}, 6)) {
			t.Errorf("%s leaves %q", op, kept)
		}
	}
}

// TestAFullPoolSaysSo at once, to the request that finds no place.
func TestAFullPoolSaysSo(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes) // one worker, four places
	c := b.open()
	var all [][]byte
	for id := range api.RequestID(8) {
		all = append(all, echoes(id+1, "x"))
	}
	c.send(all...)
	kinds, _ := c.answers(3)
	for id, kind := range kinds {
		if kind != api.KindThrottling {
			t.Errorf("%d was answered %v", id, kind)
		}
	}
	close(s.release)
	if kinds, _ := c.answers(5); kinds[1] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
	if all := b.records(); len(all) != 8 {
		t.Errorf("got %d records, want 8", len(all))
	}
}

// TestThousandsAtOnce: a client may write as many requests as it likes before it
// reads; each is answered once and recorded once.
func TestThousandsAtOnce(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.pools[work.Store] = work.Size{Workers: 4, Queue: 4096} })
	c := b.open()
	const n = 3000
	var all bytes.Buffer
	for id := range api.RequestID(n) {
		if id%10 == 0 {
			all.Write(c.uncached(id + 1))
		} else {
			all.Write(c.encrypt(id+1, "x"))
		}
	}
	go c.Write(all.Bytes())
	kinds, _ := c.answers(n)
	for id, kind := range kinds {
		want := api.KindNone
		if id%10 == 1 {
			want = api.KindNotFound
		}
		if kind != want {
			t.Errorf("%d was answered %v, want %v", id, kind, want)
		}
	}
	eventually(t, "a record for each", func() bool {
		return len(b.Records())-b.seen >= n*9/10+api.RefusalsPerSecond
	})
}

// TestTheWindowHoldsThePeerBack: of requests that wait for workers only as many
// are read as the window has places, so that one connection cannot fill the
// pools of all.
func TestTheWindowHoldsThePeerBack(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) {
		set.limits.Window = 8
		set.pools[work.Token] = work.Size{Workers: 64, Queue: 64}
	})
	c := b.dial(b.config())
	if h := c.hello(); h.Window != 8 {
		t.Errorf("the hello says %d", h.Window)
	}
	var all [][]byte
	for id := range api.RequestID(100) {
		all = append(all, echoes(id+1, "x"))
	}
	c.send(all...)
	for range 8 {
		await(t, s.inside)
	}
	b.lives()
	select {
	case <-s.inside:
		t.Error("a ninth request is at work")
	default:
	}
	close(s.release)
	if kinds, _ := c.answers(100); kinds[100] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
}

// TestFramesMayBeCutAnywhere: TLS records say nothing about frames.
func TestFramesMayBeCutAnywhere(t *testing.T) {
	t.Parallel()
	b := start(t)
	c := b.open()
	two := bytes.Join([][]byte{c.encrypt(1, "rose"), c.encrypt(2, "lily")}, nil)
	for at := 1; at < len(two); at++ {
		c.send(two[:at])
		c.send(two[at:])
		if kinds, _ := c.answers(2); kinds[1] != api.KindNone || kinds[2] != api.KindNone {
			t.Fatalf("cut at %d: %v", at, kinds)
		}
	}
	for i := range two {
		c.send(two[i : i+1])
	}
	if kinds, _ := c.answers(2); kinds[1] != api.KindNone || kinds[2] != api.KindNone {
		t.Errorf("byte by byte: %v", kinds)
	}
	if all := b.records(); len(all) != 2*len(two) {
		t.Errorf("got %d records, want %d", len(all), 2*len(two))
	}
}

// TestLargeFrames: up to the limit they are read, whatever was read before.
func TestLargeFrames(t *testing.T) {
	t.Parallel()
	s := newSlow()
	close(s.release)
	b := start(t, s.routes)
	c := b.open()
	for i, size := range []int{100, 60_000, 70_000, api.MaxRequestFrame - 14, 10, api.MaxRequestFrame - 14} {
		text := bytes.Repeat([]byte{byte('a' + i)}, size)
		c.send(c.encrypt(1, "before"), echoes(2, string(text)), c.encrypt(3, "behind"))
		for range 3 {
			if r := c.reply(); r.Kind != api.KindNone || r.ID == 2 && !bytes.Contains(r.Body, text) {
				t.Errorf("%d bytes: %d was answered %v", size, r.ID, r.Err())
			}
		}
	}
	c.send(frameOf(bytes.Repeat([]byte{0}, api.MaxRequestFrame)...))
	c.dismissed(api.KindSerialization)
}

// TestWhatAnIDAnswersFor: everything wrong behind a readable id is answered to
// it, with one record, and the connection goes on.
func TestWhatAnIDAnswersFor(t *testing.T) {
	t.Parallel()
	b := start(t)
	c := b.open()
	encrypt := uint64(1<<8 | 2)
	deep := append(bytes.Repeat([]byte{0x81}, 100_000), 0)
	for name, r := range map[string]struct {
		frame []byte
		op    uint16
		want  api.Kind
	}{
		"unknown operation":         {envelope(9, 0x7777, []byte{0xa0}, []byte{0xa0}), 0, api.KindUnknownOperation},
		"operation 0":               {envelope(9, 0, []byte{0xa0}, []byte{0xa0}), 0, api.KindUnknownOperation},
		"last operation":            {envelope(9, 0xffff, []byte{0xa0}, []byte{0xa0}), 0, api.KindUnknownOperation},
		"unknown, with garbage":     {envelope(9, 0x7777, []byte{0xff, 0xff}, []byte{0xa0}), 0, api.KindUnknownOperation},
		"unknown option":            {envelope(9, encrypt, []byte{0xa0}, []byte{0xa1, 0x01, 0x01}), uint16(encrypt), api.KindSerialization},
		"options are a list":        {envelope(9, encrypt, []byte{0xa0}, []byte{0x80}), uint16(encrypt), api.KindSerialization},
		"no options":                {envelope(9, encrypt, []byte{0xa0}, nil), uint16(encrypt), api.KindSerialization},
		"nothing behind the number": {envelope(9, encrypt, nil, nil), uint16(encrypt), api.KindSerialization},
		"body is a list":            {envelope(9, encrypt, []byte{0x80}, []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"body is cut":               {envelope(9, encrypt, []byte{0xa2, 0x01}, []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"body and more":             {envelope(9, encrypt, []byte{0xa0, 0xa0}, []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"endless body":              {envelope(9, encrypt, []byte{0xbf}, []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"nested deeply":             {envelope(9, encrypt, append([]byte{0xa1, 0x03}, deep...), []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"options nested deeply":     {envelope(9, encrypt, []byte{0xa0}, deep), uint16(encrypt), api.KindSerialization},
		"huge length inside":        {envelope(9, encrypt, []byte{0xa1, 0x02, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{0xa0}), uint16(encrypt), api.KindSerialization},
		"members are missing":       {envelope(9, encrypt, []byte{0xa0}, []byte{0xa0}), uint16(encrypt), api.KindValidation},
	} {
		b.pass()
		c.send(r.frame)
		got := c.reply()
		if got.ID != 9 || got.Kind != r.want || got.Err() == nil || got.Err().Error() == r.want.String() {
			t.Errorf("%s: %d was answered %v, want %v and why", name, got.ID, got.Err(), r.want)
		}
		if rec := b.recorded(r.op, r.want); rec.RequestID != 9 {
			t.Errorf("%s: recorded %+v", name, rec)
		}
	}
	c.send(c.encrypt(1, "rose"))
	if r := c.reply(); r.ID != 1 || r.Kind != api.KindNone {
		t.Errorf("afterwards %d was answered %v", r.ID, r.Err())
	}
}

// TestIdsAreTheClientsOwn: any number from 1 is an id, and comes back.
func TestIdsAreTheClientsOwn(t *testing.T) {
	t.Parallel()
	b := start(t)
	c := b.open()
	for _, id := range []api.RequestID{1, 23, 24, 0xffff_ffff, 1 << 63, 1<<64 - 1} {
		c.send(c.encrypt(id, "rose"))
		if r := c.reply(); r.ID != id || r.Kind != api.KindNone {
			t.Errorf("%d: %d was answered %v", id, r.ID, r.Err())
		}
	}
	c.send(c.encrypt(7, "rose"), c.encrypt(7, "lily")) // twice at once: both are answered
	for range 2 {
		if r := c.reply(); r.ID != 7 || r.Kind != api.KindNone {
			t.Errorf("%d was answered %v", r.ID, r.Err())
		}
	}
}

// TestServersRefuseTwoRoutesForOneOperation: which one serves would be chance.
func TestServersRefuseTwoRoutesForOneOperation(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	routes := append(r.Routes(), r.Routes()[0])
	if _, err := server.New(server.Config{Gate: r.Gate(), Routes: routes}); err == nil {
		t.Error("two routes for one operation are accepted")
	}
}

// TestOneAccountCannotCrowdOutAnother: an account whose requests fill its share of the
// workers and of their queue is told so, and another's finds a worker at once.
func TestOneAccountCannotCrowdOutAnother(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) { set.pools[work.Token] = work.Size{Workers: 4, Queue: 16} })
	greedy := b.open()
	for id := range api.RequestID(40) {
		greedy.send(echoes(id+1, "x"))
	}
	const held = 3 + 8 // of the workers and of the queue
	if kinds, _ := greedy.answers(40 - held); kinds[40] != api.KindThrottling {
		t.Errorf("got %v, want the last ones throttled", kinds)
	}
	for range 3 {
		await(t, s.inside)
	}
	modest := b.dial(b.configOf(b.StrangerConfig.Certificate))
	modest.hello()
	modest.send(echoes(1, "rose"))
	await(t, s.inside)
	close(s.release)
	if r := modest.reply(); r.Kind != api.KindNone {
		t.Errorf("the other account was answered %v", r.Err())
	}
	if kinds, _ := greedy.answers(held); kinds[1] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
}
