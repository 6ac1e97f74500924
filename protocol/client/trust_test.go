package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// watched is a TLS server that greets, answers, and counts what clients do.
type watched struct {
	addr string
	mu   sync.Mutex
	seen []tls.ConnectionState // guarded by mu; of handshakes, however they ended
	sent int                   // guarded by mu; bytes that clients sent behind the handshake
}

func watch(t *testing.T, cert tls.Certificate) *watched {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	w := &watched{addr: l.Addr().String()}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{protocol.ALPN}}
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(tls.Server(nc, cfg))
		}
	}()
	return w
}

func (w *watched) serve(nc *tls.Conn) {
	defer nc.Close()
	err := nc.Handshake()
	w.mu.Lock()
	w.seen = append(w.seen, nc.ConnectionState())
	w.mu.Unlock()
	if err != nil {
		return
	}
	nc.Write(protocol.AppendHello(nil, &protocol.Hello{ApplianceId: strings.Repeat("0", 36), Version: "test", Window: 4}))
	c := &peer{Conn: nc}
	for r, ok := c.request(); ok; r, ok = c.request() {
		w.mu.Lock()
		w.sent += len(r.Body)
		w.mu.Unlock()
		c.answer(r.ID, "rose")
	}
}

// told returns how many handshakes there were, and whether any client told who
// it is or sent a request.
func (w *watched) told() (handshakes int, told bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen {
		told = told || len(s.PeerCertificates) > 0
	}
	return len(w.seen), told || w.sent > 0
}

// TestTheServerIsCheckedBeforeAnythingIsSent: by its pinned key or by a CA and
// its name. A wrong one does not even learn who calls, and is asked once.
func TestTheServerIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	ours := r.Config.Certificate
	other := httptest.NewTLSServer(nil) // for its certificate, of 127.0.0.1 and by a CA of its own
	defer other.Close()
	good, bad := x509.NewCertPool(), x509.NewCertPool()
	good.AddCert(other.Certificate())
	bad.AddCert(ours.Leaf)
	for name, c := range map[string]struct {
		cert   tls.Certificate
		change func(w *watched, cfg *client.Config)
		ok     bool
		is     error
	}{
		"pinned":     {ours, func(_ *watched, cfg *client.Config) { cfg.ServerKey = keyOf(ours) }, true, nil},
		"wrong pin":  {ours, func(_ *watched, cfg *client.Config) { cfg.ServerKey = r.ServerKey() }, false, client.ErrServerKey},
		"CA":         {other.TLS.Certificates[0], func(_ *watched, cfg *client.Config) { cfg.RootCAs = good }, true, nil},
		"another CA": {other.TLS.Certificates[0], func(_ *watched, cfg *client.Config) { cfg.RootCAs = bad }, false, nil},
		"another name": {other.TLS.Certificates[0], func(w *watched, cfg *client.Config) {
			cfg.RootCAs, cfg.Addr = good, strings.Replace(w.addr, "127.0.0.1", "localhost", 1)
		}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, c.cert)
			cfg := client.Config{Addr: w.addr, Certificate: ours}
			c.change(w, &cfg)
			_, err := ask(t, r.NewClient(cfg))
			switch {
			case c.ok && err != nil:
				t.Errorf("refused: %v", err)
			case !c.ok && err == nil:
				t.Error("the server is accepted")
			case c.is != nil && !errors.Is(err, c.is):
				t.Errorf("got %v, want %v", err, c.is)
			}
			eventually(t, "a handshake", func() bool { n, _ := w.told(); return n > 0 })
			if n, told := w.told(); n != 1 || told != c.ok {
				t.Errorf("after %d handshakes the server was told something: %t, want %t after 1", n, told, c.ok)
			}
		})
	}
}

// keyOf returns the pin of a certificate.
func keyOf(cert tls.Certificate) string {
	return identity.HashOf(cert.Leaf.RawSubjectPublicKeyInfo).String()
}

// TestConfigurations that say too little are refused before anything is dialled.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	cert := tls.Certificate{Certificate: [][]byte{{1}}}
	pin := "sha256:" + strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		cfg client.Config
		ok  bool
	}{
		"pinned":         {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: pin}, true},
		"CA":             {client.Config{Addr: "rack:1", Certificate: cert, RootCAs: x509.NewCertPool()}, true},
		"socket":         {client.Config{Socket: "/nowhere"}, true},
		"nothing":        {client.Config{}, false},
		"pin and CA":     {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: pin, RootCAs: x509.NewCertPool()}, false},
		"no address":     {client.Config{Certificate: cert, ServerKey: pin}, false},
		"no certificate": {client.Config{Addr: "rack:1", ServerKey: pin}, false},
		"first use":      {client.Config{Addr: "rack:1", Certificate: cert}, false},
		"short pin":      {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: pin[:69]}, false},
		"bare pin":       {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: pin[7:]}, false},
		"SHA-1":          {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: "sha1:" + pin[7:]}, false},
		"no hex":         {client.Config{Addr: "rack:1", Certificate: cert, ServerKey: "sha256:" + strings.Repeat("xy", 32)}, false},
	} {
		if _, err := client.New(c.cfg); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFromEnv reads what `keyrack dev` prints.
func TestFromEnv(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	env := map[string]string{
		client.EnvAddr: r.Addr(), client.EnvServerKey: r.ServerKey(),
		client.EnvCert: filepath.Join(r.Dir, "root.pem"), client.EnvKey: filepath.Join(r.Dir, "root.key"),
	}
	cfg, err := client.FromEnv(func(name string) string { return env[name] })
	check(t, err)
	if _, err := ask(t, r.NewClient(cfg)); err != nil {
		t.Error(err)
	}
	for name := range env {
		_, err := client.FromEnv(func(n string) string {
			if n == name {
				return ""
			}
			return env[n]
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	env[client.EnvKey] = filepath.Join(r.Dir, "stranger.key")
	if _, err := client.FromEnv(func(name string) string { return env[name] }); err == nil {
		t.Error("a key that does not belong to the certificate is accepted")
	}
}

// relay is an address that stays, in front of an appliance that comes and goes.
type relay struct {
	net.Listener
	mu sync.Mutex
	to string // guarded by mu; "" for nowhere
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	r := &relay{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go r.join(nc)
		}
	}()
	return r
}

func (r *relay) join(nc net.Conn) {
	defer nc.Close()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	if to == "" {
		return
	}
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	go func() { io.Copy(up, nc); up.Close() }()
	io.Copy(nc, up)
}

func (r *relay) point(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// TestAnApplianceThatComesBack: calls fail while it is away and succeed when
// there is one again with the same key at the same address.
func TestAnApplianceThatComesBack(t *testing.T) {
	t.Parallel()
	front := newRelay(t)
	first := racktest.Start(t)
	front.point(first.Addr())
	cfg := first.Config
	cfg.Addr, cfg.Retries = front.Addr().String(), 1
	c := first.NewClient(cfg)
	if _, err := ask(t, c); err != nil {
		t.Fatal(err)
	}
	was := c.Hello()
	server, err := os.ReadFile(filepath.Join(first.Dir, "server.pem"))
	check(t, err)
	front.point("")
	first.Stop()
	if _, err := ask(t, c); err == nil {
		t.Error("an appliance that is away answers")
	}
	second := racktest.Start(t, func(r *rack.Config) {
		r.Principals = first.Principals
		check(t, os.WriteFile(filepath.Join(r.Dir, "server.pem"), server, 0o600))
	})
	front.point(second.Addr())
	if _, err := ask(t, c); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	if now := c.Hello(); now.ApplianceId == was.ApplianceId || now.ApplianceId != second.ID() || now.Window != api.Window {
		t.Errorf("the hello kept is %+v", now)
	}

	imposter := racktest.Start(t, func(r *rack.Config) { r.Principals = first.Principals })
	front.point(imposter.Addr())
	second.Stop()
	if _, err := client.Do(context.Background(), c, checkpoint, &applianceapi.GetAuditCheckpointRequest{}); !errors.Is(err, client.ErrServerKey) {
		t.Errorf("another appliance at the same address: %v", err)
	}
}
