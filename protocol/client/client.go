// Package client speaks the native protocol to an appliance: many callers
// share few connections, requests are pipelined, lost connections are made anew.
//
// Read first: [New] and [Config]; [Do], a typed call; conn.go, one connection.
//
// It imports the vocabulary (api) and the wire (protocol) and nothing else of
// the appliance, so it is small in a program that uses it.
package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/protocol"
)

// Config says where the appliance is and who we are. Either Socket is set, or
// Addr, Certificate and one of ServerKey and RootCAs. There is no trust on first use.
type Config struct {
	Addr        string          // host:port
	ServerKey   string          // sha256: and 64 hex digits: the SHA-256 of the server's public key (SPKI)
	RootCAs     *x509.CertPool  // instead of ServerKey: CAs that may vouch for the server's name
	Certificate tls.Certificate // ours; the appliance knows its public key
	Socket      string          // path of the appliance's Unix socket, for the operator
	Conns       int             // connections to share; 0 = 1
	Retries     int             // further tries of a call that may be repeated; 0 = 4, negative = none
	DialTimeout time.Duration   // to connect and shake hands; 0 = 10 s
}

// Client calls an appliance. Safe for concurrent use.
type Client struct {
	cfg   Config
	dial  func(ctx context.Context) (net.Conn, error)
	slots []slot
	next  atomic.Uint64
	hello atomic.Pointer[protocol.Hello]
}

// slot is a place for one connection; it is made when first needed, by one
// caller for all.
type slot struct {
	mu     sync.Mutex
	conn   *conn         // guarded by mu; nil before the first and after a lost one
	making chan struct{} // guarded by mu; closed when the caller who connects is done; nil if nobody does
	shut   bool          // guarded by mu
}

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("client is closed")

// ErrServerKey is wrapped by the error of a call whose server has another key
// than the pinned one: it is another appliance, or somebody in between.
var ErrServerKey = errors.New("the server's key is not the pinned one")

// ErrLost is wrapped by the error of a call whose connection ended before its
// answer came and that was not repeated: it may have been carried out.
var ErrLost = errors.New("connection lost before the answer came; the call may have been carried out")

// New checks cfg and returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, slots: make([]slot, max(1, cfg.Conns))}
	if c.cfg.Retries == 0 {
		c.cfg.Retries = 4
	}
	if c.cfg.DialTimeout == 0 {
		c.cfg.DialTimeout = 10 * time.Second
	}
	if cfg.Socket != "" {
		c.dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", cfg.Socket)
		}
		return c, nil
	}
	tc, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.dial = func(ctx context.Context) (net.Conn, error) {
		return (&tls.Dialer{Config: tc}).DialContext(ctx, "tcp", cfg.Addr)
	}
	return c, nil
}

// tlsConfig returns TLS 1.3 with our certificate and the server's key pinned,
// or its name vouched for by a CA.
func tlsConfig(cfg Config) (*tls.Config, error) {
	switch {
	case cfg.Addr == "":
		return nil, errors.New("client: no address and no socket of the appliance is configured")
	case len(cfg.Certificate.Certificate) == 0:
		return nil, errors.New("client: no certificate to authenticate with is configured")
	case cfg.ServerKey == "" && cfg.RootCAs == nil:
		return nil, errors.New("client: neither the server's key nor a CA is configured")
	}
	tc := &tls.Config{
		Certificates:                []tls.Certificate{cfg.Certificate},
		RootCAs:                     cfg.RootCAs,
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{protocol.ALPN},
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		DynamicRecordSizingDisabled: true,
	}
	if cfg.ServerKey == "" {
		return tc, nil
	}
	digits, ok := strings.CutPrefix(cfg.ServerKey, "sha256:")
	pin, err := hex.DecodeString(digits)
	if !ok || err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("client: server key %q is not sha256: and 64 hex digits", cfg.ServerKey)
	}
	tc.InsecureSkipVerify = true // the pin below is the verification
	tc.VerifyConnection = func(state tls.ConnectionState) error {
		return checkPin(state, pin)
	}
	return tc, nil
}

func checkPin(state tls.ConnectionState, pin []byte) error {
	got := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	if string(got[:]) != string(pin) {
		return fmt.Errorf("%w: it is sha256:%x, and sha256:%x is pinned", ErrServerKey, got, pin)
	}
	return nil
}

// Do calls an operation and returns its response.
func Do[In, Out any](ctx context.Context, c *Client, op api.OpOf[In, Out], in *In) (*Out, error) {
	out := new(Out)
	if err := c.Call(ctx, op.Op, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Call calls op with in, a pointer to its request, and reads the response into
// out, a pointer to a zero response, which shares no memory with the connection.
// An error of the appliance is an *api.Error. Throttled calls, and calls of
// idempotent operations whose connection was lost, are repeated with growing,
// random pauses until ctx ends or the client's tries are used up. A request that
// no appliance takes, because it is too large, is KindRequestTooLarge at once.
func (c *Client) Call(ctx context.Context, op *api.Op, in, out any) error {
	for try := 0; ; try++ {
		err := c.once(ctx, op, in, out)
		if err == nil || try >= c.cfg.Retries || !repeatable(op, err) || pause(ctx, try, err) != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, op *api.Op, in, out any) error {
	done := make(chan Reply, 1)
	if err := c.Start(ctx, op, in, func(r Reply) { done <- r.clone() }); err != nil {
		return err
	}
	select {
	case r := <-done:
		return r.Decode(op, out)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// repeatable reports whether a call that failed with err can be made again: it
// was not carried out, or it may be carried out twice.
func repeatable(op *api.Op, err error) bool {
	var notSent *dialError
	if errors.As(err, &notSent) {
		return !notSent.permanent()
	}
	idempotent := op.Flags&api.Idempotent != 0
	if errors.Is(err, ErrLost) {
		return idempotent
	}
	e, ok := errors.AsType[*api.Error](err)
	return ok && (e.Kind == api.KindThrottling || e.Kind.Retryable() && idempotent)
}

// pause waits before try number try+2: exponential from 10 ms to 1 s, with full
// jitter, but not less than the server asks for.
func pause(ctx context.Context, try int, err error) error {
	most := min(10*time.Millisecond<<min(try, 10), time.Second)
	d := time.Duration(rand.Int64N(int64(most)))
	if e, ok := errors.AsType[*api.Error](err); ok {
		d = max(d, e.RetryAfter)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hello returns the greeting of the newest connection, or nil before the first.
func (c *Client) Hello() *protocol.Hello { return c.hello.Load() }

// Start sends a request and returns; done is called once, with the reply, on a
// goroutine of the connection that must not be held up. It is for programs that
// keep many requests in flight without a goroutine each. Nothing is repeated.
func (c *Client) Start(ctx context.Context, op *api.Op, in any, done func(Reply)) error {
	s := &c.slots[c.next.Add(1)%uint64(len(c.slots))]
	conn, err := s.get(ctx, c)
	if err != nil {
		return err
	}
	return conn.start(op, in, done)
}

// get returns the slot's connection. If it has none that works, the caller makes
// one, or waits for the one who does.
func (s *slot) get(ctx context.Context, c *Client) (*conn, error) {
	for {
		s.mu.Lock()
		conn, making, shut := s.conn, s.making, s.shut
		if !shut && making == nil && (conn == nil || !conn.works()) {
			s.making = make(chan struct{})
			s.mu.Unlock()
			return s.make(ctx, c)
		}
		s.mu.Unlock()
		switch {
		case shut:
			return nil, ErrClosed
		case making == nil:
			return conn, nil
		}
		select {
		case <-making:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// make connects and lets the callers who wait go on.
func (s *slot) make(ctx context.Context, c *Client) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := connect(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.making)
	s.making = nil
	if err == nil && s.shut {
		conn.end(ErrClosed)
		err = ErrClosed
	}
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return conn, nil
}

// Close ends the connections; calls under way fail with ErrLost.
func (c *Client) Close() error {
	for i := range c.slots {
		s := &c.slots[i]
		s.mu.Lock()
		s.shut = true
		if s.conn != nil {
			s.conn.end(ErrClosed)
		}
		s.mu.Unlock()
	}
	return nil
}
