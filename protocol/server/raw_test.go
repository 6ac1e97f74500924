package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/cbor"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// bed is a server of its own, before the door of a whole appliance.
type bed struct {
	*racktest.Rack
	tb   testing.TB
	srv  *server.Server
	addr string
	key  string // its ARN
	seen int    // records looked at

	advance func(time.Duration) // the appliance's clock
}

// setup is what a test may change before the server starts.
type setup struct {
	limits server.Limits
	pools  map[work.Class]work.Size
	store  *racktest.Gated
	routes func(*access.Gate) []access.Route
}

func start(tb testing.TB, change ...func(*setup)) *bed {
	tb.Helper()
	s := setup{pools: map[work.Class]work.Size{work.Store: {Workers: 4, Queue: 64}, work.Token: {Workers: 1, Queue: 4}, work.Compute: {Workers: 1}, work.Generate: {Workers: 1}}}
	for _, f := range change {
		f(&s)
	}
	clk, advance := clock.NewTest(time.Now())
	b := &bed{tb: tb, advance: advance}
	b.Rack = racktest.Start(tb, func(c *rack.Config) {
		c.Clock = clk
		if s.store != nil {
			c.Store = s.store
		}
	})
	routes := b.Routes()
	if s.routes != nil {
		routes = append(slices.Clone(routes), s.routes(b.Gate())...)
	}
	pools := work.New(s.pools)
	var err error
	b.srv, err = server.New(server.Config{
		Gate: b.Gate(), Routes: routes, Pools: pools, Directory: b.People(), Limits: s.limits, Scribble: racktest.Scribble,
		Hello:  func() *protocol.Hello { return &protocol.Hello{ApplianceId: b.ID(), Version: "test", Window: 1} },
		Logger: racktest.Logger(tb),
	})
	check(tb, err)
	b.addr = b.listen("tcp", "127.0.0.1:0", b.srv.TLS(b.Certificate("front")))
	tb.Cleanup(func() {
		b.stop()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := pools.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	b.key = b.CreateKey()
	b.records()
	return b
}

// listen serves a listener until the test's end and returns its address.
func (b *bed) listen(network, address string, identify server.Identify) string {
	b.tb.Helper()
	l, err := net.Listen(network, address)
	check(b.tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.srv.Serve(ctx, l, identify) }()
	b.tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.tb.Errorf("Serve ends with %v", err)
		}
	})
	return l.Addr().String()
}

// stop closes the server and waits for its connections.
func (b *bed) stop() {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.srv.Close(ctx); err != nil {
		b.tb.Errorf("the server does not stop: %v", err)
	}
}

// records returns the audit records since the last time.
func (b *bed) records() []audit.Record {
	b.tb.Helper()
	all := b.Records()
	fresh := all[b.seen:]
	b.seen = len(all)
	return fresh
}

// recorded waits for records, and checks that exactly one was left, with an error of
// a kind.
func (b *bed) recorded(op uint16, kind api.Kind) audit.Record {
	b.tb.Helper()
	var all []audit.Record
	eventually(b.tb, "a record", func() bool { all = b.records(); return len(all) > 0 })
	if len(all) != 1 || all[0].Error != uint16(kind) || all[0].Op != op {
		b.tb.Errorf("got records %+v, want one of operation %d with %v", all, op, kind)
		return audit.Record{}
	}
	return all[0]
}

// run runs a part of a test, with the seconds before it over.
func (b *bed) run(t *testing.T, name string, part func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		whole := b.tb
		b.tb = t
		defer func() { b.tb = whole }()
		b.pass()
		part(t)
	})
}

// pass lets a second pass, so that the next refusals have records of their own.
func (b *bed) pass() {
	b.advance(time.Second)
	b.records()
}

// serves checks that somebody else is served.
func (b *bed) serves() {
	b.tb.Helper()
	c := b.open()
	defer c.Close()
	c.send(c.encrypt(1, "rose"))
	if r := c.reply(); r.ID != 1 || r.Kind != api.KindNone {
		b.tb.Errorf("another connection was answered %v", r.Err())
	}
}

// lives checks that somebody else is served, and that nothing else leaves records.
func (b *bed) lives() {
	b.tb.Helper()
	b.serves()
	if all := b.records(); len(all) != 1 {
		b.tb.Errorf("another connection left %d records", len(all))
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s does not come true", what)
		}
	}
}

// await receives what must come.
func await[T any](tb testing.TB, ch <-chan T) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		tb.Fatal("nothing comes")
		panic("unreachable")
	}
}

// raw is a client that sends whatever bytes a test wants.
type raw struct {
	net.Conn
	b  *bed
	in []byte
}

// config is the TLS configuration of a client that behaves.
func (b *bed) config() *tls.Config { return b.configOf(b.Config.Certificate) }

// configOf is the same of another client.
func (b *bed) configOf(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol.ALPN},
		InsecureSkipVerify:          true, // whom it speaks to is not what is tested here
		DynamicRecordSizingDisabled: true, // what is sent together is read together, up to 16 KiB
	}
}

// dial connects and shakes hands, and reads no hello yet.
func (b *bed) dial(cfg *tls.Config) *raw {
	b.tb.Helper()
	nc := b.connect()
	tc := tls.Client(nc, cfg)
	check(b.tb, tc.HandshakeContext(b.tb.Context()))
	return &raw{Conn: tc, b: b}
}

// connect opens a TCP connection.
func (b *bed) connect() net.Conn {
	b.tb.Helper()
	nc, err := net.Dial("tcp", b.addr)
	check(b.tb, err)
	nc.SetDeadline(time.Now().Add(patience))
	b.tb.Cleanup(func() { nc.Close() })
	return nc
}

// open connects as somebody known and reads the hello.
func (b *bed) open() *raw {
	b.tb.Helper()
	c := b.dial(b.config())
	c.hello()
	return c
}

func (c *raw) hello() *protocol.Hello {
	c.b.tb.Helper()
	h, err := protocol.ParseHello(c.frame())
	check(c.b.tb, err)
	return h
}

func (c *raw) send(b ...[]byte) {
	c.b.tb.Helper()
	_, err := c.Write(bytes.Join(b, nil))
	check(c.b.tb, err)
}

// next returns the next frame, or the error that ends the stream.
func (c *raw) next() ([]byte, error) {
	for {
		frame, rest, _, err := protocol.Split(c.in, api.MaxReplyFrame)
		if frame != nil || err != nil {
			c.in = rest
			return frame, err
		}
		more := make([]byte, 32<<10)
		n, err := c.Read(more)
		if c.in = append(c.in, more[:n]...); err != nil {
			return nil, err
		}
	}
}

func (c *raw) frame() []byte {
	c.b.tb.Helper()
	frame, err := c.next()
	check(c.b.tb, err)
	return frame
}

func (c *raw) reply() protocol.Reply {
	c.b.tb.Helper()
	r, err := protocol.ParseReply(c.frame())
	check(c.b.tb, err)
	return r
}

// dismissed checks that the next frame is the connection's end for a reason, and the last one.
func (c *raw) dismissed(kind api.Kind) *api.Error {
	c.b.tb.Helper()
	r := c.reply()
	e, _ := errors.AsType[*api.Error](r.Err())
	if r.ID != 0 || e == nil || e.Kind != kind || e.Message == "" {
		c.b.tb.Errorf("got reply %d, %v; want the connection's error %v", r.ID, r.Err(), kind)
	}
	if _, err := c.next(); err != io.EOF {
		c.b.tb.Errorf("after the last frame: %v, want the end", err)
	}
	c.Close() // else the server listens for a second more
	return e
}

// encrypt returns the frame of an Encrypt.
func (c *raw) encrypt(id api.RequestID, text string) []byte {
	return c.b.encryptWith(c.b.key, id, text)
}

func (b *bed) encryptWith(key string, id api.RequestID, text string) []byte {
	return protocol.AppendRequest(nil, id, kmsapi.Encrypt.Op, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret(text)})
}

// uncached returns the frame of a request that has to look into the store.
func (c *raw) uncached(id api.RequestID) []byte {
	return c.b.encryptWith("00000000-0000-4000-8000-000000000000", id, "x")
}

// frameOf puts a length before a body.
func frameOf(body ...byte) []byte {
	return append([]byte{byte(len(body) >> 24), byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// envelope is the frame [id, op, body, options].
func envelope(id, op uint64, body, options []byte) []byte {
	f := cbor.AppendUint(cbor.AppendUint(cbor.AppendArray(nil, 4), id), op)
	return frameOf(append(append(f, body...), options...)...)
}

// Operations that exist only here.
var (
	testing200 = &api.Service{Name: "test", Block: 200}
	echo       = api.Define[said, said](testing200, "Echo", 1, 0)
	talk       = api.Define[said, said](testing200, "Talk", 2, 0)
)

type said struct {
	Text api.Blob `n:"1"`
}

// anybody is a resource for every principal.
type anybody struct{}

func (anybody) ARN() string          { return "arn:aws:test:rack-1::anybody" }
func (anybody) Rules() *policy.Rules { return policy.Everyone() }

// slow is an operation that works on a worker and waits there.
type slow struct {
	inside  chan struct{} // gets one for every call that waits
	release chan struct{} // closed to let all go on
	kept    chan []byte   // gets the memory of every request served
}

func newSlow() *slow {
	return &slow{make(chan struct{}, 4096), make(chan struct{}), make(chan []byte, 100_000)}
}

// routes is the setup with two operations: Echo answers what was said once it is
// released, Talk answers 64 KiB at once.
func (s *slow) routes(set *setup) {
	set.routes = func(g *access.Gate) []access.Route {
		return []access.Route{access.Handle(g, echo, s.echo), access.Handle(g, talk, s.talk)}
	}
}

func (s *slow) echo(c *access.Call, in, out *said) error {
	if err := c.Admit(anybody{}); err != nil {
		return err
	}
	if err := c.Need(work.Token); err != nil {
		return err
	}
	s.kept <- in.Text
	s.inside <- struct{}{}
	select {
	case <-s.release:
	case <-c.Context().Done():
		return c.Context().Err()
	}
	out.Text = append(c.Bytes(len(in.Text))[:0], in.Text...)
	return nil
}

func (s *slow) talk(c *access.Call, in, out *said) error {
	s.kept <- in.Text
	out.Text = c.Bytes(64 << 10)
	return c.Admit(anybody{})
}

func echoes(id api.RequestID, text string) []byte {
	return protocol.AppendRequest(nil, id, echo.Op, &said{Text: api.Blob(text)})
}
