package server_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol"
)

// labelled runs f with a label on its goroutine and on all that come of it, and gives it
// a function that counts them: those with a text in their stack.
func labelled(t *testing.T, f func(count func(text string) int)) {
	label := t.Name()
	count := func(text string) (n int) {
		var all bytes.Buffer
		check(t, pprof.Lookup("goroutine").WriteTo(&all, 1))
		for group := range strings.SplitSeq(all.String(), "\n\n") {
			if head := members.FindStringSubmatch(group); head != nil && strings.Contains(group, strconv.Quote(label)) && strings.Contains(group, text) {
				more, err := strconv.Atoi(head[1])
				check(t, err)
				n += more
			}
		}
		return n
	}
	pprof.Do(t.Context(), pprof.Labels("test", label), func(context.Context) { f(count) })
}

// members is the head of a group of goroutines with one stack.
var members = regexp.MustCompile(`(?m)^(\d+) @`)

// TestRest: a connection on which nothing is asked gives back its memory and its second
// goroutine, is served again when it asks, and leaves nothing behind when it ends.
func TestRest(t *testing.T) {
	t.Parallel()
	labelled(t, func(count func(string) int) {
		b := start(t)
		writers := func() int { return count("(*outbox).write") }
		readers := func() int { return count("(*conn).run+") } // not the goroutine that has greeted, which may still be ending
		var all []*raw
		others, busy := readers(), writers() // of the appliance's own server
		for range 20 {
			all = append(all, b.open())
		}
		if w, r := writers(), readers()-others; w > busy || r != len(all) {
			t.Errorf("%d connections that asked nothing have %d writers more and %d readers", len(all), w-busy, r)
		}
		for round := range api.RequestID(2) {
			for _, c := range all {
				c.send(c.encrypt(2*round+1, "rose"), c.encrypt(2*round+2, "lily"))
			}
			for _, c := range all {
				if kinds, _ := c.answers(2); kinds[1] != api.KindNone || kinds[2] != api.KindNone {
					t.Errorf("round %d: %v", round, kinds)
				}
			}
			eventually(t, "a rest of all", func() bool { return writers() == 0 })
			if n := b.srv.Connections(); n != len(all) {
				t.Errorf("%d connections are open, want %d", n, len(all))
			}
		}
		for _, c := range all {
			c.Close()
		}
		eventually(t, "the end of all", func() bool { return b.srv.Connections() == 0 && readers() == others })
	})
}

// TestRestIsNoFreshStart: the time a connection rests counts as idle.
func TestRestIsNoFreshStart(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.IdleTimeout = 3 * time.Second })
	c := b.open()
	asked := time.Now()
	c.send(c.encrypt(1, "rose"))
	c.reply()
	c.dismissed(api.KindRequestTimeout)
	if d := time.Since(asked); d < 2*time.Second {
		t.Errorf("it ended after %v", d)
	}
}

// TestFramesAfterARest arrive whole, however they are cut.
func TestFramesAfterARest(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.IdleTimeout = time.Minute })
	c := b.open()
	for id, at := range []int{1, 3, 4, 5, 64} {
		f := c.encrypt(api.RequestID(id+1), "rose")
		c.send(f[:at])
		c.send(f[at:])
		if r := c.reply(); r.ID != api.RequestID(id+1) || r.Kind != api.KindNone {
			t.Errorf("cut at %d: %d was answered %v", at, r.ID, r.Err())
		}
		c = b.open()
	}
}

// TestFramesLargerThanTheBuffer are served, in whatever parts they come and beside small ones.
func TestFramesLargerThanTheBuffer(t *testing.T) {
	t.Parallel()
	b := start(t, newSlow().routes)
	c := b.open()
	var stream bytes.Buffer
	sizes := []int{api.MaxRequestFrame - 30, 10, 70_000, api.MaxRequestFrame - 30, 65_530}
	for i, n := range sizes {
		stream.Write(protocol.AppendRequest(nil, api.RequestID(i+1), talk.Op, &said{Text: make(api.Blob, n)}))
	}
	go func() {
		for stream.Len() > 0 {
			c.Write(stream.Next(9_999))
		}
	}()
	if kinds, _ := c.answers(len(sizes)); kinds[1] != api.KindNone || kinds[2] != api.KindNone || kinds[3] != api.KindNone || kinds[5] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
}

// TestSlowPeersLeaveNothing: whatever way a peer has of taking its time, its deadline ends
// the connection, and no goroutine of it is left.
func TestSlowPeersLeaveNothing(t *testing.T) {
	t.Parallel()
	labelled(t, func(count func(string) int) {
		b := start(t, newSlow().routes, func(s *setup) {
			s.limits.HandshakeTimeout, s.limits.FrameTimeout = 5*time.Second, 200*time.Millisecond
			s.limits.WriteTimeout, s.limits.IdleTimeout = 200*time.Millisecond, 5*time.Second
		})
		ours := func() int { return count("protocol/server.(*conn)") + count("protocol/server.(*outbox)") }
		eventually(t, "a rest of the appliance's own", func() bool { return count("(*outbox).write") == 0 })
		before := ours()
		drip := func(nc net.Conn, b []byte) {
			for _, one := range b {
				if _, err := nc.Write([]byte{one}); err != nil {
					return
				}
				runtime.Gosched()
			}
		}
		hello := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
		slow := map[string]func(){
			"says nothing":               func() { b.connect() },
			"a hello byte by byte":       func() { go drip(b.connect(), hello[:1000]) },
			"half a handshake":           func() { b.halfway() },
			"a greeting that is ignored": func() { b.dial(b.config()) },
			"idle":                       func() { b.open() },
			"a frame byte by byte":       func() { c := b.open(); go drip(c, c.encrypt(1, "rose")[:20]) },
			"a request, then idle":       func() { c := b.open(); c.send(c.encrypt(1, "rose")); c.reply() },
			"answers that are not taken": func() {
				c := b.open()
				go func() {
					for {
						if _, err := c.Write(protocol.AppendRequest(nil, 1, talk.Op, &said{})); err != nil {
							return
						}
					}
				}()
			},
		}
		for range 3 {
			for _, act := range slow {
				act()
			}
		}
		eventually(t, "the end of all", func() bool { return b.srv.Connections() == 0 })
		eventually(t, "the end of their goroutines", func() bool { return ours() <= before })
		b.serves()
	})
}
