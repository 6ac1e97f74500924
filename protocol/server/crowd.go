package server

import (
	"container/list"
	"context"
	"iter"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
)

// register counts a new connection. The operator's, on the Unix socket, have places of
// their own: whatever comes from the network keeps nobody out who can end it. On the
// network, where there are too many, one that has not said who it is makes way: silence
// costs a peer nothing, so it must not keep others out. Unless the server has stopped,
// Close waits for a Done.
func (s *Server) register(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errStopped
	}
	s.wg.Add(1)
	if c.local {
		if s.locals >= s.Limits.MaxConnsOperator {
			return api.Errorf(api.KindThrottling, "%d connections of the operator are open", s.locals)
		}
		s.locals++
		s.conns[c] = struct{}{}
		return nil
	}
	if s.strangers.n > 0 && (s.strangers.n >= s.Limits.MaxHandshakes || s.remotes() >= s.Limits.MaxConnections) {
		victim := s.strangers.pick()
		s.leave(victim)
		victim.cut()
	}
	if s.remotes() >= s.Limits.MaxConnections {
		return api.Errorf(api.KindThrottling, "%d connections are open", s.Limits.MaxConnections)
	}
	s.conns[c] = struct{}{}
	s.strangers.add(c)
	return nil
}

// remotes returns how many connections come from the network, with mu held.
func (s *Server) remotes() int { return len(s.conns) - s.locals }

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(c)
}

// leave uncounts a connection, with mu held. Twice is once.
func (s *Server) leave(c *conn) {
	if _, open := s.conns[c]; !open {
		return
	}
	delete(s.conns, c)
	s.strangers.remove(c)
	if c.local {
		s.locals--
	}
	if c.counted {
		c.counted = false
		uncount(s.peers, c.peer.Who.Hash())
		uncount(s.accounts, c.account)
	}
}

// uncount takes one of k away, and k with the last one.
func uncount[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

// crowd is how many times the places that are free one account may have: of all of them
// three quarters, beside another that has its share three quarters of the rest. Keys cost
// an account nothing, so the bound of each key alone keeps no place for others.
const crowd = 3

// admit counts an identified connection, unless its principal or its account has too many.
func (s *Server) admit(c *conn, account api.AccountID) *api.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.local {
		return nil
	}
	hash := c.peer.Who.Hash()
	switch free := s.Limits.MaxConnections - (s.remotes() - s.strangers.n); {
	case s.peers[hash] >= s.Limits.MaxConnsPrincipal:
		return tooMany("principal")
	case s.accounts[account] >= crowd*free:
		return tooMany("account")
	}
	if _, open := s.conns[c]; !open { // it had to make way a moment ago, and is cut
		return nil
	}
	s.strangers.remove(c)
	s.peers[hash]++
	s.accounts[account]++
	c.account, c.counted = account, true
	return nil
}

func tooMany(of string) *api.Error {
	return &api.Error{Kind: api.KindThrottling, RetryAfter: time.Second,
		Message: "this " + of + " has too many open connections: share them, many requests fit on one"}
}

// refused notes that a stranger is being told why it is not served: from now on it is
// the first to make way.
func (s *Server) refused(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers.tell(c)
}

// strangers are the connections that have not said who they are. The zero value is
// empty. Not safe for concurrent use.
type strangers struct {
	n    int
	from map[netip.Addr][]*conn // those in their handshake, by where they come from; none is empty
	told list.List              // of *conn; those that are being told why they are not served, oldest first
}

func (x *strangers) add(c *conn) {
	if x.from == nil {
		x.from = map[netip.Addr][]*conn{}
	}
	c.source, c.silent = addressOf(c.raw), time.Now()
	c.place = len(x.from[c.source])
	x.from[c.source] = append(x.from[c.source], c)
	c.stranger = true
	x.n++
}

// remove takes a connection out, if it is in.
func (x *strangers) remove(c *conn) {
	switch {
	case !c.stranger:
		return
	case c.told != nil:
		x.told.Remove(c.told)
		c.told = nil
	default:
		x.part(c)
	}
	c.stranger = false
	x.n--
}

// part takes a connection from those of its address; the last one gets its place.
func (x *strangers) part(c *conn) {
	all := x.from[c.source]
	last := len(all) - 1
	all[c.place], all[last].place = all[last], c.place
	all[last] = nil
	if x.from[c.source] = all[:last]; last == 0 {
		delete(x.from, c.source)
	}
}

// tell moves a connection to those that are being told.
func (x *strangers) tell(c *conn) {
	if c.stranger && c.told == nil {
		x.part(c)
		c.told = x.told.PushBack(c)
	}
}

// loud is the part of all strangers, one in so many, that an address may have before it
// alone makes way.
const loud = 8

// pick returns who makes way; there is somebody. First those who got their answer, the
// oldest before the others. Then one of the address that has most, if that is many, so
// that an address pushes out its own; or else one of all. Of these the one that is silent
// for longest: who means it is never silent for longer than a round trip. Where nobody is
// silent, and it is we who are slow, any: of a flood that comes faster than it is computed
// the oldest is who is next.
func (x *strangers) pick() *conn {
	if first := x.told.Front(); first != nil {
		return first.Value.(*conn)
	}
	var most []*conn
	for _, all := range x.from {
		if len(all) > len(most) {
			most = all
		}
	}
	if len(most) > x.n/loud {
		return oneOf(slices.Values([][]*conn{most}))
	}
	return oneOf(maps.Values(x.from))
}

// oneOf returns the connection that is silent for longest, or any if none is.
func oneOf(groups iter.Seq[[]*conn]) (victim *conn) {
	seen := 0
	for group := range groups {
		for _, c := range group {
			switch seen++; {
			case !c.silent.IsZero() && (victim == nil || victim.silent.IsZero() || c.silent.Before(victim.silent)):
				victim = c
			case (victim == nil || victim.silent.IsZero()) && rand.IntN(seen) == 0:
				victim = c
			}
		}
	}
	return victim
}

// hush notes whether a stranger is waited for.
func (s *Server) hush(c *conn, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.silent = since
}

// addressOf returns where a connection comes from: what one peer can have many of
// counts as one, the lower half of an IPv6 address (RFC 4291 §2.5.4) and the port.
func addressOf(nc net.Conn) netip.Addr {
	tcp, ok := nc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	a := tcp.AddrPort().Addr().Unmap()
	if a.Is6() {
		net64, _ := a.WithZone("").Prefix(64) // 64 bits are always a prefix
		return net64.Addr()
	}
	return a
}

// seats are for handshakes that compute: half of the processors, so that a flood of
// handshakes leaves the other half to those who are served. Addresses take turns; who has
// answered what we computed goes first.
type seats struct {
	mu    sync.Mutex
	free  int                               // guarded by mu
	line  work.Queue[netip.Addr, *newcomer] // guarded by mu; empty while seats are free
	again work.Queue[netip.Addr, *newcomer] // guarded by mu; of those who had a seat; likewise
}

// newcomer waits for a seat.
type newcomer struct {
	seated chan struct{} // closed when it has one
	gone   bool          // guarded by seats.mu; it does not wait any more
}

// take waits for a seat until ctx ends; again says that the caller had one before.
func (s *seats) take(ctx context.Context, from netip.Addr, again bool) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	n := &newcomer{seated: make(chan struct{})}
	if again {
		s.again.Push(from, n)
	} else {
		s.line.Push(from, n)
	}
	s.mu.Unlock()
	select {
	case <-n.seated:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-n.seated: // at the same moment
		s.next()
	default:
		n.gone = true
	}
	return ctx.Err()
}

func (s *seats) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next()
}

// next gives a seat to the next one that still waits, with mu held.
func (s *seats) next() {
	for {
		_, n, ok := s.again.Pop(anybody)
		if !ok {
			_, n, ok = s.line.Pop(anybody)
		}
		if !ok {
			s.free++
			return
		}
		if !n.gone {
			close(n.seated)
			return
		}
	}
}

func anybody(netip.Addr) bool { return true }

// seat is a connection that is not identified yet. It has a seat while it computes, from
// its acceptance on, and none while it waits for the peer, so that silent peers keep
// nobody out; what it writes then fits the socket's buffer. For one goroutine at a time.
type seat struct {
	net.Conn
	of    *conn
	ctx   context.Context // of the handshake
	taken bool
	had   bool // one since it was accepted
	over  bool // no seat is needed any more
}

func (s *seat) Read(b []byte) (int, error) {
	if s.over {
		return s.Conn.Read(b)
	}
	s.rise()
	s.of.hush(s.of, time.Now())
	n, err := s.Conn.Read(b)
	if err != nil {
		return n, err
	}
	s.of.hush(s.of, time.Time{})
	if err := s.of.seats.take(s.ctx, s.of.source, s.had); err != nil {
		return 0, err
	}
	s.taken, s.had = true, true
	return n, nil
}

// take takes a seat for what was just accepted, in turn with those who compute.
func (s *seat) take(ctx context.Context) error {
	if s.over {
		return nil
	}
	err := s.of.seats.take(ctx, netip.Addr{}, false)
	s.taken = err == nil
	return err
}

func (s *seat) rise() {
	if s.taken {
		s.of.seats.give()
		s.taken = false
	}
}

// leave ends the need of a seat.
func (s *seat) leave() {
	s.rise()
	s.over = true
}
