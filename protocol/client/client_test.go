package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/client"
)

func create(ctx context.Context, c *client.Client) error {
	_, err := client.Do(ctx, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
	return err
}

// TestManyCallersShareOneConnection, each with its own answer.
func TestManyCallersShareOneConnection(t *testing.T) {
	t.Parallel()
	r := racktest.Start(t)
	c, key := r.NewClient(r.Config), r.CreateKey()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for n := range 10 {
				text := fmt.Sprintf("%d of caller %d", n, i)
				sealed, err := client.Do(t.Context(), c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret(text)})
				if err != nil {
					t.Error(err)
					return
				}
				opened, err := client.Do(t.Context(), c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: sealed.CiphertextBlob})
				if err != nil || string(opened.Plaintext) != text {
					t.Errorf("got %d bytes, %v, want %q", len(opened.Plaintext), err, text)
				}
			}
		})
	}
	wg.Wait()
	status, err := client.Do(t.Context(), r.Operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
	check(t, err)
	if status.Connections != 3 { // this one, that of CreateKey and the operator's
		t.Errorf("%d connections are open, want 3", status.Connections)
	}
}

// TestOnlyIdempotentCallsAreRepeated where the connection was lost.
func TestOnlyIdempotentCallsAreRepeated(t *testing.T) {
	t.Parallel()
	a := newAppliance(t, 16, func(c *peer) { c.request() }) // and leaves without an answer
	c := a.client(func(cfg *client.Config) { cfg.Retries = 2 })
	if err := create(t.Context(), c); !errors.Is(err, client.ErrLost) || a.connections() != 1 {
		t.Errorf("got %v after %d tries, want a lost call after 1", err, a.connections())
	}
	if _, err := ask(t, c); !errors.Is(err, client.ErrLost) || a.connections() != 4 {
		t.Errorf("got %v after %d tries, want a lost call after 3", err, a.connections()-1)
	}
	never := a.client(func(cfg *client.Config) { cfg.Retries = -1 })
	if _, err := ask(t, never); !errors.Is(err, client.ErrLost) || a.connections() != 5 {
		t.Errorf("got %v after %d tries, want a lost call after 1", err, a.connections()-4)
	}
}

// TestThrottledCallsWait as long as the appliance says, and are made again,
// whatever they do: they were not carried out.
func TestThrottledCallsWait(t *testing.T) {
	t.Parallel()
	const pause = 60 * time.Millisecond
	for name, call := range map[string]func(c *client.Client) error{
		"idempotent": func(c *client.Client) error { _, err := ask(t, c); return err },
		"not":        func(c *client.Client) error { return create(t.Context(), c) },
	} {
		n := 0
		a := newAppliance(t, 16, func(c *peer) {
			for {
				r, ok := c.request()
				switch n++; {
				case !ok:
					return
				case n <= 2:
					c.refuse(r.ID, &api.Error{Kind: api.KindThrottling, RetryAfter: pause})
				case name == "not":
					c.Write(protocol.Native{}.AppendReply(nil, kmsapi.CreateKey.Op, r.ID, &kmsapi.CreateKeyResponse{}, nil))
				default:
					c.answer(r.ID, "rose")
				}
			}
		})
		c := a.client()
		begun := time.Now()
		if err := call(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took < 2*pause {
			t.Errorf("%s: two pauses of %v took %v", name, pause, took)
		}
	}
}

// TestWhatIsNotRepeated: errors that would be the same again, and those after
// which a call that changes something may have been carried out.
func TestWhatIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, kind := range api.Kinds() {
		for _, idempotent := range []bool{true, false} {
			tries := 0
			a := newAppliance(t, 16, func(c *peer) {
				for r, ok := c.request(); ok; r, ok = c.request() {
					tries++
					c.refuse(r.ID, &api.Error{Kind: kind, Message: "no"})
				}
			})
			c := a.client(func(cfg *client.Config) { cfg.Retries = 1 })
			var err error
			if idempotent {
				_, err = ask(t, c)
			} else {
				err = create(t.Context(), c)
			}
			c.Close()
			want := 1
			if kind == api.KindThrottling || idempotent && kind.Retryable() {
				want = 2
			}
			if api.KindOf(err) != kind || tries != want {
				t.Errorf("%v, idempotent=%t: got %v after %d tries, want %d", kind, idempotent, err, tries, want)
			}
		}
	}
}

// TestPatienceEnds: a call ends with its context, whatever it waits for, and
// costs nobody else anything.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	release, got := make(chan struct{}), make(chan struct{}, 1)
	a := newAppliance(t, 1, func(c *peer) {
		r, _ := c.request()
		got <- struct{}{}
		<-release
		c.answer(r.ID, "too late")
		answers(c)
	})
	c := a.client()
	done := make(chan error)
	ask := func(ctx context.Context) {
		_, err := client.Do(ctx, c, checkpoint, &applianceapi.GetAuditCheckpointRequest{})
		done <- err
	}
	leaving, leave := context.WithCancel(t.Context())
	go ask(leaving)
	await(t, got)
	leave()
	if err := await(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for an answer: %v", err)
	}
	short, end := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer end()
	go ask(short)
	if err := await(t, done); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a place in the window: %v", err)
	}
	if all, waiting := client.UnderWay(c); all != 1 || waiting != 0 {
		t.Errorf("%d requests are under way and %d awaited, want 1 and 0", all, waiting)
	}
	canceled, cancel := context.WithCancel(t.Context())
	go ask(canceled)
	cancel()
	if err := await(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	close(release)
	asked(t, c)
	if all, _ := client.UnderWay(c); all != 0 || a.connections() != 1 {
		t.Errorf("%d requests are under way, %d connections", all, a.connections())
	}
}

// TestAnImpatientCallerDoesNotKeepOthersFromConnecting, nor himself for the next time.
func TestAnImpatientCallerDoesNotKeepOthersFromConnecting(t *testing.T) {
	t.Parallel()
	greet := make(chan struct{})
	a := newAppliance(t, 0, func(c *peer) {
		<-greet
		c.Write(protocol.AppendHello(nil, &protocol.Hello{ApplianceId: strings.Repeat("0", 36), Version: "test", Window: 4}))
		answers(c)
	})
	c := a.client()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := create(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	close(greet)
	asked(t, c)
	if n := a.connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// TestConnectingTakesOnlySoLong: an appliance that never greets.
func TestConnectingTakesOnlySoLong(t *testing.T) {
	t.Parallel()
	a := newAppliance(t, 0, func(c *peer) { c.request() })
	c := a.client(func(cfg *client.Config) { cfg.DialTimeout, cfg.Retries = 300*time.Millisecond, 1 })
	if _, err := ask(t, c); !errors.Is(err, context.DeadlineExceeded) || t.Context().Err() != nil {
		t.Errorf("got %v", err)
	}
	eventually(t, "a second connection", func() bool { return a.connections() == 2 })
}

// TestTheWindowIsKept: a client does not send more than the appliance wants to
// have, so it cannot be made to keep more.
func TestTheWindowIsKept(t *testing.T) {
	t.Parallel()
	release, got := make(chan struct{}), make(chan api.RequestID, 1000)
	a := newAppliance(t, 4, func(c *peer) {
		for r, ok := c.request(); ok; r, ok = c.request() {
			got <- r.ID
			go func() {
				<-release
				c.answer(r.ID, "rose")
			}()
		}
	})
	c := a.client()
	answered := make(chan error, 1000)
	var chain func(client.Reply)
	more := 20
	chain = func(r client.Reply) { // each answer sends the next, on the connection's goroutine
		if more--; more >= 4 {
			if err := c.Start(t.Context(), checkpoint.Op, &applianceapi.GetAuditCheckpointRequest{}, chain); err != nil {
				t.Error(err)
			}
		}
		answered <- r.Err()
	}
	for range 4 {
		check(t, c.Start(t.Context(), checkpoint.Op, &applianceapi.GetAuditCheckpointRequest{}, chain))
	}
	if err := c.Start(t.Context(), checkpoint.Op, &applianceapi.GetAuditCheckpointRequest{}, chain); !errors.Is(err, client.ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	for range 4 {
		await(t, got)
	}
	select {
	case id := <-got:
		t.Errorf("request %d was sent in spite of the window", id)
	default:
	}
	close(release)
	for range 20 {
		if err := await(t, answered); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for range 100 { // calls wait for their place
		wg.Go(func() { asked(t, c) })
	}
	wg.Wait()
	if h := c.Hello(); h.Window != 4 || h.Checkpoint != "a checkpoint" {
		t.Errorf("kept hello %+v", h)
	}
}

// TestCloseEndsWhatIsUnderWay: calls, and connections that are being made.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	got := make(chan struct{}, 10)
	a := newAppliance(t, 16, func(c *peer) {
		for _, ok := c.request(); ok; _, ok = c.request() {
			got <- struct{}{}
		}
	})
	c := a.client()
	done := make(chan error, 2)
	go func() { _, err := ask(t, c); done <- err }()
	go func() { done <- create(t.Context(), c) }()
	await(t, got)
	await(t, got)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close returns %v", err)
		}
	}
	for range 2 {
		if err := await(t, done); !errors.Is(err, client.ErrLost) || !errors.Is(err, client.ErrClosed) {
			t.Errorf("a call under way ends with %v", err)
		}
	}
	if _, err := ask(t, c); !errors.Is(err, client.ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
	if err := c.Start(t.Context(), checkpoint.Op, &applianceapi.GetAuditCheckpointRequest{}, func(client.Reply) {}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("a request after Close: %v", err)
	}

	silent := newAppliance(t, 0, func(c *peer) { c.request() })
	c = silent.client(func(cfg *client.Config) { cfg.DialTimeout = time.Hour })
	go func() { _, err := ask(t, c); done <- err }()
	eventually(t, "a connection", func() bool { return silent.connections() == 1 })
	c.Close()
	if err := await(t, done); !errors.Is(err, client.ErrClosed) {
		t.Errorf("a call that waits for its connection ends with %v", err)
	}
}

// TestTheConnectionsOwnError ends all calls with what the appliance said.
func TestTheConnectionsOwnError(t *testing.T) {
	t.Parallel()
	for kind, tries := range map[api.Kind]int{api.KindSerialization: 1, api.KindUnrecognizedClient: 1, api.KindRequestTimeout: 2, api.KindThrottling: 2} {
		a := newAppliance(t, 16, func(c *peer) {
			if c.number > 0 {
				c.request()
				return
			}
			for range 3 {
				c.request()
			}
			c.refuse(0, &api.Error{Kind: kind, Message: "go away"})
		})
		c := a.client(func(cfg *client.Config) { cfg.Retries = 1 })
		done := make(chan error, 3)
		for range 2 {
			go func() { done <- create(t.Context(), c) }()
		}
		go func() {
			check(t, c.Start(t.Context(), checkpoint.Op, &applianceapi.GetAuditCheckpointRequest{}, func(r client.Reply) { done <- r.Err() }))
		}()
		for range 3 {
			err := await(t, done)
			if !errors.Is(err, client.ErrLost) || api.KindOf(err) != kind || !strings.Contains(err.Error(), "go away") {
				t.Errorf("%v: a call ends with %v", kind, err)
			}
		}
		if n := a.connections(); n != 1 {
			t.Errorf("%v: %d connections were made, want 1", kind, n)
		}

		a = newAppliance(t, 16, func(c *peer) {
			c.request()
			c.refuse(0, &api.Error{Kind: kind, Message: "go away"})
		})
		c = a.client(func(cfg *client.Config) { cfg.Retries = 1 })
		if _, err := ask(t, c); !errors.Is(err, client.ErrLost) || a.connections() != tries {
			t.Errorf("%v: an idempotent call ends with %v after %d tries, want %d", kind, err, a.connections(), tries)
		}
	}
}

// TestInPlaceOfTheHello: an appliance that does not know us is asked once, one
// that has too many connections again.
func TestInPlaceOfTheHello(t *testing.T) {
	t.Parallel()
	for kind, tries := range map[api.Kind]int{api.KindUnrecognizedClient: 1, api.KindThrottling: 3} {
		a := newAppliance(t, 0, func(c *peer) { c.refuse(0, &api.Error{Kind: kind, Message: "go away"}) })
		c := a.client(func(cfg *client.Config) { cfg.Retries = 2 })
		if err := create(t.Context(), c); api.KindOf(err) != kind || a.connections() != tries {
			t.Errorf("got %v after %d tries, want %v after %d", err, a.connections(), kind, tries)
		}
		if c.Hello() != nil {
			t.Errorf("%v counts as a hello", kind)
		}
	}
}

// TestNonsenseFromTheAppliance ends the connection, not the client.
func TestNonsenseFromTheAppliance(t *testing.T) {
	t.Parallel()
	for name, nonsense := range map[string][]byte{
		"no frame":     {0xff, 0xff, 0xff, 0xff},
		"a long frame": {0, 0x10, 0, 1},
		"no reply":     {0, 0, 0, 1, 0x80},
		"empty frame":  {0, 0, 0, 0},
		"a hello":      protocol.AppendHello(nil, &protocol.Hello{ApplianceId: strings.Repeat("0", 36), Version: "x", Window: 1}),
		"half a frame": {0, 0, 0, 9, 0x83},
	} {
		for _, first := range []bool{true, false} {
			a := newAppliance(t, 16, func(c *peer) {
				if c.number == 0 {
					if !first {
						c.request()
					}
					c.Write(nonsense)
					if name == "half a frame" {
						return
					}
				}
				answers(c)
			})
			asked(t, a.client())
			if n := a.connections(); n != 2 && !(first && n == 1) {
				t.Errorf("%s, first=%t: %d connections", name, first, n)
			}
		}
	}
	a := newAppliance(t, 16, func(c *peer) { // answers that nobody asked for are passed over
		r, _ := c.request()
		c.answer(r.ID+1, "lily")
		c.answer(r.ID, "rose")
		c.answer(r.ID, "iris")
		answers(c)
	})
	c := a.client()
	asked(t, c)
	asked(t, c)
	if n := a.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestRequestsOfTheLargestSize are sent; a larger one is refused at once and does
// not cost the others their connection.
func TestRequestsOfTheLargestSize(t *testing.T) {
	t.Parallel()
	sizes := make(chan int, 10)
	a := newAppliance(t, 16, func(c *peer) {
		for r, ok := c.request(); ok; r, ok = c.request() {
			sizes <- len(r.Body)
			c.refuse(r.ID, api.Errorf(api.KindMalformedPolicyDocument, "no"))
		}
	})
	c := a.client()
	call := func(n int) error {
		_, err := client.Do(t.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Policy: strings.Repeat("x", n)})
		return err
	}
	for range 20 { // more often than the window is wide
		if err := call(1 << 20); api.KindOf(err) != api.KindRequestTooLarge {
			t.Fatalf("got %v", err)
		}
	}
	const largest = api.MaxRequestFrame - 13 // the envelope, the id, the number and the heads
	for n, want := range map[int]api.Kind{largest: api.KindMalformedPolicyDocument, largest + 1: api.KindRequestTooLarge} {
		if err := call(n); api.KindOf(err) != want {
			t.Errorf("%d bytes: got %v, want %v", n, err, want)
		}
	}
	if n := await(t, sizes); n < largest || len(sizes) > 0 || a.connections() != 1 {
		t.Errorf("got %d bytes, %d further requests, %d connections", n, len(sizes), a.connections())
	}
	if all, _ := client.UnderWay(c); all != 0 {
		t.Errorf("%d requests are under way", all)
	}
}
