package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
)

// slot is a place for one connection; it is made when first needed, once for
// all who need it.
type slot struct {
	mu     sync.Mutex
	conn   *conn         // guarded by mu; nil before the first, and perhaps ended
	old    []*conn       // guarded by mu; retired ones that some still wait on
	making *making       // guarded by mu; the next one; nil if nobody needs it
	vain   int           // guarded by mu; connections in a row that could not be made or answered nothing
	asked  time.Duration // guarded by mu; how long the appliance wants us to wait before the next
	shut   error         // guarded by mu; why there are no more connections
}

// making is a connection that is being made.
type making struct {
	done chan struct{} // closed when the rest is set
	conn *conn
	err  error
}

// Pauses between connections of one slot that lead to nothing.
const (
	firstDialPause = 20 * time.Millisecond
	mostDialPause  = time.Second
	mostAsked      = 30 * time.Second // that the appliance may ask for
)

// conn returns a connection that works, of one slot after the other. A slot that
// has none while others do keeps nobody waiting.
func (c *Client) conn(ctx context.Context) (*conn, error) {
	n := c.next.Add(1)
	conn, m, err := c.slots[n%uint64(len(c.slots))].get(c)
	if m == nil {
		return conn, err
	}
	for i := range uint64(len(c.slots)) {
		if other := c.slots[(n+i)%uint64(len(c.slots))].working(); other != nil {
			return other, nil
		}
	}
	select {
	case <-m.done:
		return m.conn, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connected reports whether any connection works.
func (c *Client) connected() bool {
	for i := range c.slots {
		if c.slots[i].working() != nil {
			return true
		}
	}
	return false
}

// working returns the slot's connection if it works, else nil.
func (s *slot) working() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut == nil && s.conn != nil && s.conn.works() && !s.conn.retired.Load() {
		return s.conn
	}
	return nil
}

// get returns the slot's connection, or the one that is being made because there
// is none that works.
func (s *slot) get(c *Client) (*conn, *making, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.shut != nil:
		return nil, nil, s.shut
	case s.conn != nil && s.conn.works() && !s.conn.retired.Load():
		return s.conn, nil, nil
	case s.making == nil:
		s.leave()
		s.making = &making{done: make(chan struct{})}
		go s.make(c, s.making, s.pause())
	}
	return nil, s.making, nil
}

// leave lets go of the slot's connection, with mu held.
func (s *slot) leave() {
	if s.conn == nil {
		return
	}
	s.old = slices.DeleteFunc(s.old, func(old *conn) bool { return !old.works() })
	switch {
	case s.conn.works():
		s.old = append(s.old, s.conn)
	case s.conn.useful():
		s.vain = 0
	default:
		s.vain++
	}
	s.conn = nil
}

// pause returns how long to wait before the next connection, with mu held: between
// half and all of 20 ms × 2^n, at most a second, after n that led to nothing, and as
// long as the appliance asks for. So one that is dead, or dies again and again, is
// not met by more than a few connections a second, however many calls there are.
func (s *slot) pause() time.Duration {
	if s.vain == 0 {
		return 0
	}
	most := min(firstDialPause<<min(s.vain-1, 10), mostDialPause)
	return max(s.asked, most/2+jitter(most/2))
}

// make connects after a pause. However long those who wait can wait, it takes its own
// time: else none of many impatient callers would ever get a connection.
func (s *slot) make(c *Client, m *making, pause time.Duration) {
	sleep(c.life, pause)
	ctx, cancel := context.WithTimeout(c.life, c.cfg.DialTimeout)
	defer cancel()
	m.conn, m.err = connect(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making, s.asked = nil, 0
	if refusal, ok := errors.AsType[*api.Error](m.err); ok {
		s.asked = min(refusal.RetryAfter, mostAsked)
	}
	if m.err != nil {
		s.vain++
	}
	if s.shut != nil {
		if m.err == nil {
			m.conn.end(s.shut)
		}
		m.conn, m.err = nil, s.shut
	}
	s.conn = m.conn
	close(m.done)
}

// shut ends the connections, and every later call, with err. The first counts.
func (c *Client) shut(err error) {
	for i := range c.slots {
		s := &c.slots[i]
		s.mu.Lock()
		if s.shut == nil {
			s.shut = err
		}
		conns := append(slices.Clone(s.old), s.conn)
		s.mu.Unlock()
		for _, conn := range conns {
			if conn != nil {
				conn.end(err)
			}
		}
	}
	c.end()
}

// Close ends the connections and what the client does in the background; calls under
// way fail with ErrLost or ErrClosed. It waits for nothing but callbacks of Start.
func (c *Client) Close() error {
	c.shut(ErrClosed)
	return nil
}
