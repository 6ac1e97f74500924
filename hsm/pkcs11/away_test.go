//go:build cgo

package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	secret "github.com/keyrack/keyrack/internal/pin"
)

func prf(t *testing.T, k hsm.Key) []byte {
	t.Helper()
	out, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x"))
	if err != nil {
		t.Error(err)
	}
	return out
}

// TestTheTokenComesBack: whatever else in the process, or outside of it, ends sessions, logins, the module or the token's folder, keys
// that were loaded before go on to work.
func TestTheTokenComesBack(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "away")
	k, err := r.token.Load(t.Context(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	want := prf(t, k)
	module := func(f func(*raw.Ctx, raw.SessionHandle) error) func() error {
		return func() error { return r.token.Raw(f) }
	}
	for name, ends := range map[string]func() error{
		"sessions": module(func(c *raw.Ctx, s raw.SessionHandle) error {
			info, err := c.GetSessionInfo(s)
			return errors.Join(err, c.CloseAllSessions(info.SlotID))
		}),
		"login":   module(func(c *raw.Ctx, s raw.SessionHandle) error { return c.Logout(s) }),
		"module":  module(func(c *raw.Ctx, s raw.SessionHandle) error { return c.Finalize() }),
		"restart": r.token.Restart,
	} {
		_ = ends() // what ends its own session cannot end well
		logins := r.logins.Swap(0)
		if got := prf(t, k); !bytes.Equal(got, want) {
			t.Errorf("after the end of %s: %x, was %x (%d logins before)", name, got, want, logins)
		}
		if n := r.logins.Load(); n > 1 {
			t.Errorf("after the end of %s: %d logins", name, n)
		}
	}
}

// TestTheTokensFolderIsAway for a while: errors meanwhile, no damage after it.
func TestTheTokensFolderIsAway(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "folder")
	k, err := r.token.Load(t.Context(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	want := prf(t, k)
	folder := filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens")
	if err := errors.Join(os.Rename(folder, folder+".away"), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := r.token.Restart(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := k.(hsm.PRF).PRF(t.Context(), nil, []byte("x")); !errors.Is(err, pkcs11.ErrGone) || !errors.Is(err, pkcs11.ErrNoToken) {
			t.Errorf("while it is away: %x, %v", out, err)
		}
		if err := r.token.Destroy(t.Context(), r.root); err == nil || errors.Is(err, hsm.ErrBlob) {
			t.Errorf("while it is away: Destroy returned %v", err)
		}
	}
	if err := errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)); err != nil {
		t.Fatal(err)
	}
	if got := prf(t, k); !bytes.Equal(got, want) {
		t.Errorf("when it is back: %x, was %x", got, want)
	}
}

// TestManyComeBackAtOnce: a restart under load costs nobody an error, and one login each time.
func TestManyComeBackAtOnce(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "load")
	k, err := r.token.Load(t.Context(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	want := prf(t, k)
	for range 5 {
		r.logins.Store(0)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 10 {
					if got := prf(t, k); !bytes.Equal(got, want) {
						t.Errorf("%x, was %x", got, want)
					}
				}
			})
		}
		if err := r.token.Restart(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		prf(t, k)
		if n := r.logins.Load(); n != 1 {
			t.Errorf("%d logins after one restart", n)
		}
	}
}

// TestAModuleThatStops: callers get their contexts' errors, no more calls are left behind than there are sessions, other sessions go on,
// and when the module answers at last everything goes on.
func TestAModuleThatStops(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "silent")
	if err := r.token.Close(); err != nil {
		t.Fatal(err)
	}
	r.config.Sessions = 2
	var err error
	if r.token, err = through(t, r.config, r.faulty); err != nil {
		t.Fatal(err)
	}
	k, err := r.token.Load(t.Context(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	want := prf(t, k)
	release := make(chan struct{})
	for stuck := range 2 {
		if got := prf(t, k); !bytes.Equal(got, want) {
			t.Errorf("with %d calls stuck: %x, was %x", stuck, got, want)
		}
		inside := make(chan struct{})
		r.arm(0, fault{before: func() { close(inside); <-release }})
		giveUp(t, inside, func(ctx context.Context) error { _, err := k.(hsm.PRF).PRF(ctx, nil, []byte("x")); return err })
		r.disarm()
	}
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for _, o := range ops() {
		if err := o.do(soon, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with all sessions stuck: %v", o.name, err)
		}
	}
	close(release)
	if got := prf(t, k); !bytes.Equal(got, want) {
		t.Errorf("at last: %x, was %x", got, want)
	}
	if err := r.token.Close(); err != nil {
		t.Error(err)
	}
}

// giveUp cancels a call when it is inside the module, and wants it back.
func giveUp(t *testing.T, inside <-chan struct{}, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case <-inside:
	case err := <-done:
		t.Fatalf("it came back with %v", err)
	case <-time.After(patience):
		t.Fatal("it never got there")
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("given up with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("a call that was given up does not come back")
	}
}

// TestSilenceAtEveryCall: each call of each operation may stop; what was asked is given up, and when the module has come back the next try
// does its work and nothing is lost or left over.
func TestSilenceAtEveryCall(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "silence")
	before := r.objects(t)
	for _, o := range ops()[:4] {
		for at := 0; ; at++ {
			release, inside := make(chan struct{}), make(chan struct{})
			r.arm(at, fault{before: func() { close(inside); <-release }})
			done := make(chan struct{})
			var reached atomic.Bool
			go func() { // one more run ends the loop where it does not come to this call
				defer close(done)
				select {
				case <-inside:
					reached.Store(true)
				case <-t.Context().Done():
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- o.do(ctx, r) }()
			select {
			case <-done:
			case err := <-result:
				if err != nil {
					t.Errorf("%s without a fault: %v", o.name, err)
				}
				cancel()
			}
			if !reached.Load() {
				r.disarm()
				if at < 3 {
					t.Errorf("%s is %d calls", o.name, at)
				}
				cancel()
				break
			}
			cancel()
			// makeAndEnd destroys what it has made before it gives up, which waits for the module.
			close(release)
			if err := <-result; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s, call %d: %v", o.name, at, err)
			}
			r.disarm()
			if err := o.do(t.Context(), r); err != nil {
				t.Fatalf("%s, call %d: the next try: %v", o.name, at, err)
			}
			if after := r.objects(t); after != before {
				t.Fatalf("%s, call %d: %d objects, were %d", o.name, at, after, before)
			}
		}
	}
}

// TestOpenOfASilentModule gives up in time.
func TestOpenOfASilentModule(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "silent")
	release := make(chan struct{})
	f := &faulty{fault: fault{before: func() { <-release }}}
	c.Timeout = 10 * time.Millisecond
	if p, err := through(t, c, f); !errors.Is(err, pkcs11.ErrSilent) || p != nil {
		t.Errorf("%v, %v", p, err)
	}
	f.disarm()
	close(release)
	c.Timeout = patience
	p, err := pkcs11.OpenThrough(t.Context(), c, f.around)
	for errors.Is(err, pkcs11.ErrInUse) { // the attempt that was given up may be at its end
		p, err = pkcs11.OpenThrough(t.Context(), c, f.around)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// script is what a process that kills itself does: operation, number of the call, whether before or after it, PIN file, label, blob.
const scriptEnv = "KEYRACK_PKCS11_SCRIPT"

// runScript runs in a process of its own and ends with 0 if it comes to its end.
func runScript(script string) int {
	fields := strings.Fields(script)
	at, err := strconv.Atoi(fields[1])
	if err != nil {
		return 2
	}
	if fields[0] == "hold" {
		if hold(at, strings.ReplaceAll(fields[2], "_", " "), fields[3], fields[4], fields[5]) != nil {
			return 2
		}
		return 0
	}
	die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	f := &faulty{at: -1}
	p, err := pkcs11.OpenThrough(context.Background(), pkcs11.Config{Module: softHSM, Label: fields[4], PIN: secret.Source{File: fields[3]}}, f.around)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	what := fault{before: die}
	if fields[2] == "after" {
		what = fault{after: die}
	}
	f.arm(at, what)
	switch fields[0] {
	case "destroy":
		var blob []byte
		if _, err := fmt.Sscanf(fields[5], "%x", &blob); err != nil {
			return 2
		}
		err = p.Destroy(context.Background(), blob)
	default:
		_, _, err = p.Generate(context.Background(), map[string]hsm.Spec{"prf": hsm.PRFSHA256, "sign": hsm.SignP256}[fields[0]])
	}
	if err != nil {
		fmt.Println(err)
		return 2
	}
	return 0
}

// killed runs a script and reports whether it was killed before its end.
func killed(t *testing.T, words ...string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), scriptEnv+"="+strings.Join(words, " "))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true
	}
	t.Fatalf("%v: %v\n%s", words, err, out)
	return false
}

// TestKilledAtEveryCall kills a process before and after each call of Generate and Destroy. The next Generate works, and Destroy settles.
func TestKilledAtEveryCall(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "killed")
	k, err := r.token.Load(t.Context(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	want := prf(t, k)
	for _, when := range []string{"before", "after"} {
		for _, what := range []string{"prf", "sign"} {
			at := 0
			for ; killed(t, what, strconv.Itoa(at), when, r.config.PIN.File, r.config.Label); at++ {
				if err := r.makeAndEnd(t.Context(), hsm.PRFSHA256); err != nil {
					t.Errorf("killed %s call %d of %s: %v", when, at, what, err)
				}
			}
			if at < 5 {
				t.Errorf("%s is %d calls", what, at)
			}
		}
		for at, more := 0, true; more; at++ {
			_, blob := generate(t, r.token, hsm.PRFSHA256)
			more = killed(t, "destroy", strconv.Itoa(at), when, r.config.PIN.File, r.config.Label, fmt.Sprintf("%x", blob))
			if err := r.token.Destroy(t.Context(), blob); err != nil && !errors.Is(err, hsm.ErrBlob) {
				t.Errorf("killed %s call %d of destroy: %v", when, at, err)
			}
			if _, err := r.token.Load(t.Context(), blob); !errors.Is(err, hsm.ErrBlob) {
				t.Errorf("killed %s call %d of destroy: Load returned %v", when, at, err)
			}
		}
	}
	if got := prf(t, k); !bytes.Equal(got, want) {
		t.Errorf("the other key gives %x, was %x", got, want)
	}
}
