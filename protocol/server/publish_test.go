package server_test

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// answering returns a route for Echo that answers with a word, on a worker if slow is set.
func answering(g *access.Gate, word string, slow bool) access.Route {
	return access.Handle(g, echo, func(c *access.Call, _, out *said) error {
		if err := c.Admit(anybody{}); err != nil {
			return err
		}
		class := work.None
		if slow {
			class = work.Store
		}
		if err := c.Need(class); err != nil {
			return err
		}
		out.Text = append(c.Bytes(len(word))[:0], word...)
		return nil
	})
}

// with returns the appliance's routes and more.
func (b *bed) with(more ...access.Route) []access.Route { return slices.Concat(b.Routes(), more) }

// word returns what a reply to Echo says.
func (c *raw) word(r protocol.Reply) string {
	c.b.tb.Helper()
	var out said
	if err := r.Err(); err != nil {
		return err.Error()
	}
	check(c.b.tb, echo.Out.DecodeReply(r.Body, &out))
	return string(out.Text)
}

// TestPublishOnAnOpenConnection: an operation comes, changes and goes, for the
// connections that there are. Routes that cannot be published change nothing.
func TestPublishOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	b := start(t)
	c := b.open()
	ask := func(want api.Kind, word string) {
		t.Helper()
		c.send(echoes(1, "?"))
		r := c.reply()
		if r.Kind != want || want == api.KindNone && c.word(r) != word {
			t.Errorf("answered %v, %q, want %v, %q", r.Kind, c.word(r), want, word)
		}
	}
	one, two := answering(b.Gate(), "one", false), answering(b.Gate(), "two", false)
	ask(api.KindUnknownOperation, "")
	check(t, b.srv.Publish(b.with(one)))
	ask(api.KindNone, "one")
	b.serves()
	check(t, b.srv.Publish(b.with(two)))
	ask(api.KindNone, "two")
	if err := b.srv.Publish(b.with(one, two)); err == nil {
		t.Error("two routes for one operation were published")
	}
	ask(api.KindNone, "two")
	check(t, b.srv.Publish(nil))
	ask(api.KindUnknownOperation, "")
	c.send(c.encrypt(2, "rose"))
	if r := c.reply(); r.Kind != api.KindUnknownOperation {
		t.Errorf("without routes, Encrypt was answered %v", r.Kind)
	}
}

// TestPublishUnderLoad: while many connections send, every request is answered
// by one set of routes or the other, and what is sent after Publish has returned
// by the new one.
func TestPublishUnderLoad(t *testing.T) {
	t.Parallel()
	b := start(t)
	sets := map[string][]access.Route{}
	for _, word := range []string{"even", "odd"} {
		sets[word] = b.with(answering(b.Gate(), word, word == "odd"))
	}
	check(t, b.srv.Publish(sets["even"]))
	var over atomic.Bool
	var answered [2]atomic.Int64
	var load sync.WaitGroup
	for range 4 {
		c := b.open()
		load.Go(func() {
			burst := bytes.Join([][]byte{echoes(1, "?"), echoes(2, "?"), echoes(3, "?")}, nil)
			for !over.Load() {
				c.send(burst)
				for range 3 {
					switch word := c.word(c.reply()); word {
					case "even":
						answered[0].Add(1)
					case "odd":
						answered[1].Add(1)
					default:
						t.Errorf("answered %q", word)
					}
				}
			}
		})
	}
	c := b.open()
	for range 100 {
		for _, word := range []string{"odd", "even"} {
			check(t, b.srv.Publish(sets[word]))
			c.send(echoes(1, "?"))
			if got := c.word(c.reply()); got != word {
				t.Errorf("after %q was published, %q answers", word, got)
			}
		}
	}
	eventually(t, "the load", func() bool { return answered[0].Load() > 100 })
	check(t, b.srv.Publish(sets["odd"]))
	eventually(t, "the load", func() bool { return answered[1].Load() > 100 })
	over.Store(true)
	load.Wait()
}
