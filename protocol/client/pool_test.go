package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

// pipes is an appliance at the other end of pipes, for tests whose time is not real.
type pipes struct {
	window int64
	serve  func(c *peer) // nil = it answers
	fail   error         // instead of a connection
	dials  atomic.Int64
}

func (p *pipes) dial(context.Context) (net.Conn, error) {
	number := int(p.dials.Add(1)) - 1
	if p.fail != nil {
		return nil, p.fail
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		c := &peer{Conn: theirs, number: number}
		c.Write(protocol.AppendHello(nil, &protocol.Hello{ApplianceId: strings.Repeat("0", 36), Version: "test", Window: max(p.window, 1)}))
		if p.serve == nil {
			answers(c)
			return
		}
		p.serve(c)
	}()
	return ours, nil
}

// bubble runs a test in a time of its own, at whose end no goroutine may be left.
func bubble(t *testing.T, p *pipes, cfg client.Config, f func(t *testing.T, c *client.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := client.NewOver(cfg, p.dial)
		check(t, err)
		defer c.Close()
		f(t, c)
	})
}

// TestAThousandCallersOnOneConnection: each gets its own answer, or gives up when it
// likes, and none leaves a goroutine behind.
func TestAThousandCallersOnOneConnection(t *testing.T) {
	t.Parallel()
	p := &pipes{window: 64, serve: func(c *peer) {
		for r, ok := c.request(); ok; r, ok = c.request() {
			var in applianceapi.GetAuditConsistencyRequest
			check(t, protocol.Native{}.Decode(applianceapi.GetAuditConsistency.Op, r.Body, &in, nil))
			c.Write(protocol.Native{}.AppendReply(nil, applianceapi.GetAuditConsistency.Op, r.ID,
				&applianceapi.GetAuditConsistencyResponse{Checkpoint: fmt.Sprint(in.OldSize)}, nil))
		}
	}}
	bubble(t, p, client.Config{}, func(t *testing.T, c *client.Client) {
		var wg sync.WaitGroup
		_, err := client.Do(t.Context(), c, applianceapi.GetAuditConsistency, &applianceapi.GetAuditConsistencyRequest{})
		check(t, err)
		synctest.Wait()
		before := goroutinesHere() // this one, the appliance, and two of the connection at least
		defer func() {
			if n := goroutinesHere(); n != before || n < 4 {
				t.Errorf("%d goroutines before the calls, %d after them", before, n)
			}
		}()
		for i := range 1000 {
			wg.Go(func() {
				for n := range 5 {
					ctx, cancel := context.WithCancel(t.Context())
					impatient := rand.N(10) == 0
					if impatient {
						go cancel()
					}
					in := int64(5*i + n)
					out, err := client.Do(ctx, c, applianceapi.GetAuditConsistency, &applianceapi.GetAuditConsistencyRequest{OldSize: in})
					cancel()
					switch {
					case impatient && errors.Is(err, context.Canceled):
					case err != nil || out.Checkpoint != fmt.Sprint(in):
						t.Errorf("call %d: got %+v, %v", in, out, err)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if all, waiting := client.UnderWay(c); all != 0 || waiting != 0 || p.dials.Load() != 1 {
			t.Errorf("%d requests are under way, %d awaited, after %d connections", all, waiting, p.dials.Load())
		}
	})
}

// goroutinesHere returns how many goroutines there are in the caller's bubble.
func goroutinesHere() int {
	all := make([]byte, 64<<20)
	all = all[:runtime.Stack(all, true)]
	own := synctestBubble.Find(all) // the caller's stack is the first
	return bytes.Count(all, own)
}

// synctestBubble is how a stack names its bubble.
var synctestBubble = regexp.MustCompile(`synctest bubble \d+\]`)

// TestOnlyWhatWasSentIsLost: a request that was not given to the network when the
// connection ended is made again whatever it does; nobody else's is.
func TestOnlyWhatWasSentIsLost(t *testing.T) {
	t.Parallel()
	var end chan struct{}
	var served atomic.Int64
	p := &pipes{window: 16, serve: func(c *peer) {
		if c.number == 0 {
			<-end // the first request is half on its way, the others wait behind it
			return
		}
		for r, ok := c.request(); ok; r, ok = c.request() {
			served.Add(1)
			c.Write(protocol.Native{}.AppendReply(nil, kmsapi.CreateKey.Op, r.ID, &kmsapi.CreateKeyResponse{}, nil))
		}
	}}
	synctest.Test(t, func(t *testing.T) {
		end = make(chan struct{})
		c, err := client.NewOver(client.Config{}, p.dial)
		check(t, err)
		defer c.Close()
		first, others := make(chan error, 1), make(chan error, 10)
		go func() { first <- create(t.Context(), c) }()
		synctest.Wait()
		for range 10 {
			go func() { others <- create(t.Context(), c) }()
		}
		synctest.Wait()
		close(end)
		if err := <-first; !errors.Is(err, client.ErrLost) {
			t.Errorf("what was on its way ends with %v", err)
		}
		for range 10 {
			if err := <-others; err != nil {
				t.Errorf("what was not sent ends with %v", err)
			}
		}
		if n := served.Load(); n != 10 {
			t.Errorf("%d calls were carried out, want 10", n)
		}
	})
}

// TestASilentConnectionIsGivenUp once a caller has waited long enough on it in vain.
func TestASilentConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	for wait, conns := range map[time.Duration]int64{client.Silence - time.Second: 1, client.Silence + time.Second: 2} {
		gone := make(chan struct{}, 2)
		p := &pipes{window: 16, serve: func(c *peer) {
			if c.number > 0 {
				answers(c)
				return
			}
			for n := 0; ; n++ {
				r, ok := c.request()
				if !ok {
					break
				}
				if n > 0 {
					c.answer(r.ID, "rose")
				}
			}
			gone <- struct{}{}
		}}
		bubble(t, p, client.Config{}, func(t *testing.T, c *client.Client) {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			if err := create(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			asked(t, c)
			if n := p.dials.Load(); n != conns {
				t.Errorf("after a wait of %v: %d connections, want %d", wait, n, conns)
			}
			synctest.Wait()
			if ended := int64(len(gone)); ended != conns-1 {
				t.Errorf("after a wait of %v the first connection ended: %d", wait, ended)
			}
		})
	}
}

// TestAConnectionInTheMakingKeepsNobodyWaiting where another works.
func TestAConnectionInTheMakingKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	p := &pipes{window: 16}
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context) (net.Conn, error) {
			nc, err := p.dial(ctx)
			if p.dials.Load() > 1 {
				<-ctx.Done()
				return nil, errors.Join(ctx.Err(), nc.Close())
			}
			return nc, err
		}
		c, err := client.NewOver(client.Config{Conns: 3}, dial)
		check(t, err)
		defer c.Close()
		begun := time.Now()
		for range 10 {
			asked(t, c)
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("calls waited for %v", took)
		}
	})
}

// TestARestartUnderCalls: those that may be repeated do not notice, and those that
// may not are carried out exactly once unless they say that they are lost.
func TestARestartUnderCalls(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t, racktest.OnDisk)
	key := r.CreateKey()
	cfg := r.Config
	cfg.Retries = 100
	c := r.NewClient(cfg)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var sealed, made, lost atomic.Int64
	for range 1000 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.Do(t.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret("rose")}); err != nil {
					t.Errorf("Encrypt: %v", err)
					return
				}
				sealed.Add(1)
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil && made.Load()+lost.Load() < 400 {
				switch err := create(t.Context(), c); {
				case err == nil:
					made.Add(1)
				case errors.Is(err, client.ErrLost):
					lost.Add(1)
				default:
					t.Errorf("CreateKey: %v", err)
					return
				}
			}
		})
	}
	for range 2 { // what is under way can be lost twice within the budget
		was := sealed.Load()
		eventually(t, "progress", func() bool { return sealed.Load() > was+200 || t.Failed() })
		r.Restart(nil)
	}
	was := sealed.Load()
	eventually(t, "progress", func() bool { return sealed.Load() > was+200 || t.Failed() })
	stop()
	wg.Wait()
	keys := int64(0)
	for marker := ""; ; {
		out, err := client.Do(t.Context(), c, kmsapi.ListKeys, &kmsapi.ListKeysRequest{Limit: 1000, Marker: marker})
		check(t, err)
		keys += int64(len(out.Keys))
		if marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	if n := keys - 1; n < made.Load() || n > made.Load()+lost.Load() {
		t.Errorf("%d keys are there, %d calls succeeded and %d were lost", n, made.Load(), lost.Load())
	}
}
