package server_test

import (
	"testing"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
)

// climb reads something first, and only then knows that its work is slow.
func (s *slow) climb(c *access.Call, in, out *said) error {
	if err := c.Admit(anybody{}); err != nil {
		return err
	}
	if err := c.Need(work.Store); err != nil {
		return err
	}
	if err := c.Need(work.Generate); err != nil {
		return err
	}
	s.inside <- struct{}{}
	<-s.release
	out.Text = append(c.Bytes(len(in.Text))[:0], in.Text...)
	return nil
}

// TestSlowWorkGetsItsOwnWorkers: who had to read first goes on with the workers of its slow work, and
// not with those who read. Where they have no room it is told so, and there is one record of each call.
func TestSlowWorkGetsItsOwnWorkers(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, func(set *setup) {
		set.routes = func(g *access.Gate) []access.Route { return []access.Route{access.Handle(g, echo, s.climb)} }
	})
	c := b.open()
	before := len(b.Records())
	c.send(echoes(1, "first"))
	<-s.inside
	c.send(echoes(2, "second"))
	if r := c.reply(); r.ID != 2 || api.KindOf(r.Err()) != api.KindThrottling {
		t.Errorf("while the one worker is busy: reply %d, %v; want the second to be throttled", r.ID, r.Err())
	}
	close(s.release)
	if r := c.reply(); r.ID != 1 || r.Err() != nil {
		t.Errorf("reply %d, %v; want the first one's", r.ID, r.Err())
	}
	if n := len(b.Records()) - before; n != 2 {
		t.Errorf("%d records of 2 calls", n)
	}
}
