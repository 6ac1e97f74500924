package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// ended reads until the peer sees the connection's end, and returns how.
func ended(nc net.Conn) error {
	_, err := io.Copy(io.Discard, nc)
	return err
}

// TestPeersThatAreNotServed: who does not get through the handshake. The service
// lives, and the attempt has one record, of nobody.
func TestPeersThatAreNotServed(t *testing.T) {
	t.Parallel()
	usual, hasty := start(t), start(t, func(s *setup) { s.limits.HandshakeTimeout = 4 * time.Second })
	for name, attempt := range map[string]func(t *testing.T, b *bed, nc net.Conn){
		"no certificate": func(t *testing.T, b *bed, nc net.Conn) {
			cfg := b.config()
			cfg.Certificates = nil
			if err := ended(tls.Client(nc, cfg)); err == nil || !strings.Contains(err.Error(), "certificate required") {
				t.Errorf("told %v", err)
			}
		},
		"TLS 1.2": func(t *testing.T, b *bed, nc net.Conn) {
			cfg := b.config()
			cfg.MaxVersion = tls.VersionTLS12
			if err := tls.Client(nc, cfg).Handshake(); err == nil || !strings.Contains(err.Error(), "protocol version") {
				t.Errorf("told %v", err)
			}
		},
		"another ALPN": func(t *testing.T, b *bed, nc net.Conn) {
			cfg := b.config()
			cfg.NextProtos = []string{"h2"}
			if err := tls.Client(nc, cfg).Handshake(); err == nil || !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("told %v", err)
			}
		},
		"no ALPN": func(t *testing.T, b *bed, nc net.Conn) {
			cfg := b.config()
			cfg.NextProtos = nil
			ended(tls.Client(nc, cfg))
		},
		"no TLS": func(t *testing.T, b *bed, nc net.Conn) {
			if _, err := nc.Write([]byte("GET / HTTP/1.1\r\nHost: rack\r\n\r\n")); err != nil {
				t.Error(err)
			}
			ended(nc)
		},
		"noise":   func(t *testing.T, b *bed, nc net.Conn) { nc.Write(make([]byte, 1<<16)); ended(nc) },
		"leaving": func(t *testing.T, b *bed, nc net.Conn) { nc.Close() },
		"silence": func(t *testing.T, b *bed, nc net.Conn) { ended(nc) },
		"a hello and silence": func(t *testing.T, b *bed, nc net.Conn) {
			nc.Write([]byte{22, 3, 1, 2, 0}) // the head of a ClientHello
			ended(nc)
		},
	} {
		b := usual
		if strings.Contains(name, "silence") {
			b = hasty
		}
		b.run(t, name, func(t *testing.T) {
			nc := b.connect()
			attempt(t, b, nc)
			eventually(t, "the connection's end", func() bool { return b.srv.Connections() == 0 })
			rec := b.recorded(0, api.KindUnrecognizedClient)
			if rec.Source != "tcp "+nc.LocalAddr().String() || rec.Principal != "" || rec.Event == [16]byte{} {
				t.Errorf("recorded %+v", rec)
			}
			b.lives()
			eventually(t, "the end of that", func() bool { return b.srv.Connections() == 0 })
		})
	}
}

// TestAnUnknownClientIsToldItsKey: the handshake succeeds, and the frame in place
// of the hello says what to register.
func TestAnUnknownClientIsToldItsKey(t *testing.T) {
	t.Parallel()
	b := start(t)
	cfg := b.config()
	cfg.Certificates = []tls.Certificate{b.Certificate("unknown")}
	hash := identity.HashOf(cfg.Certificates[0].Leaf.RawSubjectPublicKeyInfo)
	c := b.dial(cfg)
	if e := c.dismissed(api.KindUnrecognizedClient); !strings.Contains(e.Message, hash.String()) {
		t.Errorf("told %q", e.Message)
	}
	if rec := b.recorded(0, api.KindUnrecognizedClient); rec.Credential != hash || rec.Principal != "" {
		t.Errorf("recorded %+v", rec)
	}
	b.lives()

	c = b.dial(cfg) // who sends at once can do so, and is told too
	c.send(make([]byte, 4<<20))
	c.dismissed(api.KindUnrecognizedClient)
	b.recorded(0, api.KindUnrecognizedClient)
}

// TestPeersThatBreakTheProtocol: one clear error, which is the last frame, one
// record, and others are served.
func TestPeersThatBreakTheProtocol(t *testing.T) {
	t.Parallel()
	usual := start(t)
	hasty := start(t, func(s *setup) { s.limits.FrameTimeout = 20 * time.Millisecond })
	idle := start(t, func(s *setup) { s.limits.IdleTimeout = 4 * time.Second })
	for name, p := range map[string]struct {
		does func(t *testing.T, c *raw)
		want api.Kind
	}{
		"too long":           {func(t *testing.T, c *raw) { c.send([]byte{0, 2, 0, 1}) }, api.KindRequestTooLarge},
		"4 GiB":              {func(t *testing.T, c *raw) { c.send([]byte{0xff, 0xff, 0xff, 0xff}) }, api.KindRequestTooLarge},
		"too long, and sent": {func(t *testing.T, c *raw) { c.send(append([]byte{0, 64, 0, 0}, make([]byte, 4<<20)...)) }, api.KindRequestTooLarge},
		"empty frame":        {func(t *testing.T, c *raw) { c.send(frameOf()) }, api.KindSerialization},
		"HTTP":               {func(t *testing.T, c *raw) { c.send([]byte("GET / HTTP/1.1\r\n\r\n")) }, api.KindRequestTooLarge},
		"no array":           {func(t *testing.T, c *raw) { c.send(frameOf(0xa0)) }, api.KindSerialization},
		"three items":        {func(t *testing.T, c *raw) { c.send(frameOf(0x83, 1, 2, 0xa0)) }, api.KindSerialization},
		"five items":         {func(t *testing.T, c *raw) { c.send(frameOf(0x85, 1, 2, 0xa0, 0xa0, 0xa0)) }, api.KindSerialization},
		"endless array":      {func(t *testing.T, c *raw) { c.send(frameOf(0x9f, 1, 2, 0xa0, 0xa0, 0xff)) }, api.KindSerialization},
		"id 0":               {func(t *testing.T, c *raw) { c.send(frameOf(0x84, 0, 2, 0xa0, 0xa0)) }, api.KindSerialization},
		"id -1":              {func(t *testing.T, c *raw) { c.send(frameOf(0x84, 0x20, 2, 0xa0, 0xa0)) }, api.KindSerialization},
		"id is text":         {func(t *testing.T, c *raw) { c.send(frameOf(0x84, 0x61, 'a', 2, 0xa0, 0xa0)) }, api.KindSerialization},
		"id spelt longer":    {func(t *testing.T, c *raw) { c.send(frameOf(0x84, 0x18, 1, 2, 0xa0, 0xa0)) }, api.KindSerialization},
		"operation 65536":    {func(t *testing.T, c *raw) { c.send(frameOf(0x84, 1, 0x1a, 0, 1, 0, 0, 0xa0, 0xa0)) }, api.KindSerialization},
		"a slow frame":       {func(t *testing.T, c *raw) { c.send([]byte{0, 0, 0, 9, 0x84}) }, api.KindRequestTimeout},
		"byte by byte": {func(t *testing.T, c *raw) {
			c.send([]byte{0, 2, 0, 0})
			go func() {
				for range api.MaxRequestFrame {
					if _, err := c.Write([]byte{0}); err != nil {
						return
					}
				}
			}()
		}, api.KindRequestTimeout},
		"silence": {func(t *testing.T, c *raw) {}, api.KindRequestTimeout},
		"leaving inside a frame": {func(t *testing.T, c *raw) {
			c.send([]byte{0, 0, 0, 9, 0x84})
			if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
				t.Error(err)
			}
		}, api.KindSerialization},
	} {
		b := usual
		switch {
		case name == "silence":
			b = idle
		case p.want == api.KindRequestTimeout:
			b = hasty
		}
		b.run(t, name, func(t *testing.T) {
			c := b.open()
			p.does(t, c)
			c.dismissed(p.want)
			rec := b.recorded(0, p.want)
			if rec.Principal == "" || rec.Source != "tcp "+c.LocalAddr().String() {
				t.Errorf("recorded %+v", rec)
			}
			eventually(t, "the connection's end", func() bool { return b.srv.Connections() == 0 })
			b.lives()
			eventually(t, "the end of that", func() bool { return b.srv.Connections() == 0 })
		})
	}
}

// TestTheLastFrameIsLast: also where replies to what was read before have to
// wait for a worker.
func TestTheLastFrameIsLast(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes)
	c := b.open()
	c.send(c.encrypt(1, "rose"), echoes(2, "lily"), c.encrypt(3, "iris"), frameOf(0x80), c.encrypt(4, "never read"))
	await(t, s.inside)
	if kinds, _ := c.answers(2); kinds[1] != api.KindNone || kinds[3] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
	close(s.release)
	if r := c.reply(); r.ID != 2 || r.Kind != api.KindNone {
		t.Errorf("%d was answered %v", r.ID, r.Err())
	}
	c.dismissed(api.KindSerialization)
	all := b.records()
	if len(all) != 4 || all[3].Error != uint16(api.KindSerialization) || all[3].Op != 0 {
		t.Errorf("got %+v", all)
	}
}

// TestIdleIsNotWaiting: a peer whose request is at work is not silent.
func TestIdleIsNotWaiting(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) { set.limits.IdleTimeout = 3 * time.Second })
	c := b.open()
	c.send(echoes(1, "rose"))
	await(t, s.inside)
	silent := b.open()
	silent.dismissed(api.KindRequestTimeout) // which c has waited longer for
	close(s.release)
	if r := c.reply(); r.ID != 1 || r.Kind != api.KindNone {
		t.Errorf("answered %v", r.Err())
	}
	c.send(c.encrypt(2, "lily"))
	if r := c.reply(); r.ID != 2 || r.Kind != api.KindNone {
		t.Errorf("afterwards answered %v", r.Err())
	}
	c.dismissed(api.KindRequestTimeout)
}

// TestLeavingInTheMiddleOfWork: the work is done and recorded once; nobody is
// told.
func TestLeavingInTheMiddleOfWork(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes)
	c := b.open()
	c.send(echoes(1, "rose"), c.encrypt(2, "lily"))
	await(t, s.inside)
	c.Conn.(*tls.Conn).NetConn().Close()
	close(s.release)
	eventually(t, "the connection's end", func() bool { return b.srv.Connections() == 0 })
	all := b.records()
	if len(all) != 2 || all[0].Op == all[1].Op {
		t.Errorf("got %+v", all)
	}
	b.lives()
}

// TestHalfAConnection: who closes its own direction still gets its answers.
func TestHalfAConnection(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes)
	c := b.open()
	c.send(echoes(1, "rose"), c.encrypt(2, "lily"))
	check(t, c.Conn.(*tls.Conn).CloseWrite())
	await(t, s.inside)
	close(s.release)
	if kinds, _ := c.answers(2); kinds[1] != api.KindNone || kinds[2] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
	if _, err := c.next(); err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("then %v", err)
	}
}

// TestAPeerThatDoesNotRead: the server stops reading from it, others are served,
// and when it reads at last, every answer is there.
func TestAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) { set.limits.WindowBytes = 256 << 10 })
	c := b.open()
	pad := protocol.AppendRequest(nil, 1, talk.Op, &said{Text: make(api.Blob, 100_000)})
	sent := 0
	for c.SetWriteDeadline(time.Now().Add(time.Second)); ; sent++ {
		if sent > 1000 { // what the window and the sockets' buffers hold is far less
			t.Fatal("the server reads without end")
		}
		if _, err := c.Write(pad); err != nil {
			break
		}
		if sent%64 == 0 {
			b.serves()
			c.SetWriteDeadline(time.Now().Add(time.Second))
		}
	}
	b.serves()
	answered := 0
	for ; answered < sent; answered++ {
		if r := c.reply(); r.Kind != api.KindNone || len(r.Body) < 64<<10 {
			t.Fatalf("reply %d: %v", answered, r.Err())
		}
	}
}

// TestAPeerThatNeverReads is cut when a write to it takes too long.
func TestAPeerThatNeverReads(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) { set.limits.WriteTimeout = 200 * time.Millisecond })
	c := b.open()
	for {
		if _, err := c.Write(protocol.AppendRequest(nil, 1, talk.Op, &said{})); err != nil {
			break
		}
	}
	eventually(t, "the connection's end", func() bool { return b.srv.Connections() == 0 })
	b.pass()
	b.lives()
}

// TestConnectionLimits: of one principal the next is told why; beyond the limit
// of all it is closed. Places become free again.
func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.MaxConnsPrincipal, s.limits.MaxConnections = 2, 3 })
	other := b.config()
	other.Certificates = []tls.Certificate{b.StrangerConfig.Certificate}
	first, _ := b.open(), b.open()
	c := b.dial(b.config())
	if e := c.dismissed(api.KindThrottling); e != nil && e.RetryAfter == 0 {
		t.Error("the limit of a principal is told without when to try again")
	}
	b.recorded(0, api.KindThrottling)
	eventually(t, "the third's end", func() bool { return b.srv.Connections() == 2 })
	b.dial(other).hello()
	fourth := b.connect()
	if err := tls.Client(fourth, other).Handshake(); err == nil {
		t.Error("a connection beyond the limit gets through its handshake")
	}
	if rec := b.recorded(0, api.KindThrottling); rec.Source != "tcp "+fourth.LocalAddr().String() {
		t.Errorf("recorded %+v", rec)
	}
	first.Close()
	eventually(t, "a free place", func() bool { return b.srv.Connections() == 2 })
	b.dial(other).hello()
}

// TestRevocationActsOnOpenConnections: with the next request, also under load.
func TestRevocationActsOnOpenConnections(t *testing.T) {
	t.Parallel()
	b := start(t)
	loaded, idle := b.open(), b.open()
	idle.send(idle.encrypt(1, "rose"))
	if r := idle.reply(); r.Kind != api.KindNone {
		t.Errorf("answered %v", r.Err())
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for id := api.RequestID(1); ; id++ {
			select {
			case <-stop:
				return
			default:
				loaded.Write(loaded.encrypt(id, "x"))
			}
		}
	}()
	loaded.reply()
	b.People().Publish(nil)
	idle.send(idle.encrypt(2, "lily"))
	if r := idle.reply(); r.ID != 2 || r.Kind != api.KindUnrecognizedClient {
		t.Errorf("after it was revoked a client was answered %d, %v", r.ID, r.Err())
	}
	for refused := false; !refused; {
		refused = loaded.reply().Kind == api.KindUnrecognizedClient
	}
	for range 10 { // and from then on nothing else
		if r := loaded.reply(); r.Kind != api.KindUnrecognizedClient {
			t.Errorf("after a refusal %d was answered %v", r.ID, r.Err())
		}
	}
	close(stop)
	await(t, done)
	c := b.dial(b.config())
	c.dismissed(api.KindUnrecognizedClient)
	b.People().Publish(b.Principals)
	idle.send(idle.encrypt(3, "iris"))
	if r := idle.reply(); r.ID != 3 || r.Kind != api.KindNone {
		t.Errorf("after it was registered again a client was answered %d, %v", r.ID, r.Err())
	}
}

// certified returns the configuration of a client that is known by its key and whose
// certificate ends at a time.
func (b *bed) certified(until time.Time) *tls.Config {
	b.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(b.tb, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(b.tb, err)
	leaf, err := x509.ParseCertificate(der)
	check(b.tb, err)
	known := *b.Principals[0]
	known.Credential = identity.HashOf(leaf.RawSubjectPublicKeyInfo)
	b.People().Publish(append([]*identity.Principal{&known}, b.Principals...))
	return b.configOf(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// TestACertificateEndsOnAnOpenConnection: with the next request after its last second, on
// a connection that rests or not; others of the same account go on, and a new connection
// is told why.
func TestACertificateEndsOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	b := start(t)
	cfg := b.certified(time.Now().Add(time.Hour))
	c, other := b.dial(cfg), b.open()
	c.hello()
	ask := func(c *raw, id api.RequestID, want api.Kind) {
		t.Helper()
		c.send(c.encrypt(id, "rose"))
		if r := c.reply(); r.ID != id || r.Kind != want {
			t.Errorf("request %d was answered %v, want %v", id, r.Err(), want)
		}
	}
	ask(c, 1, api.KindNone)
	b.advance(time.Hour - time.Minute)
	ask(c, 2, api.KindNone)
	b.advance(2 * time.Minute)
	b.records()
	ask(c, 3, api.KindUnrecognizedClient)
	if all := b.records(); len(all) != 1 || all[0].Principal != "" || all[0].Error != uint16(api.KindUnrecognizedClient) {
		t.Errorf("recorded %+v", all)
	}
	ask(c, 4, api.KindUnrecognizedClient)
	ask(other, 1, api.KindNone)
	b.dial(cfg).dismissed(api.KindUnrecognizedClient)
}

// TestAServerCertificateThatIsOver: clients pin the key, and are served whatever the dates
// say; those that trust a CA instead are not, and say why.
func TestAServerCertificateThatIsOver(t *testing.T) {
	t.Parallel()
	b := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	cfg := b.Config
	cfg.Addr = b.listen("tcp", "127.0.0.1:0", b.srv.TLS(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}))
	cfg.ServerKey = identity.HashOf(leaf.RawSubjectPublicKeyInfo).String()
	if _, err := client.Do(t.Context(), b.NewClient(cfg), kmsapi.ListKeys, &kmsapi.ListKeysRequest{}); err != nil {
		t.Errorf("a client that pins the key is told %v", err)
	}
	cfg.ServerKey, cfg.RootCAs = "", x509.NewCertPool()
	cfg.RootCAs.AddCert(leaf)
	_, err = client.Do(t.Context(), b.NewClient(cfg), kmsapi.ListKeys, &kmsapi.ListKeysRequest{})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.Expired {
		t.Errorf("a client that trusts a CA is told %v", err)
	}
}
