package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/access/identity"
	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/protocol"
	"github.com/keyrack/keyrack/protocol/server"
)

// TestStopAnswersWhatWasRead: whatever the server had read when it was stopped is
// answered and recorded, then the stream ends, and Close returns.
func TestStopAnswersWhatWasRead(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes)
	c, idle, silent := b.open(), b.open(), b.connect()
	var all [][]byte
	for id := range api.RequestID(50) { // one TLS record
		all = append(all, c.encrypt(id+2, "x"))
	}
	c.send(append([][]byte{echoes(1, "rose")}, all...)...)
	await(t, s.inside)
	closed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { closed <- b.srv.Close(ctx) }()
	ended(silent)
	if _, err := idle.next(); err != io.EOF {
		t.Errorf("an idle connection ends with %v", err)
	}
	idle.Close()
	select {
	case err := <-closed:
		t.Errorf("Close returns %v while a request is at work", err)
	default:
	}
	close(s.release)
	kinds, _ := c.answers(51)
	for id, kind := range kinds {
		if kind != api.KindNone {
			t.Errorf("%d was answered %v", id, kind)
		}
	}
	if _, err := c.next(); err != io.EOF {
		t.Errorf("after the answers: %v", err)
	}
	c.Close()
	if err := await(t, closed); err != nil {
		t.Errorf("Close returns %v", err)
	}
	if records := b.records(); len(records) != 51 {
		t.Errorf("got %d records, want 51", len(records))
	}
	nc, err := net.Dial("tcp", b.addr) // the listener is the test's own
	check(t, err)
	ended(nc)
	if n := b.srv.Connections(); n != 0 {
		t.Errorf("%d connections after Close", n)
	}
}

// TestStopAnswersWhatWaitsForTheWindow: also what was read and not begun yet.
func TestStopAnswersWhatWaitsForTheWindow(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes, func(set *setup) { set.limits.Window = 2 })
	c := b.open()
	var all [][]byte
	for id := range api.RequestID(20) {
		all = append(all, echoes(id+1, "x"))
	}
	c.send(all...)
	await(t, s.inside)
	stopped := make(chan struct{})
	go func() { b.stop(); close(stopped) }()
	nc := b.connect() // nobody is served any more once this one is turned away
	ended(nc)
	close(s.release)
	if kinds, _ := c.answers(20); kinds[20] != api.KindNone {
		t.Errorf("got %v", kinds)
	}
	if _, err := c.next(); err != io.EOF {
		t.Errorf("after the answers: %v", err)
	}
	c.Close()
	await(t, stopped)
}

// TestStopUnderLoad: of every request the client knows afterwards whether it was
// answered; each answered one has its record.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	b := start(t)
	c := b.open()
	go func() {
		for id := api.RequestID(1); ; id++ {
			if _, err := c.Write(c.encrypt(id, "x")); err != nil {
				return
			}
		}
	}()
	for range 100 {
		c.reply()
	}
	go b.stop()
	answered := 100
	for {
		frame, err := c.next()
		if err != nil {
			if err != io.EOF {
				t.Errorf("the stream ends with %v", err)
			}
			break
		}
		r, err := protocol.ParseReply(frame)
		if answered++; err != nil || r.ID != api.RequestID(answered) || r.Kind != api.KindNone {
			t.Errorf("reply %d: %d, %v", answered, r.ID, r.Err())
		}
	}
	c.Close()
	b.stop()
	if n := len(b.records()); n != answered {
		t.Errorf("%d requests were answered, %d recorded", answered, n)
	}
}

// TestStopEndsHandshakes: also one that is about to begin.
func TestStopEndsHandshakes(t *testing.T) {
	t.Parallel()
	b := start(t, func(s *setup) { s.limits.HandshakeTimeout = time.Hour }) // which a stop that waits for it does not wait out
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	late := &lateListener{l, make(chan struct{}), make(chan struct{})}
	go b.srv.Serve(t.Context(), late, b.srv.TLS(b.Certificate("late")))
	nc, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	defer nc.Close()
	await(t, late.begun)
	socket := b.listen("unix", filepath.Join(t.TempDir(), "s"), server.Local(&identity.Principal{ARN: "operator", Type: identity.Operator}))
	closed := make(chan struct{})
	go func() { b.stop(); close(closed) }()
	eventually(t, "the end of accepting", func() bool {
		nc, err := net.Dial("unix", socket) // which waits for nobody's handshake
		check(t, err)
		defer nc.Close()
		return ended(nc) == nil && b.srv.Connections() <= 1
	})
	close(late.goOn)
	await(t, closed)
}

// lateListener makes connections whose handshake waits before it begins.
type lateListener struct {
	net.Listener
	begun, goOn chan struct{}
}

func (l *lateListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return &lateConn{nc, l, false}, err
}

type lateConn struct {
	net.Conn
	of     *lateListener
	waited bool
}

func (c *lateConn) SetDeadline(t time.Time) error {
	if !c.waited {
		c.waited = true
		close(c.of.begun)
		<-c.of.goOn
	}
	return c.Conn.SetDeadline(t)
}

// TestStopCutsWhenTimeIsOver: a worker that hangs does not hold up the end.
func TestStopCutsWhenTimeIsOver(t *testing.T) {
	t.Parallel()
	s := newSlow()
	b := start(t, s.routes)
	c := b.open()
	c.send(echoes(1, "rose"))
	await(t, s.inside)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan error, 1)
	go func() { closed <- b.srv.Close(ctx) }()
	if _, err := c.next(); err == nil {
		t.Error("a connection that was cut is answered")
	}
	close(s.release)
	if err := await(t, closed); err != context.Canceled {
		t.Errorf("Close returns %v", err)
	}
}

// TestStopDoesNotWaitForTheDisk: replies whose records cannot reach the disk do
// not hold up the end, and do not leave either. Nor does a reader that writes
// the records itself, because its peer sends one request at a time.
func TestStopDoesNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	for name, requests := range map[string]int{"one at a time": 1, "many": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlow()
			b := start(t, s.routes)
			t.Cleanup(b.Disk.Release)
			c := b.open()
			for range 10 { // soon answered by the reader itself
				c.send(c.encrypt(1, "x"))
				c.reply()
			}
			b.Disk.Hold()
			var all [][]byte
			for id := range requests {
				all = append(all, protocol.AppendRequest(nil, api.RequestID(id+1), talk.Op, &said{}))
			}
			c.send(all...)
			for range requests { // is read, and being served
				await(t, s.kept)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			closed := make(chan error, 1)
			go func() { closed <- b.srv.Close(ctx) }()
			if err := await(t, closed); err != context.DeadlineExceeded {
				t.Errorf("Close returns %v", err)
			}
			if frame, err := c.next(); err == nil {
				t.Errorf("%d bytes left without their record", len(frame))
			}
		})
	}
}

// TestNothingIsLeftRunning is alone, not parallel: it looks at all goroutines.
func TestNothingIsLeftRunning(t *testing.T) {
	s := newSlow()
	close(s.release)
	b := start(t, s.routes)
	const ours = "protocol/server.(*conn).run"
	eventually(t, "a rest of the appliance's own", func() bool { return running("(*outbox).write") == 0 })
	before := running(ours) + running("protocol/server.(*outbox)") // of the appliance's own server
	conns := []net.Conn{b.connect()}
	for i := range 8 {
		c := b.open()
		c.send(echoes(1, "rose"), c.encrypt(2, "lily"))
		c.answers(2)
		switch i % 4 {
		case 0:
			c.Close()
		case 1:
			c.send(frameOf(0x80))
			c.dismissed(api.KindSerialization)
		case 2:
			c.Conn.(interface{ NetConn() net.Conn }).NetConn().Close()
		}
		conns = append(conns, c)
	}
	for _, nc := range conns {
		defer nc.Close()
	}
	done := make(chan struct{})
	go func() { b.stop(); close(done) }()
	for _, nc := range conns {
		ended(nc)
		nc.Close()
	}
	await(t, done)
	eventually(t, "the end of all its goroutines", func() bool {
		return running(ours)+running("protocol/server.(*outbox)") <= before
	})
}

// running returns how many goroutines have a function on their stack.
func running(name string) (n int) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(g, name) {
			n++
		}
	}
	return n
}

// unix serves a Unix socket that everybody may connect to, and returns its path.
func (b *bed) unix() string {
	b.tb.Helper()
	dir, err := os.MkdirTemp("", "keyrack") // a Unix socket's path is short
	check(b.tb, err)
	b.tb.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	b.listen("unix", path, server.Local(&identity.Principal{ARN: "arn:aws:keyrack:rack-1::operator", Type: identity.Operator}))
	check(b.tb, os.Chmod(dir, 0o755))
	check(b.tb, os.Chmod(path, 0o777))
	return path
}

// TestTheOperatorsSocket: the kernel says that we are the operator; the appliance's
// operations are ours, and no key is.
func TestTheOperatorsSocket(t *testing.T) {
	t.Parallel()
	b := start(t)
	nc, err := net.Dial("unix", b.unix())
	check(t, err)
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	c := &raw{Conn: nc, b: b}
	c.hello()
	c.send(protocol.AppendRequest(nil, 1, applianceapi.GetStatus.Op, &applianceapi.GetStatusRequest{}))
	if r := c.reply(); r.ID != 1 || r.Kind != api.KindNone {
		t.Errorf("GetStatus is answered %v", r.Err())
	}
	source := fmt.Sprintf("unix pid %d uid %d", os.Getpid(), os.Getuid())
	if rec := b.recorded(applianceapi.GetStatus.Number, api.KindNone); rec.Source != source || rec.Principal != "arn:aws:keyrack:rack-1::operator" || rec.Account != "" {
		t.Errorf("recorded %+v", rec)
	}
	c.send(c.encrypt(2, "rose"))
	if r := c.reply(); r.ID != 2 || r.Kind != api.KindAccessDenied {
		t.Errorf("Encrypt is answered %v", r.Err())
	}
	b.recorded(kmsapi.Encrypt.Number, api.KindAccessDenied)
	c.send(protocol.AppendRequest(nil, 3, kmsapi.CreateKey.Op, &kmsapi.CreateKeyRequest{}))
	if r := c.reply(); r.ID != 3 || r.Kind != api.KindAccessDenied {
		t.Errorf("CreateKey is answered %v", r.Err())
	}
	b.recorded(kmsapi.CreateKey.Number, api.KindAccessDenied)
	c.send(frameOf(0x80))
	c.dismissed(api.KindSerialization)
}

// TestMain lets the test binary stand in for a client of another user.
func TestMain(m *testing.M) {
	if path := os.Getenv("KEYRACK_TEST_SOCKET"); path != "" {
		nc, err := net.Dial("unix", path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, nc)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestOtherUsersAreNobody: whoever is neither root nor the user of the service.
// Only root can become somebody else; under any other user the test is about
// that user alone.
func TestOtherUsersAreNobody(t *testing.T) {
	t.Parallel()
	b := start(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{"KEYRACK_TEST_SOCKET=" + b.unix()}
	cmd.Dir = "/"
	want, source := api.KindNone, fmt.Sprintf("uid %d", os.Getuid())
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Path = copyOfTest(t)
		want, source = api.KindUnrecognizedClient, "uid 65534"
	}
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	c := &raw{Conn: pipe{Reader: out}, b: b}
	if want == api.KindNone {
		c.hello()
		check(t, cmd.Process.Kill())
		cmd.Wait()
		return
	}
	if e := c.dismissed(want); !strings.Contains(e.Message, "nobody else") {
		t.Errorf("told %q", e.Message)
	}
	check(t, cmd.Wait())
	if rec := b.recorded(0, want); !strings.HasSuffix(rec.Source, source) || rec.Principal != "" || rec.Credential != [32]byte{} {
		t.Errorf("recorded %+v", rec)
	}
}

// copyOfTest returns a copy of the test binary that every user may run.
func copyOfTest(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyrack")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile(os.Args[0])
	check(t, err)
	path := filepath.Join(dir, "client")
	check(t, os.WriteFile(path, binary, 0o755))
	return path
}

// pipe is a connection that can only be read.
type pipe struct {
	net.Conn
	io.Reader
}

func (p pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }
func (p pipe) Close() error               { return nil }
