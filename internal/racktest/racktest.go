// Package racktest runs a whole appliance inside a test: soft token, store in
// memory, audit log on disk, TLS and Unix sockets on loopback.
//
// Read first: [Start]; [Rack]. Requests are scribbled over with 0xDB once they
// were served, so that whoever keeps a part of one without cloning it is found.
package racktest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol/client"
)

// Scribble is what served requests are overwritten with.
const Scribble = 0xDB

// Account is the tenant whose root [Rack.Client] is.
var Account = mustAccount("111122223333")

// Other is another tenant; its root is who [Rack.Stranger] returns.
var Other = mustAccount("444455556666")

func mustAccount(s string) api.AccountID {
	a, err := api.ParseAccountID(s)
	if err != nil {
		panic(err)
	}
	return a
}

// Rack is a running appliance and clients of it.
type Rack struct {
	*rack.Appliance
	Dir        string
	Disk       *Disk          // of the audit log, unless an option chose other files
	Client     *client.Client // root of Account
	Stranger   *client.Client // root of Other
	Operator   *client.Client // over the Unix socket
	Principals []*identity.Principal
	Config     client.Config // that Client was made with

	StrangerConfig client.Config // that Stranger was made with

	tb      testing.TB
	cfg     rack.Config
	running bool
}

// OnDisk is an option of [Start]: the store is a file in the data folder, and the
// appliance can be started again.
func OnDisk(cfg *rack.Config) { cfg.Store = nil }

// start starts the appliance that is in the folder.
func (r *Rack) start() error {
	a, err := rack.Start(r.tb.Context(), r.cfg)
	if err == nil {
		r.Appliance, r.running = a, true
	}
	return err
}

// Restart stops the appliance and starts it again from its folder, on the same port, after
// between, which may be nil, was run on the folder and may change the configuration. The
// clients stay.
func (r *Rack) Restart(between func(*rack.Config)) {
	r.tb.Helper()
	check(r.tb, r.TryRestart(between))
}

// TryRestart is Restart for a start that may fail. The appliance then stays stopped.
func (r *Rack) TryRestart(between func(*rack.Config)) error {
	r.tb.Helper()
	if addr := r.Addr(); addr != "" {
		r.cfg.Listen = addr
	}
	r.Stop()
	if between != nil {
		between(&r.cfg)
	}
	return r.start()
}

// loopbacks counts the addresses that were given.
var loopbacks atomic.Uint32

// Loopback returns an address to listen on, with any free port, that no other appliance of these tests has: where one
// starts again it finds its port free. A port of 127.0.0.1 may be anybody's meanwhile.
func Loopback() string {
	pid, n := os.Getpid(), loopbacks.Add(1)
	return fmt.Sprintf("127.%d.%d.%d:0", 128+pid>>8%64, pid%256, 1+n%254)
}

// Start starts an appliance with a soft token for the length of a test. Options change its
// configuration before it starts.
func Start(tb testing.TB, options ...func(*rack.Config)) *Rack {
	tb.Helper()
	return StartOn(tb, "soft", options...)
}

// StartOn is Start with the token that rack.ParseToken makes of a specification.
func StartOn(tb testing.TB, token string, options ...func(*rack.Config)) *Rack {
	tb.Helper()
	dir, err := os.MkdirTemp("", "keyrack") // not tb.TempDir: a Unix socket's path is short
	check(tb, err)
	tb.Cleanup(func() { os.RemoveAll(dir) })
	r := &Rack{Dir: dir, Disk: NewDisk(filepath.Join(dir, "audit")), tb: tb}
	root, cert := r.principal("root", Account)
	stranger, strangerCert := r.principal("stranger", Other)
	r.Principals = []*identity.Principal{root, stranger}
	r.cfg = rack.Config{
		Dir: dir, AuditFiles: r.Disk, Principals: r.Principals, Scribble: Scribble, AllowUnlockedMemory: true,
		Store: keystore.NewMemory(), Logger: Logger(tb), Listen: Loopback(),
	}
	create, open, err := rack.ParseToken(token, dir)
	check(tb, err)
	r.cfg.Token = create
	for _, option := range options {
		option(&r.cfg)
	}
	_, err = rack.Create(tb.Context(), r.cfg)
	check(tb, err)
	r.cfg.Token = open
	tb.Cleanup(func() { r.Stop() })
	check(tb, r.start())
	r.Config = client.Config{Addr: r.Addr(), ServerKey: r.ServerKey(), Certificate: cert}
	r.Client = r.NewClient(r.Config)
	r.StrangerConfig = r.Config
	r.StrangerConfig.Certificate = strangerCert
	r.Stranger = r.NewClient(r.StrangerConfig)
	r.Operator = r.NewClient(client.Config{Socket: r.Socket()})
	return r
}

// principal makes a client's key and the principal it belongs to.
func (r *Rack) principal(name string, account api.AccountID) (*identity.Principal, tls.Certificate) {
	hash, certPath, keyPath, err := rack.NewClient(r.Dir, name)
	check(r.tb, err)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	check(r.tb, err)
	arn := api.Realm{Partition: "aws"}.RootARN(account)
	return &identity.Principal{ARN: arn, Type: identity.Root, Account: account, Credential: hash}, cert
}

// Certificate makes a certificate that no principal has.
func (r *Rack) Certificate(name string) tls.Certificate {
	r.tb.Helper()
	_, cert := r.principal(name, Account)
	return cert
}

// NewClient returns a client that is closed with the test.
func (r *Rack) NewClient(cfg client.Config) *client.Client {
	r.tb.Helper()
	c, err := client.New(cfg)
	check(r.tb, err)
	r.tb.Cleanup(func() { c.Close() })
	return c
}

// Stop stops the appliance, if it runs. That its audit log is dead is no surprise: a
// test has killed it (see Disk and Power).
func (r *Rack) Stop() {
	if !r.running {
		return
	}
	r.running = false
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Close(ctx); err != nil && !errors.Is(err, audit.ErrDead) && !errors.Is(err, ErrKilled) {
		r.tb.Errorf("stop the appliance: %v", err)
	}
}

// CreateKey creates a key and returns its ARN.
func (r *Rack) CreateKey() string {
	r.tb.Helper()
	out, err := client.Do(r.tb.Context(), r.Client, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	check(r.tb, err)
	return out.KeyMetadata.Arn
}

// Records returns the audit records so far, in order, but for those of reading
// them.
func (r *Rack) Records() []audit.Record {
	r.tb.Helper()
	var all []audit.Record
	for from, more := int64(0), true; more; {
		out, err := client.Do(r.tb.Context(), r.Operator, applianceapi.ListAuditRecords,
			&applianceapi.ListAuditRecordsRequest{From: from, Limit: 1000})
		check(r.tb, err)
		for _, encoded := range out.Records {
			rec, err := audit.ParseRecord(encoded)
			check(r.tb, err)
			if rec.Op != applianceapi.ListAuditRecords.Number || rec.Error != 0 {
				all = append(all, rec)
			}
		}
		from, more = out.Next, len(out.Records) > 1
	}
	return all
}

// Verify stops the appliance and checks its audit log as an outsider would.
func (r *Rack) Verify() audit.Report {
	r.tb.Helper()
	r.Stop()
	key, err := tlog.ParseVerifier(r.AuditKey())
	check(r.tb, err)
	report, err := audit.Verify(audit.Dir(filepath.Join(r.Dir, "audit")), audit.VerifyOptions{Keys: []tlog.Verifier{key}})
	check(r.tb, err)
	return report
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Logger returns a logger that writes warnings and worse to the test's log. Lines
// after the test's end are dropped.
func Logger(tb testing.TB) *slog.Logger {
	w := &testLog{tb: tb}
	tb.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tb = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testLog struct {
	mu sync.Mutex
	tb testing.TB // guarded by mu; nil when the test is over
}

func (w *testLog) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tb != nil {
		w.tb.Log(string(line[:len(line)-1]))
	}
	return len(line), nil
}
