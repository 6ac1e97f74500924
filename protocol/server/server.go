// Package server answers the native protocol on TLS and Unix sockets.
//
// Read first: conn.go, the loop of a connection; [Config]; outbox.go, how
// replies leave in the order in which their records become durable; crowd.go, who
// gets a place where there are too many, and what strangers may cost.
//
// It holds routes and knows no service, key or store behind them.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/access/quota"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
)

// Config is what a Server stands on. All members but Routes, Limits and Scribble
// are required.
type Config struct {
	Gate      *access.Gate
	Routes    []access.Route // until Publish
	Pools     *work.Pools
	Directory *identity.Directory
	Hello     func() *protocol.Hello
	Logger    *slog.Logger
	Limits    Limits
	// Scribble is written over every request once it was served. Production
	// leaves it 0; tests use another value, so that whoever kept a part of a
	// request without cloning it is found.
	Scribble byte
}

// Limits bound what a peer can make the server spend. A zero member takes the
// default of api/defaults.go of the same name.
type Limits struct {
	HandshakeTimeout  time.Duration
	FrameTimeout      time.Duration
	WriteTimeout      time.Duration
	IdleTimeout       time.Duration
	MaxConnections    int // of the network; New lowers it to what the process may open
	MaxHandshakes     int
	MaxConnsPrincipal int
	MaxConnsOperator  int // of the Unix socket, besides MaxConnections
	Window            int
	WindowBytes       int
	RequestsPerSecond int // of one account
}

func (l Limits) orDefault() Limits {
	return Limits{
		HandshakeTimeout:  or(l.HandshakeTimeout, api.HandshakeTimeout),
		FrameTimeout:      or(l.FrameTimeout, api.FrameTimeout),
		WriteTimeout:      or(l.WriteTimeout, api.WriteTimeout),
		IdleTimeout:       or(l.IdleTimeout, api.IdleTimeout),
		MaxConnections:    or(l.MaxConnections, api.MaxConnections),
		MaxHandshakes:     or(l.MaxHandshakes, api.MaxHandshakes),
		MaxConnsPrincipal: or(l.MaxConnsPrincipal, api.MaxConnsPrincipal),
		MaxConnsOperator:  or(l.MaxConnsOperator, api.MaxConnsOperator),
		Window:            or(l.Window, api.Window),
		WindowBytes:       or(l.WindowBytes, api.WindowBytes),
		RequestsPerSecond: or(l.RequestsPerSecond, api.RequestsPerSecond),
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Server serves connections. Safe for concurrent use.
type Server struct {
	Config
	routes atomic.Pointer[table]
	seats  seats
	quota  *quota.Limiter

	mu        sync.Mutex
	conns     map[*conn]struct{}       // guarded by mu
	locals    int                      // guarded by mu; of conns those of the Unix socket
	strangers strangers                // guarded by mu; of the others those that are not identified
	peers     map[identity.KeyHash]int // guarded by mu; open connections by key
	accounts  map[api.AccountID]int    // guarded by mu; the same by account
	ended     bool                     // guarded by mu
	wg        sync.WaitGroup           // connections
}

// table is the routes by the number of their operation. It is immutable.
type table map[uint16]access.Route

// New returns a server for some routes. Two routes for one operation are a
// programmer's error.
func New(cfg Config) (*Server, error) {
	cfg.Limits = cfg.Limits.orDefault()
	cfg.fitDescriptors()
	s := &Server{Config: cfg, conns: map[*conn]struct{}{}, peers: map[identity.KeyHash]int{}, accounts: map[api.AccountID]int{}}
	s.quota = quota.New(cfg.Limits.RequestsPerSecond)
	s.seats.free = max(1, runtime.GOMAXPROCS(0)/2)
	if err := s.Publish(cfg.Routes); err != nil {
		return nil, err
	}
	return s, nil
}

// spareDescriptors is how many the process keeps for all but connections: the store, the
// audit log, the token.
const spareDescriptors = 128

// fitDescriptors lowers MaxConnections to what the process may open (getrlimit(2),
// RLIMIT_NOFILE): where descriptors run out, the operator could not connect either.
func (c *Config) fitDescriptors() {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur > math.MaxInt32 {
		return
	}
	if fit := max(1, int(l.Cur)-spareDescriptors-c.Limits.MaxConnsOperator); fit < c.Limits.MaxConnections {
		c.Logger.LogAttrs(context.Background(), slog.LevelWarn, "fewer connections than configured: the limit of open files is too low",
			slog.Int("connections", fit), slog.Int("configured", c.Limits.MaxConnections), slog.Uint64("files", l.Cur))
		c.Limits.MaxConnections = fit
	}
}

// Publish replaces all routes, for the next frame of every connection: an
// appliance that unlocks gets its services so. What waits for a worker is served
// by the route that it came for. On an error, two routes for one operation, the
// routes stay as they were.
func (s *Server) Publish(routes []access.Route) error {
	t := make(table, len(routes))
	for _, r := range routes {
		if _, twice := t[r.Op().Number]; twice {
			return fmt.Errorf("two routes for %s", r.Op())
		}
		t[r.Op().Number] = r
	}
	s.routes.Store(&t)
	return nil
}

// Peer is the other end of a connection, once identified.
type Peer struct {
	net.Conn // to read from and write to: the TLS connection around the accepted one
	Who      identity.Handle
	Source   string // for the audit record: "tcp 192.0.2.1:4711"
}

// Identify completes the handshake of an accepted connection and says who is
// at the other end. An error means that no frame can be sent; somebody unknown
// is a Peer whose handle has no principal. It ends when ctx does.
type Identify func(ctx context.Context, nc net.Conn) (Peer, error)

// Serve accepts connections until ctx ends or l is closed, and returns nil then.
// Connections outlive it until Close.
func (s *Server) Serve(ctx context.Context, l net.Listener, identify Identify) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for pause := time.Millisecond; ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = time.Millisecond
			s.accept(ctx, nc, identify)
		case errors.Is(err, net.ErrClosed):
			return nil
		default: // out of descriptors, or the peer gave up: accepting goes on
			s.Logger.LogAttrs(ctx, slog.LevelWarn, "a connection could not be accepted", slog.Any("error", err))
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, time.Second)
		}
	}
}

// accept starts a connection, or turns it away if there are too many. One from the
// network first waits for a seat: a flood waits in the kernel, where it costs nobody's turn.
func (s *Server) accept(ctx context.Context, nc net.Conn, identify Identify) {
	c := newConn(ctx, s, nc)
	if err := c.seat.take(ctx); err != nil {
		c.cut()
		return
	}
	refusal := s.register(c)
	if errors.Is(refusal, errStopped) {
		c.seat.rise()
		c.cut()
		return
	}
	go func() {
		defer s.wg.Done()
		defer c.seat.leave()
		if refusal != nil {
			bounded, cancel := context.WithTimeout(c.ctx, s.Limits.HandshakeTimeout)
			defer cancel()
			defer c.cut()
			c.turnAway(bounded, refusal)
			return
		}
		defer s.forget(c)
		c.run(identify)
	}()
}

// Connections returns how many connections are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Close ends all connections: each answers what it has read, and reads no more.
// It returns when all are gone, or cuts them when ctx ends and returns soon after.
func (s *Server) Close(ctx context.Context) error {
	s.each(func(c *conn) { c.stop() })
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.each(func(c *conn) { c.cut() })
	}
	select {
	case <-done:
	case <-time.After(cutTime):
	}
	return ctx.Err()
}

// cutTime is how long Close waits for connections that were cut. A reader that
// commits the audit log itself while the disk hangs can be freed by the disk alone.
const cutTime = time.Second

func (s *Server) each(f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for c := range s.conns {
		f(c)
	}
}

// TLS returns how to identify a TLS client by the SHA-256 of its certificate's
// public key. The handshake is TLS 1.3, mutual, with the hybrid key exchange
// X25519MLKEM768 (and X25519 for peers without it), without session tickets:
// whoever resumes would skip the check of the key (RFC 8446 §2.2). A client
// that nobody knows gets through the handshake, so that it can be told so.
func (s *Server) TLS(cert tls.Certificate) Identify {
	cfg := &tls.Config{
		Certificates:                []tls.Certificate{cert},
		MinVersion:                  tls.VersionTLS13,
		ClientAuth:                  tls.RequireAnyClientCert,
		NextProtos:                  []string{protocol.ALPN},
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
	return func(ctx context.Context, nc net.Conn) (Peer, error) {
		tc := tls.Server(nc, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return Peer{}, err
		}
		state := tc.ConnectionState()
		if state.NegotiatedProtocol != protocol.ALPN {
			return Peer{}, fmt.Errorf("client offers no ALPN protocol %q", protocol.ALPN)
		}
		leaf := state.PeerCertificates[0]
		hash := identity.HashOf(leaf.RawSubjectPublicKeyInfo)
		return Peer{tc, s.Directory.Handle(hash, leaf.NotAfter), sourceOf(nc)}, nil
	}
}

func sourceOf(nc net.Conn) string { return nc.RemoteAddr().Network() + " " + nc.RemoteAddr().String() }

// Local returns how to identify a client of a Unix socket: root, and the user
// that the server itself runs as, are the operator; everybody else is nobody.
// The kernel vouches (unix(7), SO_PEERCRED).
func Local(operator *identity.Principal) Identify {
	return func(_ context.Context, nc net.Conn) (Peer, error) {
		cred, err := peerCredentials(nc)
		if err != nil {
			return Peer{}, err
		}
		p := Peer{Conn: nc, Source: fmt.Sprintf("unix pid %d uid %d", cred.Pid, cred.Uid)}
		if cred.Uid == 0 || int(cred.Uid) == os.Geteuid() {
			p.Who = identity.Always(operator)
		}
		return p, nil
	}
}

func peerCredentials(nc net.Conn) (cred *syscall.Ucred, err error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); cerr != nil {
		return nil, cerr
	}
	return cred, err
}
