package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
)

// halfway connects and begins a handshake that it does not go on with.
func (b *bed) halfway() net.Conn {
	b.tb.Helper()
	nc := b.connect()
	_, err := nc.Write([]byte{22, 3, 1, 2, 0}) // the head of a ClientHello
	check(b.tb, err)
	return nc
}

// from connects from another address of this machine.
func (b *bed) from(address string) net.Conn {
	b.tb.Helper()
	nc, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).Dial("tcp", b.addr)
	check(b.tb, err)
	nc.SetDeadline(time.Now().Add(patience))
	b.tb.Cleanup(func() { nc.Close() })
	return nc
}

// isOpen reports whether a silent connection is still open.
func isOpen(nc net.Conn) bool {
	nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer nc.SetDeadline(time.Now().Add(patience))
	_, err := nc.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// TestSilenceKeepsNobodyOut: where all places are taken by peers that have not
// said who they are, one of them makes way, and no more than one.
func TestSilenceKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*setup){
		"connections": func(s *setup) { s.limits.MaxConnections = 4 },
		"handshakes":  func(s *setup) { s.limits.MaxHandshakes = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, limit)
			var silent []net.Conn
			for range 4 {
				silent = append(silent, b.halfway())
				eventually(t, "a connection", func() bool { return b.srv.Connections() == len(silent) })
			}
			b.serves()
			open := 0
			for _, nc := range silent {
				if isOpen(nc) {
					open++
				}
			}
			if open != 3 {
				t.Errorf("%d of the silent connections are open, want 3", open)
			}
		})
	}
}

// TestAnAddressPushesOutItsOwn: whoever opens handshakes without end ends its own, and
// others go on with theirs.
func TestAnAddressPushesOutItsOwn(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.MaxHandshakes = 8 })
	slow := []net.Conn{b.from("127.0.0.2"), b.from("127.0.0.3"), b.from("127.0.0.3")}
	eventually(t, "their connections", func() bool { return b.srv.Connections() == len(slow) })
	for range 200 {
		b.halfway()
	}
	for i, nc := range slow {
		tc := tls.Client(nc, b.config())
		check(t, tc.Handshake())
		c := &raw{Conn: tc, b: b}
		c.hello()
		c.send(c.encrypt(1, "rose"))
		if r := c.reply(); r.Kind != api.KindNone {
			t.Errorf("client %d was answered %v", i, r.Err())
		}
	}
}

// TestWhoIsRefusedMakesWayFirst: clients that nobody knows, and that stay on to hear
// why, do not push out those in the middle of their handshake.
func TestWhoIsRefusedMakesWayFirst(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.MaxHandshakes = 3 })
	first := b.halfway()
	eventually(t, "its connection", func() bool { return b.srv.Connections() == 1 })
	unknown := b.configOf(b.Certificate("unknown"))
	for range 10 {
		c := b.dial(unknown)
		if r := c.reply(); r.Kind != api.KindUnrecognizedClient {
			t.Errorf("told %v", r.Err())
		}
	}
	if !isOpen(first) {
		t.Error("a connection in its handshake made way for one that was refused")
	}
}

// TestAnAccountLeavesPlacesToOthers: however many connections an account opens, with
// however many keys, another account gets in; a place that comes free is for whoever asks.
func TestAnAccountLeavesPlacesToOthers(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.MaxConnections = 8 })
	var greedy []*raw
	for range 6 {
		greedy = append(greedy, b.open())
	}
	if r := b.dial(b.config()).reply(); r.Kind != api.KindThrottling || !strings.Contains(r.Err().Error(), "account") {
		t.Errorf("the seventh of eight places: %v", r.Err())
	}
	other := b.configOf(b.StrangerConfig.Certificate)
	modest := b.dial(other)
	modest.hello()
	for _, c := range greedy {
		c.Close()
	}
	eventually(t, "the end of connections", func() bool { return b.srv.Connections() == 1 })
	for range 5 {
		b.dial(other).hello()
	}
	b.open()
}

// TestTheOperatorAlwaysGetsIn: neither clients that hold every connection nor strangers
// keep the operator out; its own connections are bounded too.
func TestTheOperatorAlwaysGetsIn(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.MaxConnections, s.limits.MaxConnsOperator = 2, 2 })
	socket := b.listen("unix", filepath.Join(t.TempDir(), "s"), server.Local(&identity.Principal{ARN: "operator", Type: identity.Operator}))
	operator := func() *raw {
		nc, err := net.Dial("unix", socket)
		check(t, err)
		nc.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { nc.Close() })
		return &raw{Conn: nc, b: b}
	}
	b.open()
	b.open()
	for range 20 {
		b.halfway()
	}
	for range 2 {
		c := operator()
		c.hello()
		c.send(protocol.AppendRequest(nil, 1, applianceapi.GetStatus.Op, &applianceapi.GetStatusRequest{}))
		if r := c.reply(); r.Kind != api.KindNone {
			t.Errorf("the operator was answered %v", r.Err())
		}
	}
	if _, err := operator().next(); err != io.EOF {
		t.Errorf("a third connection of the operator: %v, want its end", err)
	}
	if n := b.srv.Connections(); n != 4 {
		t.Errorf("%d connections are open, want 4", n)
	}
}

// TestSilentHandshakesAreNotUnderWay: they do not use up those that may compute.
func TestSilentHandshakesAreNotUnderWay(t *testing.T) {
	t.Parallel()
	b := start(t)
	for n := range 50 {
		b.halfway()
		eventually(t, "a connection", func() bool { return b.srv.Connections() == n+1 })
	}
	b.serves()
}

// TestSeatsTakeTurns: of those who wait for a seat addresses take turns, whatever one of
// them brings; who had one before goes first, and who gave up is passed over: that was
// its address's turn.
func TestSeatsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := server.NewSeats(1)
		loud, quiet := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		if err := s.Take(t.Context(), loud, false); err != nil {
			t.Fatal(err)
		}
		seated := make(chan string, 10)
		wait := func(ctx context.Context, name string, from netip.Addr) {
			go func() {
				if err := s.Take(ctx, from, name == "again"); err == nil {
					seated <- name
				}
			}()
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		wait(gone, "loud, gone", loud)
		wait(t.Context(), "loud 1", loud)
		wait(t.Context(), "loud 2", loud)
		wait(t.Context(), "quiet", quiet)
		wait(t.Context(), "again", loud)
		leave()
		synctest.Wait()
		for _, want := range []string{"again", "quiet", "loud 1", "loud 2"} {
			s.Give()
			synctest.Wait()
			select {
			case got := <-seated:
				if got != want {
					t.Errorf("%s has the seat, want %s", got, want)
				}
			default:
				t.Fatalf("nobody has the seat, want %s", want)
			}
		}
		s.Give()
		if err := s.Take(t.Context(), quiet, false); err != nil {
			t.Error(err)
		}
	})
}

// TestAddresses: what one peer can have many of is one.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"192.0.2.7:1":              "192.0.2.7",
		"[::ffff:192.0.2.7]:2":     "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:3": "2001:db8:1:2::",
		"[fe80::1%lo]:4":           "fe80::",
	} {
		a := netip.MustParseAddrPort(from)
		if got := server.AddressOf(&placed{remote: net.TCPAddrFromAddrPort(a)}); got != netip.MustParseAddr(want) {
			t.Errorf("%s is %s, want %s", from, got, want)
		}
	}
	if got := server.AddressOf(&placed{remote: &net.UnixAddr{}}); got != (netip.Addr{}) {
		t.Errorf("a Unix socket is %s", got)
	}
}

type placed struct {
	net.Conn
	remote net.Addr
}

func (p *placed) RemoteAddr() net.Addr { return p.remote }

// TestMoreConnectionsThanDescriptors: a limit that the process cannot keep is lowered, so
// that the operator's connections have descriptors.
func TestMoreConnectionsThanDescriptors(t *testing.T) {
	t.Parallel()
	var files syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	b := start(t, func(s *setup) { s.limits.MaxConnections = math.MaxInt32 })
	if n := b.srv.Limits.MaxConnections; n < 1 || uint64(n) >= files.Cur {
		t.Errorf("%d connections may be open with %d files", n, files.Cur)
	}
	b.serves()
}

// TestRequestsOfAnAccount: beyond its rate an account is told when to come again, on all of
// its connections; other accounts and the operator are not; time brings it back.
func TestRequestsOfAnAccount(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.RequestsPerSecond = 10 })
	socket := b.listen("unix", filepath.Join(t.TempDir(), "s"), server.Local(&identity.Principal{ARN: "operator", Type: identity.Operator}))
	first, second := b.open(), b.open()
	other := b.dial(b.configOf(b.StrangerConfig.Certificate))
	other.hello()
	nc, err := net.Dial("unix", socket)
	check(t, err)
	t.Cleanup(func() { nc.Close() })
	operator := &raw{Conn: nc, b: b}
	operator.hello()
	for id := range api.RequestID(10) {
		c := []*raw{first, second}[id%2]
		c.send(c.encrypt(id+1, "rose"))
		if r := c.reply(); r.Kind != api.KindNone {
			t.Errorf("request %d was answered %v", id+1, r.Err())
		}
	}
	for _, c := range []*raw{first, second} {
		c.send(c.encrypt(100, "rose"))
		r := c.reply()
		e, _ := errors.AsType[*api.Error](r.Err())
		if r.ID != 100 || e == nil || e.Kind != api.KindThrottling || e.RetryAfter <= 0 || e.RetryAfter > 200*time.Millisecond {
			t.Errorf("the eleventh was answered %+v", r.Err())
		}
	}
	for id := range api.RequestID(50) {
		operator.send(protocol.AppendRequest(nil, id+1, applianceapi.GetStatus.Op, &applianceapi.GetStatusRequest{}))
		if r := operator.reply(); r.Kind != api.KindNone {
			t.Errorf("the operator was answered %v", r.Err())
		}
	}
	other.send(other.encrypt(1, "rose"))
	if r := other.reply(); r.Kind != api.KindAccessDenied && r.Kind != api.KindNotFound {
		t.Errorf("another account was answered %v", r.Err())
	}
	b.advance(time.Second)
	first.send(first.encrypt(200, "rose"))
	if r := first.reply(); r.ID != 200 || r.Kind != api.KindNone {
		t.Errorf("a second later %d was answered %v", r.ID, r.Err())
	}
}
