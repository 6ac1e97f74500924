// Package client speaks the native protocol to an appliance: many callers
// share few connections, requests are pipelined, lost connections are made anew.
//
// Read first: [New] and [Config]; [Do], a typed call; [LogError], why a client may
// refuse to go on. conn.go is one connection, pool.go when there is one, retry.go what
// is repeated, log.go how the appliance's audit log is followed from its greetings.
//
// It imports the vocabulary (api), the wire (protocol) and the arithmetic of the audit
// log (internal/tlog), and nothing else of the appliance, so it is small in a program
// that uses it. It caches nothing but the newest checkpoint, and trusts no server on
// first use.
package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
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

	// AuditKey is the verifier key of the appliance's audit log (C2SP signed-note,
	// name+hash+base64), as keyrack init prints it. With it the client checks that
	// each connection's greeting is of a log that extends what it has seen before;
	// where it does not, every call fails with a [LogError]. Without it, "", the
	// client checks nothing of the log and says nothing about it.
	AuditKey    string
	Checkpoints Checkpoints // where the newest one is kept between runs; nil = in memory only
}

// Client calls an appliance. Safe for concurrent use.
type Client struct {
	cfg    Config
	dial   func(ctx context.Context) (net.Conn, error)
	slots  []slot
	next   atomic.Uint64
	hello  atomic.Pointer[protocol.Hello]
	watch  *watch // nil without an audit key
	budget budget
	life   context.Context // until Close
	end    context.CancelFunc
}

// ErrClosed is returned by calls after Close.
var ErrClosed = errors.New("client is closed")

// ErrBusy is returned by Start where the appliance takes no more requests of the
// connection before it has answered some (Window in its hello).
var ErrBusy = errors.New("as many requests are under way as the appliance allows")

// ErrServerKey is wrapped by the error of a call whose server has another key
// than the pinned one: it is another appliance, or somebody in between.
var ErrServerKey = errors.New("the server's key is not the pinned one")

// ErrLost is wrapped by the error of a call whose connection ended before its
// answer came and that was not repeated: it may have been carried out.
var ErrLost = errors.New("connection lost before the answer came; the call may have been carried out")

// New checks cfg and returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	c := &Client{cfg: cfg, slots: make([]slot, max(1, cfg.Conns))}
	var err error
	if c.watch, err = newWatch(cfg); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.budget.fill(len(c.slots))
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
	case cfg.ServerKey != "" && cfg.RootCAs != nil:
		return nil, errors.New("client: both the server's key and a CA are configured: one of them would be ignored")
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
// It waits while the appliance takes no more requests of the connection. An error of the appliance is an *api.Error. Throttled calls, and calls of
// idempotent operations whose connection was lost, are repeated with growing,
// random pauses until ctx ends, the call's tries are used up or the client has
// repeated too many calls of late. A request that never left for lack of a connection
// is repeated whatever it does. One that no appliance takes, because it is too
// large, is KindRequestTooLarge at once. When ctx ends, the call may have been
// carried out.
func (c *Client) Call(ctx context.Context, op *api.Op, in, out any) error {
	for try := 0; ; try++ {
		err := c.once(ctx, op, in, out)
		if err == nil {
			c.budget.earn()
			return nil
		}
		if !c.again(ctx, op, try, err) {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, op *api.Op, in, out any) error {
	conn, err := c.conn(ctx)
	if err != nil {
		return err
	}
	if err := conn.wait(ctx); err != nil {
		return err
	}
	done, begun := make(chan Reply, 1), time.Now()
	id, err := conn.start(op, in, func(r Reply) { done <- r.clone() })
	if err != nil {
		return err
	}
	select {
	case r := <-done:
		return r.Decode(op, out)
	case <-ctx.Done():
		conn.abandon(id, begun)
		return ctx.Err()
	}
}

// Hello returns the greeting of the newest connection, or nil before the first.
func (c *Client) Hello() *protocol.Hello { return c.hello.Load() }

// Start sends a request and returns; done is called once, with the reply, on a
// goroutine of the connection that must not be held up. ctx bounds the wait for a
// connection, no more. The reply's memory is the
// connection's again when done returns. Start is for programs that keep many
// requests in flight without a goroutine each; done may call it. Nothing is
// repeated, and one request too many is ErrBusy.
func (c *Client) Start(ctx context.Context, op *api.Op, in any, done func(Reply)) error {
	conn, err := c.conn(ctx)
	if err != nil {
		return err
	}
	if !conn.enter() {
		return ErrBusy
	}
	_, err = conn.start(op, in, done)
	return err
}
