package client_test

import (
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// appliance is one that a test writes. It greets every connection and then does
// with the requests what the test says.
type appliance struct {
	t      *testing.T
	path   string
	window int64 // in its hello; 0 is no hello
	serve  func(c *peer)

	mu    sync.Mutex
	peers []*peer // guarded by mu; in the order they came
}

// peer is the appliance's end of a connection.
type peer struct {
	net.Conn
	number int // from 0
	in     []byte
}

// newAppliance listens on a Unix socket until the test's end. serve has each
// connection after the hello; the connection ends with it.
func newAppliance(t *testing.T, window int64, serve func(c *peer)) *appliance {
	t.Helper()
	a := &appliance{t: t, path: filepath.Join(t.TempDir(), "s"), window: window, serve: serve}
	l, err := net.Listen("unix", a.path)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go a.accept(l)
	return a
}

func (a *appliance) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		c := &peer{Conn: nc, number: len(a.peers)}
		a.peers = append(a.peers, c)
		a.mu.Unlock()
		go func() {
			defer nc.Close()
			if a.window > 0 {
				c.Write(protocol.AppendHello(nil, &protocol.Hello{
					ApplianceId: "00000000-0000-4000-8000-000000000000", Version: "test", Window: a.window, Checkpoint: "a checkpoint",
				}))
			}
			a.serve(c)
		}()
	}
}

// connections returns how many there have been.
func (a *appliance) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.peers)
}

func (a *appliance) client(change ...func(*client.Config)) *client.Client {
	a.t.Helper()
	cfg := client.Config{Socket: a.path}
	for _, f := range change {
		f(&cfg)
	}
	c, err := client.New(cfg)
	check(a.t, err)
	a.t.Cleanup(func() { c.Close() })
	return c
}

// request returns the next request; ok is false at the stream's end.
func (c *peer) request() (r protocol.Request, ok bool) {
	for {
		frame, rest, _, err := protocol.Split(c.in, api.MaxRequestFrame)
		if err != nil {
			return r, false
		}
		if frame != nil {
			c.in = rest
			r, err = protocol.ParseRequest(frame)
			return r, err == nil
		}
		more := make([]byte, 64<<10)
		n, err := c.Read(more)
		if err != nil {
			return r, false
		}
		c.in = append(c.in, more[:n]...)
	}
}

// answer answers a request with a text.
func (c *peer) answer(id api.RequestID, text string) {
	c.Write(protocol.Native{}.AppendReply(nil, checkpoint.Op, id, &applianceapi.GetAuditCheckpointResponse{Checkpoint: text}, nil))
}

func (c *peer) refuse(id api.RequestID, e *api.Error) { c.Write(protocol.AppendError(nil, id, e)) }

// answers answers all requests, until the stream ends.
func answers(c *peer) {
	for {
		r, ok := c.request()
		if !ok {
			return
		}
		c.answer(r.ID, "rose")
	}
}

// checkpoint may be repeated, and has no members to fill in.
var checkpoint = applianceapi.GetAuditCheckpoint

func ask(t *testing.T, c *client.Client) (string, error) {
	out, err := client.Do(t.Context(), c, checkpoint, &applianceapi.GetAuditCheckpointRequest{})
	if err != nil {
		return "", err
	}
	return out.Checkpoint, nil
}

// asked checks that a call is answered.
func asked(t *testing.T, c *client.Client) {
	t.Helper()
	if text, err := ask(t, c); err != nil || text != "rose" {
		t.Errorf("got %q, %v", text, err)
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
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

// eventually waits until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s does not come true", what)
		}
	}
}
