package main_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/table"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// raceOptions keep the race detector from a second's sleep at the end of each
// of the many processes.
const raceOptions = "atexit_sleep_ms=0"

// smallSegments is the size of the audit logs' files of the appliances in processes of their own, a size that nothing
// else has: of the default's, each appliance would write 192 MiB before it is ready.
const (
	smallSegments = "KEYRACK_AUDIT_SEGMENT=1020KiB"
	smallSegment  = 1020 << 10
)

// ownEnv is what every process of these tests has in its environment.
var ownEnv = []string{"GORACE=" + raceOptions, smallSegments}

// TestMain lets the test binary be keyrack when it is called so.
func TestMain(m *testing.M) {
	for _, v := range ownEnv {
		name, value, _ := strings.Cut(v, "=")
		if _, given := os.LookupEnv(name); !given { // a script may have taken it away
			os.Setenv(name, value)
		}
	}
	testscript.Main(m, map[string]func(){"keyrack": keyrack.Main})
}

// TestScripts runs what a user could type. The scripts of a folder share an
// appliance; copying an audit log wants one that rests, as does looking for records.
func TestScripts(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"testdata", "testdata/audit", "testdata/search"} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			runScripts(t, dir)
		})
	}
}

func runScripts(t *testing.T, dir string) {
	t.Helper()
	r := racktest.Start(t)
	nobody(t, r)
	expired(t, r)
	dead := deadAddress(t)
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"flip": flip, "ready": ready},
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, environment(r)...)
			e.Vars = append(e.Vars, ownEnv...)
			e.Setenv("RACK", r.Dir)
			e.Setenv("DEAD_ADDR", dead)
			e.Setenv("RACK_ADDR", r.Addr())
			return nil
		},
	})
}

// environment is what a client of r needs.
func environment(r *racktest.Rack) []string {
	return []string{
		"KEYRACK_ADDR=" + r.Addr(), "KEYRACK_SERVER_KEY=" + r.ServerKey(), "KEYRACK_SOCKET=" + r.Socket(),
		"KEYRACK_CERT=" + r.Dir + "/root.pem", "KEYRACK_KEY=" + r.Dir + "/root.key",
		"KEYRACK_AUDIT_DIR=" + r.Dir + "/audit", "KEYRACK_AUDIT_KEY=" + r.AuditKey(),
	}
}

// flip changes one bit of a file: flip FILE OFFSET. A negative offset counts
// from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	if at < 0 {
		info, err := f.Stat()
		ts.Check(err)
		at += int(info.Size())
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], int64(at))
	ts.Check(err)
	_, err = f.WriteAt([]byte{b[0] ^ 1}, int64(at))
	ts.Check(err)
}

// ready waits until an appliance is in a state: ready DIR STATE.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	c, err := client.New(client.Config{Socket: filepath.Join(ts.MkAbs(args[0]), "keyrack.sock")})
	ts.Check(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		s, err := client.Do(ctx, c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err == nil && s.State.String() == args[1] {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("%s is not %s: %v", args[0], args[1], err)
		}
	}
}

// nobody makes nobody.pem and nobody.key, of a client that is not registered.
func nobody(t *testing.T, r *racktest.Rack) { r.Certificate("nobody") }

// expired makes expired.pem, a certificate of root's key that is over.
func expired(t *testing.T, r *racktest.Rack) {
	t.Helper()
	key := r.Config.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.Dir, "expired.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// deadAddress returns an address where nobody listens: no other test binds to
// this part of loopback.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.77.77.77:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestEveryOperationCanBeCalled asks for the help of every operation, which
// declares its flags: two of a name would panic.
func TestEveryOperationCanBeCalled(t *testing.T) {
	t.Parallel()
	for _, op := range table.All() {
		status, out, stderr := keyrack.Run(nil, "help", "call", op.Service.Name, op.Name)
		if status != 0 || stderr != "" {
			t.Errorf("help call %s %s: status %d, %s", op.Service.Name, op.Name, status, stderr)
		}
		for _, f := range op.In.Fields {
			if want := "  --" + f.Flag; !strings.Contains(out, want) {
				t.Errorf("help call %s %s does not list %s", op.Service.Name, op.Name, want)
			}
		}
	}
}

// TestEveryKindHasAHint holds the table of hints to the list of kinds.
func TestEveryKindHasAHint(t *testing.T) {
	t.Parallel()
	seen := map[string]api.Kind{}
	for _, k := range api.Kinds() {
		hint := keyrack.HintFor(k)
		if hint == "" || strings.ContainsAny(hint, "\n") {
			t.Errorf("kind %v has the hint %q, want one line", k, hint)
		}
		seen[hint] = k
	}
	if len(seen) < len(api.Kinds())-2 {
		t.Errorf("%d kinds share %d hints: they should say what to do about each", len(api.Kinds()), len(seen))
	}
}

// TestReasonsHaveTheirOwnHints where what to do depends on more than the kind.
func TestReasonsHaveTheirOwnHints(t *testing.T) {
	t.Parallel()
	for reason, words := range map[string]string{"locked": "keyrack unlock", "store": "make room", "store-damaged": "keyrack check", "another": "keyrack status"} {
		err := fmt.Errorf("create the key: %w", &api.Error{Kind: api.KindUnavailable, Reason: reason})
		if hint := keyrack.HintAfter(err); !strings.Contains(hint, words) {
			t.Errorf("%s: the hint is %q", reason, hint)
		}
	}
}

// asMap returns environment by name.
func asMap(r *racktest.Rack) map[string]string {
	env := map[string]string{}
	for _, v := range environment(r) {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}

// TestBenchDistinctSalts decrypts ciphertexts of many keys.
func TestBenchDistinctSalts(t *testing.T) {
	t.Parallel()
	if n, err := keyrack.BenchSalts(asMap(racktest.Start(t)), 20); n == 0 || err != nil {
		t.Errorf("%d operations, %v", n, err)
	}
}

// TestNoTLS meets a server that speaks something else.
func TestNoTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			c.Close()
		}
	}()
	env := asMap(racktest.Start(t))
	env[client.EnvAddr] = l.Addr().String()
	status, _, stderr := keyrack.Run(env, "key", "create")
	if status != 1 || !strings.Contains(stderr, "hint: KEYRACK_ADDR answers, but not with TLS") {
		t.Errorf("status %d, printed %q", status, stderr)
	}
}

// TestWrongServer pins another key than the server has.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	env := asMap(racktest.Start(t))
	env[client.EnvServerKey] = "sha256:" + strings.Repeat("00", 32)
	status, out, stderr := keyrack.Run(env, "key", "create")
	if status != 1 || out != "" || !strings.Contains(stderr, "hint: KEYRACK_SERVER_KEY must be") {
		t.Errorf("status %d, printed %q and %q", status, out, stderr)
	}
}
