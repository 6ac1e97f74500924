package main_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/internal/tlog"
	"github.com/keyrack/keyrack/protocol/client"
)

// served is a running keyrack serve; the lines of its session are its log.
type served struct {
	*session
	dir    string
	worker int    // process id
	addr   string // of the native protocol, "" while locked
	key    string // the server's
}

// provision makes an appliance in a new folder.
func provision(t *testing.T) (dir string) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "keyrack") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	dir = filepath.Join(tmp, "rack")
	if status, _, stderr := keyrack.Run(nil, "init", "--dir", dir); status != 0 {
		t.Fatal(stderr)
	}
	return dir
}

// serve starts keyrack serve on a folder, and waits until it is ready.
func serve(t *testing.T, dir string, args ...string) *served {
	t.Helper()
	s := follow(t, exec.Command("keyrack", append([]string{"serve", "--dir", dir, "--listen", racktest.Loopback()}, args...)...))
	s.dir = dir
	return s
}

// follow starts a server and reads its log until it is ready. It is gone when the
// test is.
func follow(t *testing.T, cmd *exec.Cmd) *served {
	t.Helper()
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &served{session: &session{cmd, t, bufio.NewScanner(log)}}
	t.Cleanup(func() {
		cmd.Process.Kill() // its worker goes with it, and with the worker the log's other end
		io.Copy(io.Discard, log)
		cmd.Wait()
	})
	s.ready()
	return s
}

// ready reads the log until a new worker is ready.
func (s *served) ready() {
	s.t.Helper()
	begins := regexp.MustCompile(`msg="a worker begins" pid=([0-9]+) `).FindStringSubmatch(s.until("msg=\"a worker begins\""))
	pid, err := strconv.Atoi(begins[1])
	if err != nil {
		s.t.Fatal(err)
	}
	s.worker = pid
	s.serving()
}

// serving reads the log until the worker says that it is ready.
func (s *served) serving() {
	s.t.Helper()
	m := regexp.MustCompile(`msg=ready state=\w+ address=(\S+) socket=\S+ serverKey=(\S+)`).FindStringSubmatch(s.until("msg=ready"))
	if m == nil {
		s.t.Fatal("the line that says ready does not say how")
	}
	s.addr, s.key = m[1], m[2]
	if s.addr == `""` {
		s.addr = ""
	}
}

// killWorker ends the worker without a warning.
func (s *served) killWorker() {
	s.t.Helper()
	if err := syscall.Kill(s.worker, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

// client returns a client that is closed with the test.
func (s *served) client(cfg client.Config) *client.Client {
	s.t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// operator returns a client of the Unix socket.
func (s *served) operator() *client.Client {
	return s.client(client.Config{Socket: filepath.Join(s.dir, "keyrack.sock")})
}

// tenant registers the root of an account, and returns its certificate.
func (s *served) tenant() tls.Certificate {
	s.t.Helper()
	hash, cert, key, err := rack.NewClient(s.t.TempDir(), "root")
	if err != nil {
		s.t.Fatal(err)
	}
	must(s.t, s.operator(), applianceapi.AddPrincipal, &applianceapi.AddPrincipalRequest{Name: "root", Account: "111122223333", KeyHash: hash.String()})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pair
}

// as returns a client that is a tenant.
func (s *served) as(cert tls.Certificate) *client.Client {
	s.t.Helper()
	return s.client(client.Config{Addr: s.addr, ServerKey: s.key, Certificate: cert})
}

// must makes a call that succeeds.
func must[In, Out any](t *testing.T, c *client.Client, op api.OpOf[In, Out], in *In) *Out {
	t.Helper()
	out, err := client.Do(t.Context(), c, op, in)
	if err != nil {
		t.Fatalf("%s: %v", op.Op, err)
	}
	return out
}

// eventually makes a call until it succeeds, within a minute.
func eventually[In, Out any](t *testing.T, c *client.Client, op api.OpOf[In, Out], in *In) *Out {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		out, err := client.Do(ctx, c, op, in)
		if err == nil {
			return out
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", op.Op, err)
		}
	}
}

// TestWorkerKilled kills the worker under a client, which stays: the next worker is
// there without anybody's doing, on the same port, with the same keys. How soon the
// supervisor starts it is in its own tests.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	s := serve(t, provision(t))
	c := s.as(s.tenant())
	key := must(t, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{}).KeyMetadata.KeyId
	sealed := must(t, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret("kept")})
	addr := s.addr
	begin := time.Now()
	s.killWorker()
	out := eventually(t, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: sealed.CiphertextBlob})
	t.Logf("answered again after %v", time.Since(begin))
	s.ready()
	if s.addr != addr {
		t.Errorf("answered again on %s, which was %s", s.addr, addr)
	}
	if string(out.Plaintext) != "kept" {
		t.Errorf("decrypted %d bytes", len(out.Plaintext))
	}
}

// TestLockedLife follows an appliance through locks, kills and unlocks.
func TestLockedLife(t *testing.T) {
	t.Parallel()
	s := serve(t, provision(t))
	c, operator, addr := s.as(s.tenant()), s.operator(), s.addr
	key := api.ParseKeyRef([]byte(must(t, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{}).KeyMetadata.KeyId))
	encrypt := &kmsapi.EncryptRequest{KeyId: key, Plaintext: api.Secret("x")}

	must(t, operator, applianceapi.Lock, &applianceapi.LockRequest{})
	s.ready()
	s.locked(operator, addr)
	s.killWorker() // locked it was, locked it stays
	s.ready()
	s.locked(operator, addr)

	if state := must(t, operator, applianceapi.Unlock, &applianceapi.UnlockRequest{}).State; state != applianceapi.Unlocked {
		t.Errorf("unlocked, it is %v", state)
	}
	s.serving()
	if s.addr != addr {
		t.Errorf("unlocked, it listens on %s, before on %s", s.addr, addr)
	}
	eventually(t, c, kmsapi.Encrypt, encrypt)
	s.killWorker() // unlocked by its operator, so the next one is
	s.ready()
	eventually(t, c, kmsapi.Encrypt, encrypt)
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// locked checks what a locked appliance does: it answers its operator, and nobody
// else.
func (s *served) locked(operator *client.Client, addr string) {
	s.t.Helper()
	if s.addr != "" {
		s.t.Errorf("locked, it says that it listens on %s", s.addr)
	}
	if state := eventually(s.t, operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{}).State; state != applianceapi.Locked {
		s.t.Errorf("locked, it says that it is %v", state)
	}
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		s.t.Errorf("locked, it accepts connections on %s", addr)
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		s.t.Error(err)
	}
}

// TestStartLocked serves nobody until it is unlocked, and finds its port then.
func TestStartLocked(t *testing.T) {
	t.Parallel()
	s := serve(t, provision(t), "--locked")
	operator := s.operator()
	if state := must(t, operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{}).State; state != applianceapi.Locked {
		t.Errorf("it is %v", state)
	}
	must(t, operator, applianceapi.Unlock, &applianceapi.UnlockRequest{})
	s.serving()
	must(t, s.as(s.tenant()), kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
}

// TestSupervisorKilled leaves no worker behind: the log's last writer is gone, and the folder is free.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	s := serve(t, provision(t))
	if err := s.end(syscall.SIGKILL); err == nil {
		t.Error("ended as if nothing had happened")
	}
	again := serve(t, s.dir)
	if err := again.end(syscall.SIGINT); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestStopUnderLoad stops an appliance that is at work: what was acknowledged is
// there after the next start, and the audit log proves itself.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	s := serve(t, provision(t))
	cert := s.tenant()
	auditKey := must(t, s.operator(), applianceapi.GetAuditCheckpoint, &applianceapi.GetAuditCheckpointRequest{}).Key
	work := load(t, s.as(cert))
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
	verifier, err := tlog.ParseVerifier(auditKey)
	if err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(audit.Dir(filepath.Join(s.dir, "audit")), audit.VerifyOptions{Keys: []tlog.Verifier{verifier}})
	if err != nil || report.Covered != report.Size || report.Unfinished {
		t.Errorf("the log after a stop in order: %+v, %v", report, err)
	}
	again := serve(t, s.dir)
	root := again.as(cert)
	for _, key := range work.wait() {
		must(t, root, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: api.ParseKeyRef([]byte(key)), Plaintext: api.Secret("x")})
	}
}

// workload makes keys until the appliance is gone.
type workload struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	keys []string // guarded by mu; that were acknowledged
}

// load starts some, and returns when they are at it.
func load(t *testing.T, c *client.Client) *workload {
	w := new(workload)
	warm := make(chan struct{}, 1)
	for range 16 {
		w.wg.Go(func() {
			for {
				out, err := client.Do(t.Context(), c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{})
				if err != nil {
					return
				}
				if w.add(out.KeyMetadata.KeyId) == 50 {
					warm <- struct{}{}
				}
			}
		})
	}
	<-warm
	return w
}

// add keeps a key, and returns how many there are.
func (w *workload) add(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = append(w.keys, key)
	return len(w.keys)
}

// wait returns the acknowledged keys when nobody makes any more.
func (w *workload) wait() []string {
	w.wg.Wait()
	return w.keys
}
