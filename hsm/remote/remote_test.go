package remote_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
	"github.com/keyrack/keyrack/hsm/soft"
)

const (
	env      = "KEYRACK_REMOTE_TOKEN" // what the process that a test starts is to hold
	patience = time.Minute
)

// errOdd is an error that both sides know.
var errOdd = errors.New("an odd token")

func known() []error { return append(pkcs11.Errors(), errOdd) }

// TestMain lets the test binary be the process with the token.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if spec := os.Getenv(env); spec != "" {
		os.Exit(hold(spec))
	}
	os.Exit(m.Run())
}

// hold serves the token that spec names.
func hold(spec string) int {
	kind, arg, _ := strings.Cut(spec, ":")
	if kind == "raw" {
		return talk(arg)
	}
	open := map[string]hsm.Opener{
		"soft": func(context.Context) (hsm.Provider, error) { return soft.Open(arg) },
		"odd":  func(context.Context) (hsm.Provider, error) { return newOdd(arg) },
		"pkcs11": func(ctx context.Context) (hsm.Provider, error) {
			c, err := pkcs11.ParseConfig(arg)
			if err != nil {
				return nil, err
			}
			return pkcs11.Open(ctx, c)
		},
	}[kind]
	if err := remote.Serve(context.Background(), open, known()); err != nil {
		return 1
	}
	return 0
}

// config starts this binary with a token, and with more of an environment.
func config(spec string, more ...string) remote.Config {
	return remote.Config{Errors: known(), Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(append(os.Environ(), env+"="+spec), more...)
		return cmd
	}}
}

func opener(c remote.Config) hsm.Opener {
	return func(ctx context.Context) (hsm.Provider, error) {
		t, err := remote.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
}

func softSpec(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	p, err := soft.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return "soft:" + path
}

func open(t *testing.T, c remote.Config) *remote.Token {
	t.Helper()
	p, err := remote.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return p
}

func TestSoft(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener { return opener(config(softSpec(t))) })
}

// TestTheProcessIsKilled: what was under way fails, and everything else goes on in a new process, with the keys that were loaded.
func TestTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	for name, c := range tokens(t) {
		p := open(t, c)
		root, _, err := p.Generate(t.Context(), hsm.PRFSHA256)
		if err != nil {
			t.Fatal(err)
		}
		signer, _, err := p.Generate(t.Context(), hsm.SignP256)
		if err != nil {
			t.Fatal(err)
		}
		want, err := root.(hsm.PRF).PRF(t.Context(), nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := p.Process().Kill(); err != nil {
				t.Fatal(err)
			}
			got, err := again(t, func() ([]byte, error) { return root.(hsm.PRF).PRF(t.Context(), nil, []byte("x")) })
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x, %v; was %x", name, got, err, want)
			}
			if _, err := signer.(hsm.Signer).SignDigest(t.Context(), make([]byte, 32)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// again calls f until the death of the process has been noticed and paid for: by one call at most.
func again(t *testing.T, f func() ([]byte, error)) ([]byte, error) {
	t.Helper()
	out, err := f()
	if errors.Is(err, remote.ErrDied) {
		out, err = f()
	}
	return out, err
}

// odd is a soft token whose PRF does as its input says.
type odd struct {
	hsm.Provider
	dir   string
	waits atomic.Int32 // calls that have come to wait
}

func newOdd(dir string) (hsm.Provider, error) {
	if dir == "refuse" {
		return nil, fmt.Errorf("it is %w: %w", errOdd, hsm.ErrBlob)
	}
	p, err := soft.Memory()
	if err != nil {
		return nil, err
	}
	return &odd{Provider: p, dir: dir}, nil
}

// Describe is the same in each process.
func (o *odd) Describe() hsm.Description {
	d := o.Provider.Describe()
	d.Serial = "1"
	if _, err := os.Stat(filepath.Join(o.dir, "swapped")); err == nil {
		d.Serial = "2"
	}
	return d
}

func (o *odd) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	k, blob, err := o.Provider.Generate(ctx, spec)
	if err != nil || spec != hsm.PRFSHA256 {
		return k, blob, err
	}
	return oddKey{k, o}, blob, nil
}

type oddKey struct {
	hsm.Key
	o *odd
}

func (k oddKey) PRF(ctx context.Context, dst, input []byte) ([]byte, error) {
	mark := func(name string) { _ = os.WriteFile(filepath.Join(k.o.dir, name), nil, 0o600) }
	switch string(input) {
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		select {}
	case "wait":
		mark(fmt.Sprint("waiting", k.o.waits.Add(1)))
		<-ctx.Done()
		mark("cancelled")
		return nil, ctx.Err()
	case "hang":
		select {}
	case "fail":
		return nil, fmt.Errorf("it is %w", errOdd)
	}
	return k.Key.(hsm.PRF).PRF(ctx, dst, input)
}

// oddToken opens one with a key, and a folder where it leaves marks.
func oddToken(t *testing.T) (*remote.Token, hsm.PRF, string) {
	t.Helper()
	dir := t.TempDir()
	p := open(t, config("odd:"+dir))
	k, _, err := p.Generate(t.Context(), hsm.PRFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	return p, k.(hsm.PRF), dir
}

// seen waits for a mark.
func seen(t *testing.T, dir, name string) {
	t.Helper()
	end := time.Now().Add(patience)
	for now := range time.Tick(5 * time.Millisecond) {
		if now.After(end) {
			t.Fatalf("it is never %s", name)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return
		}
	}
}

// TestACrash costs the calls that are in flight, each with an error that says so, and no more.
func TestACrash(t *testing.T) {
	t.Parallel()
	p, k, dir := oddToken(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if out, err := k.PRF(t.Context(), nil, []byte("wait")); !errors.Is(err, remote.ErrDied) || out != nil {
				t.Errorf("in flight: %x, %v", out, err)
			}
		})
	}
	for n := range 5 { // one that came later would wait in the next process
		seen(t, dir, fmt.Sprint("waiting", n+1))
	}
	if _, err := k.PRF(t.Context(), nil, []byte("crash")); !errors.Is(err, remote.ErrDied) {
		t.Errorf("the call that crashes: %v", err)
	}
	wg.Wait()
	if err := p.Random(t.Context(), make([]byte, 10)); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestCancelReachesTheOtherProcess, which would go on for nobody otherwise.
func TestCancelReachesTheOtherProcess(t *testing.T) {
	t.Parallel()
	p, k, dir := oddToken(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := k.PRF(ctx, nil, []byte("wait")); done <- err }()
	seen(t, dir, "waiting1")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("PRF returned %v", err)
	}
	seen(t, dir, "cancelled")
	if err := p.Random(t.Context(), make([]byte, 10)); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestAProcessThatHangs is killed in the end, and another one takes its place.
func TestAProcessThatHangs(t *testing.T) {
	t.Parallel()
	p, k, _ := oddToken(t)
	before := p.Process().Pid
	p.Hasten(100 * time.Millisecond)
	if _, err := k.PRF(t.Context(), nil, []byte("hang")); !errors.Is(err, remote.ErrDied) {
		t.Errorf("PRF returned %v", err)
	}
	for end := time.Now().Add(patience); ; {
		if err := p.Random(t.Context(), make([]byte, 10)); err == nil && p.Process().Pid != before {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no other process takes its place")
		}
	}
}

// TestAnotherToken in the place of the one before is not used.
func TestAnotherToken(t *testing.T) {
	t.Parallel()
	p, _, dir := oddToken(t)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "swapped"), nil, 0o600), p.Process().Kill()); err != nil {
		t.Fatal(err)
	}
	_, err := again(t, func() ([]byte, error) { return nil, p.Random(t.Context(), make([]byte, 10)) })
	if !errors.Is(err, remote.ErrReply) || !strings.Contains(err.Error(), "soft 2 now, was soft 1") {
		t.Errorf("Random returned %v", err)
	}
}

func TestErrorsCrossTheBorder(t *testing.T) {
	t.Parallel()
	_, k, _ := oddToken(t)
	if _, err := k.PRF(t.Context(), nil, []byte("fail")); !errors.Is(err, errOdd) || errors.Is(err, hsm.ErrBlob) || err.Error() != "it is an odd token" {
		t.Errorf("PRF returned %v", err)
	}
	if p, err := remote.Open(t.Context(), config("odd:refuse")); !errors.Is(err, errOdd) || !errors.Is(err, hsm.ErrBlob) || p != nil {
		t.Errorf("Open returned %v, %v", p, err)
	}
	if _, err := remote.Open(t.Context(), config("pkcs11:module=/none.so;token=x")); !errors.Is(err, noModule) {
		t.Errorf("Open of no module returned %v", err)
	}
	c := config("")
	c.Command = func() *exec.Cmd { return exec.Command(filepath.Join(t.TempDir(), "none")) }
	if _, err := remote.Open(t.Context(), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of no program returned %v", err)
	}
}

// talk is a process that speaks, but not as Serve does.
func talk(how string) int {
	conn, err := net.FileConn(os.NewFile(3, "token"))
	if err != nil {
		return 1
	}
	const about = `{"Kind":"odd","Model":"m","Serial":"1","Specs":[1,2]}`
	switch how {
	case "nothing":
		return 0
	case "no description":
		_ = remote.WriteFrame(conn, 0, 0, []byte("{}"))
	case "long":
		_, _ = conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0})
	case "kind":
		_ = remote.WriteFrame(conn, 0, 7, []byte(about))
	case "error":
		_ = remote.WriteFrame(conn, 0, 1, []byte(`{"Is":[1000]}`))
	default: // the description, then the same answer to everything
		_ = remote.WriteFrame(conn, 0, 0, []byte(about))
		for {
			number, _, _, err := remote.ReadFrame(conn)
			if err != nil {
				return 0
			}
			_ = remote.WriteFrame(conn, number+1000, 0, nil) // to nobody
			_ = remote.WriteFrame(conn, number, 0, []byte(how))
		}
	}
	_, _ = io.Copy(io.Discard, conn)
	return 0
}

// TestAProcessThatLies: whatever it says first, or answers, is an error.
func TestAProcessThatLies(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]error{
		"nothing": remote.ErrDied, "no description": remote.ErrReply, "long": remote.ErrDied, "kind": remote.ErrReply, "error": remote.ErrReply,
	} {
		if p, err := remote.Open(t.Context(), config("raw:"+how)); !errors.Is(err, want) || p != nil {
			t.Errorf("%s: %v, %v", how, p, err)
		}
	}
	for _, answer := range []string{"x", "{}", `{"Spec":1,"Blob":"AA==","Public":"AA=="}`, `{"Spec":2,"Blob":"AA=="}`} {
		p := open(t, config("raw:"+answer))
		for _, spec := range []hsm.Spec{hsm.PRFSHA256, hsm.SignP256} {
			if k, _, err := p.Generate(t.Context(), spec); !errors.Is(err, remote.ErrReply) || k != nil {
				t.Errorf("%s: Generate returned %v, %v", answer, k, err)
			}
		}
		if k, err := p.Load(t.Context(), []byte("blob")); !errors.Is(err, remote.ErrReply) || k != nil {
			t.Errorf("%s: Load returned %v, %v", answer, k, err)
		}
		if err := p.Random(t.Context(), make([]byte, 100)); !errors.Is(err, remote.ErrReply) {
			t.Errorf("%s: Random returned %v", answer, err)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := open(t, config(fmt.Sprintf(`raw:{"Spec":2,"Blob":"AA==","Public":%q}`, base64.StdEncoding.EncodeToString(public)))).Generate(t.Context(), hsm.SignP256)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := signer.(hsm.Signer).SignDigest(t.Context(), make([]byte, 32)); !errors.Is(err, remote.ErrReply) || out != nil {
		t.Errorf("SignDigest returned %x, %v", out, err)
	}
	p := open(t, config(`raw:{"Spec":1,"Blob":"AA=="}`))
	k, _, err := p.Generate(t.Context(), hsm.PRFSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); !errors.Is(err, remote.ErrReply) || out != nil {
		t.Errorf("PRF returned %x, %v", out, err)
	}
}

// FuzzServe: no bytes from the other side end the process that holds the token, and each answer is a frame.
func FuzzServe(f *testing.F) {
	for kind := range byte(10) {
		var b bytes.Buffer
		for _, body := range []string{"\x01", "\x00\x02ab\x00input", "\x00\x00\x00\x10", ""} {
			if err := remote.WriteFrame(&b, 5, kind, []byte(body)); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		p, err := soft.Memory()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		err = remote.ServeOn(t.Context(), &pipe{bytes.NewReader(in), &out}, func(context.Context) (hsm.Provider, error) { return p, nil })
		if err != nil {
			t.Error(err)
		}
	})
}

// pipe reads from one side and writes to the other. Frames are written whole, one at a time.
type pipe struct {
	io.Reader
	w io.Writer
}

func (p *pipe) Write(b []byte) (int, error) { return p.w.Write(b) }

func BenchmarkPRF(b *testing.B) {
	path := filepath.Join(b.TempDir(), "token")
	if p, err := soft.Create(path); err != nil || p.Close() != nil {
		b.Fatal(err)
	}
	p, err := remote.Open(b.Context(), config("soft:"+path))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	k, _, err := p.Generate(b.Context(), hsm.PRFSHA256)
	if err != nil {
		b.Fatal(err)
	}
	var dst [32]byte
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.(hsm.PRF).PRF(b.Context(), dst[:0], dst[:]); err != nil {
			b.Fatal(err)
		}
	}
}
