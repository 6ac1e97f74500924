package access_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access"
	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/access/policy"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/work"
	"github.com/keyrack/keyrack/keystore"
	"github.com/keyrack/keyrack/protocol"
)

// Operations that exist only here: the tests write their methods.
var (
	testing200 = &api.Service{Name: "test", Block: 200}
	change     = api.Define[ask, answer](testing200, "Change", 1, 0)
	look       = api.Define[ask, answer](testing200, "Look", 2, api.ReadOnly)
	trap       = api.Define[trapped, answer](testing200, "Trap", 3, 0)
)

type ask struct {
	Name   string     `n:"1" rule:"required,len=1:10" audit:"show"`
	Secret api.Secret `n:"2"`
}

type answer struct {
	Secret api.Secret `n:"1"`
	Text   string     `n:"2" audit:"show"`
}

// trapped cannot be checked.
type trapped struct {
	Name string `n:"1" audit:"show"`
}

func (*trapped) Check() error { panic("never to be seen") }

type method = func(*access.Call, *ask, *answer) error

// Who calls in these tests.
var (
	tenant   = api.AccountID([]byte("111122223333"))
	root     = &identity.Principal{ARN: "arn:aws:iam::111122223333:root", Type: identity.Root, Account: tenant, Credential: identity.KeyHash{1}}
	nobody   = &identity.Principal{ARN: "arn:aws:iam::111122223333:user/nobody", Account: tenant, Credential: identity.KeyHash{2}}
	goodBody = change.In.AppendCBOR(nil, &ask{Name: "rose", Secret: api.Secret("petals")})
)

// thing is a resource that the root of tenant may do everything with.
type thing struct{}

func (thing) ARN() string          { return "arn:aws:test:rack-1:111122223333:thing" }
func (thing) Rules() *policy.Rules { return policy.AccountRoot(tenant) }

// rig is a gate over an audit log of its own.
type rig struct {
	tb testing.TB
	*access.Gate
	disk    *racktest.Disk
	log     *audit.Log
	advance func(time.Duration)
	lines   *lines // what was logged for people
	seen    audit.Position
}

func newRig(tb testing.TB, options ...func(*audit.Config)) *rig {
	tb.Helper()
	r, err := openRig(tb, newKey(tb), options...)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// newKey makes a key that signs checkpoints.
func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// openRig is newRig for a log whose key there is already, and which may not open.
func openRig(tb testing.TB, key *ecdsa.PrivateKey, options ...func(*audit.Config)) (_ *rig, err error) {
	tb.Helper()
	r := &rig{tb: tb, disk: racktest.NewDisk(tb.TempDir()), lines: new(lines)}
	clk, advance := clock.NewTest(time.Unix(1_700_000_000, 0))
	cfg := audit.Config{
		Files: r.disk, Origin: "keyrack.test/door", Clock: clk, SegmentBytes: 1 << 20,
		Signer: audit.Signer{Public: &key.PublicKey, SignDigest: func(_ context.Context, digest []byte) ([]byte, error) {
			return ecdsa.SignASN1(rand.Reader, key, digest)
		}},
	}
	for _, option := range options {
		option(&cfg)
	}
	if r.log, err = audit.Open(cfg); err != nil {
		return nil, err
	}
	tb.Cleanup(func() {
		r.disk.Release()
		r.log.Close(context.Background())
	})
	r.advance = advance
	r.Gate = access.NewGate(access.Config{
		Log: r.log, Clock: clk, Realm: api.Realm{Partition: "aws", Region: "rack-1"},
		Logger: slog.New(slog.NewTextHandler(r.lines, nil)),
	})
	return r, nil
}

func (r *rig) session(p *identity.Principal) *access.Session {
	s := r.Session(r.tb.Context(), identity.Always(p), "test")
	r.tb.Cleanup(s.Close)
	return s
}

// call makes one call as a front does, on a worker if it yields, and returns its reply.
func (r *rig) call(p *identity.Principal, route access.Route, body []byte) protocol.Reply {
	r.tb.Helper()
	s := r.session(p)
	c := s.Call(7)
	if class := route.Serve(c, protocol.Native{}, body); class != work.None {
		ticket := c.Ticket()
		s = r.session(p)
		if class := route.Serve(s.Again(r.tb.Context(), ticket), protocol.Native{}, body); class != work.None {
			r.tb.Fatalf("a worker's run yields for %s", class)
		}
	}
	held := s.Flush(false)
	defer held.Release()
	return r.reply(&held)
}

// reply waits for the one reply in held.
func (r *rig) reply(held *access.Held) protocol.Reply {
	r.tb.Helper()
	b, err := held.Bytes(r.tb.Context())
	if err != nil {
		r.tb.Fatal(err)
	}
	frame, rest, _, err := protocol.Split(bytes.Clone(b), api.MaxReplyFrame)
	if err != nil || frame == nil || len(rest) > 0 {
		r.tb.Fatalf("%d bytes are not one reply: %v", len(b), err)
	}
	reply, err := protocol.ParseReply(frame)
	if err != nil || reply.ID != 7 {
		r.tb.Fatalf("reply to %d: %v", reply.ID, err)
	}
	return reply
}

// records returns the durable records since the last time, encoded.
func (r *rig) encoded() (all [][]byte) {
	r.tb.Helper()
	end := r.log.Durable()
	err := r.log.Walk(r.tb.Context(), r.seen, end, func(_ audit.Position, b []byte) error {
		all = append(all, bytes.Clone(b))
		return nil
	})
	if err != nil {
		r.tb.Fatal(err)
	}
	r.seen = end
	return all
}

func (r *rig) records() (all []audit.Record) {
	r.tb.Helper()
	for _, b := range r.encoded() {
		rec, err := audit.ParseRecord(b)
		if err != nil {
			r.tb.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// until waits for what must come true.
func (r *rig) until(ok func() bool) {
	r.tb.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			r.tb.Fatal("it does not come true")
		}
	}
}

// flush makes durable what a housekeeping round has put into the log.
func (r *rig) flush() {
	r.tb.Helper()
	if err := r.log.Wait(r.tb.Context(), r.log.State().Size); err != nil {
		r.tb.Fatal(err)
	}
}

// lines is what a logger wrote.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// brokenStore refuses every change.
type brokenStore struct{ keystore.Store }

var errMedium = errors.New("the medium is gone")

func (brokenStore) Update(_ context.Context, f func(keystore.Tx) error) (keystore.Revision, error) {
	return 0, errMedium
}
