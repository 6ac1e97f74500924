package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// peer is a process that does to the appliance what a role says, until its standard
// input ends. It then prints a tally as JSON.
type peer struct {
	addr   string
	certs  []tls.Certificate // of known clients, used in turn
	next   atomic.Uint64
	client *client.Client // of callers
	key    api.KeyRef     // theirs
	tally
}

// tally is what a peer did.
type tally struct {
	Attempts atomic.Int64 // connections begun
	Ends     atomic.Int64 // of them those that the appliance has ended
	Open     atomic.Int64
}

// role is one way to be a burden.
type role struct {
	lanes int // goroutines; 0 = one a connection
	begin func(*peer)
	act   func(*peer)
}

// The lanes of a flood: as many connections of it are open at once.
var roles = map[string]role{
	"idle":    {lanes: 32, act: (*peer).idle},
	"unknown": {lanes: 128, begin: (*peer).becomeUnknown, act: (*peer).unknown},
	"half":    {lanes: 2048, act: (*peer).half},
	"garbage": {lanes: 128, act: (*peer).garbage},
	"callers": {lanes: 1000, begin: (*peer).connect, act: (*peer).call},
}

// runPeer is the process. What floods is nice: it stands for machines of its own, and
// must not take the processor from those that it shares this one with.
func runPeer(name string, count int) {
	r, known := roles[name]
	if !known {
		log.Fatalf("no role %q", name)
	}
	if name != "callers" {
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
			log.Fatal(err)
		}
	}
	p := &peer{addr: os.Getenv(client.EnvAddr)}
	for i := 0; ; i++ {
		cert, err := tls.LoadX509KeyPair(certPaths(os.Getenv(envPeers), i))
		if errors.Is(err, os.ErrNotExist) && i > 0 {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		p.certs = append(p.certs, cert)
	}
	if r.begin != nil {
		r.begin(p)
	}
	p.run(r, count)
	json.NewEncoder(os.Stdout).Encode(map[string]int64{"Attempts": p.Attempts.Load(), "Ends": p.Ends.Load(), "Open": p.Open.Load()})
}

// run acts until standard input ends: count times, or over and over if count is 0.
func (p *peer) run(r role, count int) {
	var left atomic.Int64
	left.Store(int64(count))
	var lanes sync.WaitGroup
	for range r.lanes {
		lanes.Go(func() {
			for count == 0 || left.Add(-1) >= 0 {
				p.Attempts.Add(1)
				r.act(p)
			}
		})
	}
	if count > 0 {
		lanes.Wait()
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// dial connects from one of many addresses of this machine. The connection's end leaves
// nothing in the kernel (a reset).
func (p *peer) dial() (net.Conn, error) {
	n := p.next.Add(1)
	from := &net.TCPAddr{IP: net.IPv4(127, 0, byte(n>>7%100), 2+byte(n%128))}
	nc, err := (&net.Dialer{LocalAddr: from, Timeout: 30 * time.Second}).Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	nc.(*net.TCPConn).SetLinger(0)
	nc.SetDeadline(time.Now().Add(time.Minute))
	return nc, nil
}

func (p *peer) config() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{p.certs[p.next.Add(1)%uint64(len(p.certs))]}, MinVersion: tls.VersionTLS13,
		NextProtos: []string{protocol.ALPN}, InsecureSkipVerify: true, // whom it burdens is known
	}
}

// idle opens a connection of a known client, hears its greeting and leaves it open.
func (p *peer) idle() {
	for {
		nc, err := p.dial()
		if err != nil {
			log.Fatal(err) // out of ports or descriptors
		}
		tc := tls.Client(nc, p.config())
		if err := tc.Handshake(); err == nil {
			if n, err := tc.Read(make([]byte, 4096)); err == nil && n > 0 {
				nc.SetDeadline(time.Time{})
				p.Open.Add(1)
				kept.Store(nc, tc)
				return
			}
		}
		nc.Close()
		p.Ends.Add(1)
	}
}

// kept is what must not be collected.
var kept sync.Map

// becomeUnknown makes a key that no appliance knows.
func (p *peer) becomeUnknown() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	p.certs = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

// unknown completes a handshake, hears why it is not served, and leaves.
func (p *peer) unknown() {
	nc, err := p.dial()
	if err != nil {
		return
	}
	defer nc.Close()
	tc := tls.Client(nc, p.config())
	if tc.Handshake() != nil {
		return
	}
	if _, err := tc.Read(make([]byte, 4096)); err == nil {
		p.Ends.Add(1)
	}
}

// half sends a ClientHello, which the appliance computes an answer to, and is silent
// until the appliance ends the connection.
func (p *peer) half() {
	nc, err := p.dial()
	if err != nil {
		return
	}
	defer nc.Close()
	if _, err := nc.Write(p.hello()); err != nil {
		return
	}
	io.Copy(io.Discard, nc)
	p.Ends.Add(1)
}

// hello returns a ClientHello; the same each time, which the appliance cannot know.
func (p *peer) hello() []byte {
	return firstHello(p.config())
}

var firstHello = func() func(*tls.Config) []byte {
	var once sync.Once
	var hello []byte
	return func(cfg *tls.Config) []byte {
		once.Do(func() {
			var t tap
			tls.Client(&t, cfg).HandshakeContext(context.Background())
			hello = t.Bytes()
		})
		return hello
	}
}()

// tap keeps what is written and has nothing to read.
type tap struct {
	net.Conn
	bytes.Buffer
}

func (t *tap) Write(b []byte) (int, error) { return t.Buffer.Write(b) }
func (t *tap) Read([]byte) (int, error)    { return 0, io.EOF }
func (t *tap) Close() error                { return nil }

// garbage is a known client that sends what is no frame, one kind after the other, and
// hears the connection's one error.
func (p *peer) garbage() {
	nc, err := p.dial()
	if err != nil {
		return
	}
	defer nc.Close()
	tc := tls.Client(nc, p.config())
	if tc.Handshake() != nil {
		return
	}
	nested := append([]byte{0, 1, 0, 0}, bytes.Repeat([]byte{0x81}, 1<<16)...)
	kinds := [][]byte{{0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0}, {0, 0, 0, 3, 0x84, 1, 2}, nested, append([]byte{0, 2, 0, 0}, make([]byte, 1<<17)...)}
	if _, err := tc.Write(kinds[p.next.Load()%uint64(len(kinds))]); err != nil {
		return
	}
	tc.CloseWrite()
	if _, err := io.Copy(io.Discard, tc); err == nil {
		p.Ends.Add(1)
	}
}

// connect makes the one connection of callers, and their key.
func (p *peer) connect() {
	cfg, err := client.FromEnv(os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	if p.client, err = client.New(cfg); err != nil {
		log.Fatal(err)
	}
	key, err := client.Do(context.Background(), p.client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	if err != nil {
		log.Fatal(err)
	}
	p.key = api.ParseKeyRef([]byte(key.KeyMetadata.Arn))
}

// call makes one call and waits for its answer.
func (p *peer) call() {
	in := &kmsapi.EncryptRequest{KeyId: p.key, Plaintext: make(api.Secret, 32)}
	if _, err := client.Do(context.Background(), p.client, kmsapi.Encrypt, in); err != nil {
		log.Fatal(err)
	}
}
