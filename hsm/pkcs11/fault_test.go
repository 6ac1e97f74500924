//go:build cgo

package pkcs11_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	secret "github.com/keyrack/keyrack/internal/pin"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// alone runs a test in a process of its own, with a SoftHSM of its own, and reports whether this is that process: what a test
// does to a module it does to all of its process.
func alone(t *testing.T) bool {
	t.Helper()
	const env = "KEYRACK_PKCS11_ALONE"
	if os.Getenv(env) == t.Name() {
		return true
	}
	t.Parallel()
	most := 5 * patience
	if *sampling == "all" {
		most *= 12
	}
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v="+fmt.Sprint(testing.Verbose()), "-faults="+*sampling)
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

// ownToken makes a token by SoftHSM's own tool, so that the module is not loaded yet.
func ownToken(t *testing.T, label string) pkcs11.Config {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-pin", "--pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	return pkcs11.Config{Module: softHSM, Label: label, PIN: secret.Source{File: pinFile(t, pin)}, Timeout: patience}
}

// through opens a token with a faulty module in between, until the test ends.
func through(t *testing.T, c pkcs11.Config, f *faulty) (*pkcs11.Token, error) {
	t.Helper()
	pkcs11.Forget(softHSM)
	return pkcs11.OpenThrough(t.Context(), c, f.around)
}

// fault is what goes wrong in a call.
type fault struct {
	name    string
	err     error  // returned instead of the call
	garbage bool   // an answer without a call, or a call with another answer
	before  func() // runs first
	after   func() // runs last
}

// faulty is a module whose call number at goes wrong, counted from zero after arm.
type faulty struct {
	pkcs11.Cryptoki
	mu     sync.Mutex
	n, at  int
	fault  fault
	logins atomic.Int64
	info   func(*raw.TokenInfo)
	told   func(map[uint][]byte)
	given  func([]*raw.Attribute) error
}

func (f *faulty) around(lib pkcs11.Cryptoki) pkcs11.Cryptoki { f.Cryptoki = lib; return f }
func (f *faulty) Unwrap() pkcs11.Cryptoki                    { return f.Cryptoki }

// arm sets what goes wrong from now on.
func (f *faulty) arm(at int, what fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.at, f.fault = 0, at, what
}

// disarm reports whether the fault has come.
func (f *faulty) disarm() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	came := f.at >= 0 && f.n > f.at
	f.n, f.at, f.fault = 0, -1, fault{}
	return came
}

// next returns the fault of the next call.
func (f *faulty) next() fault {
	f.mu.Lock()
	now := fault{}
	if f.n == f.at {
		now = f.fault
	}
	f.n++
	f.mu.Unlock()
	if now.before != nil {
		now.before()
	}
	if now.after == nil {
		now.after = func() {}
	}
	return now
}

const bogus = 0xdead

func (f *faulty) Start() error    { return f.plain(f.Cryptoki.Start) }
func (f *faulty) Finalize() error { return f.plain(f.Cryptoki.Finalize) }

// plain is a call without an answer: garbage is to do nothing and say that it was done.
func (f *faulty) plain(call func() error) error {
	now := f.next()
	defer now.after()
	if now.err != nil || now.garbage {
		return now.err
	}
	return call()
}

// answer is a call with an answer.
func answer[T any](f *faulty, wrong T, call func() (T, error)) (T, error) {
	now := f.next()
	defer now.after()
	switch {
	case now.err != nil:
		var zero T
		return zero, now.err
	case now.garbage:
		_, _ = call()
		return wrong, nil
	}
	return call()
}

func (f *faulty) Slots() ([]uint, error) { return answer(f, []uint{bogus}, f.Cryptoki.Slots) }

func (f *faulty) GetTokenInfo(slot uint) (raw.TokenInfo, error) {
	info, err := answer(f, raw.TokenInfo{Label: "\xff\x00\x1b[31m", Flags: ^uint(0)}, func() (raw.TokenInfo, error) { return f.Cryptoki.GetTokenInfo(slot) })
	if f.info != nil {
		f.info(&info)
	}
	return info, err
}

func (f *faulty) GetMechanismInfo(slot uint, m []*raw.Mechanism) (raw.MechanismInfo, error) {
	return answer(f, raw.MechanismInfo{}, func() (raw.MechanismInfo, error) { return f.Cryptoki.GetMechanismInfo(slot, m) })
}

func (f *faulty) OpenSession(slot, flags uint) (raw.SessionHandle, error) {
	return answer(f, bogus, func() (raw.SessionHandle, error) { return f.Cryptoki.OpenSession(slot, flags) })
}

func (f *faulty) CloseSession(s raw.SessionHandle) error {
	return f.plain(func() error { return f.Cryptoki.CloseSession(s) })
}

func (f *faulty) GetSessionInfo(s raw.SessionHandle) (raw.SessionInfo, error) {
	return answer(f, raw.SessionInfo{}, func() (raw.SessionInfo, error) { return f.Cryptoki.GetSessionInfo(s) })
}

func (f *faulty) LoginUser(s raw.SessionHandle, pin []byte) error {
	f.logins.Add(1)
	return f.plain(func() error { return f.Cryptoki.LoginUser(s, pin) })
}

func (f *faulty) Logout(s raw.SessionHandle) error {
	return f.plain(func() error { return f.Cryptoki.Logout(s) })
}

func (f *faulty) Random(s raw.SessionHandle, p []byte) error {
	return f.plain(func() error { return f.Cryptoki.Random(s, p) })
}

func (f *faulty) FindObjectsInit(s raw.SessionHandle, template []*raw.Attribute) error {
	return f.plain(func() error { return f.Cryptoki.FindObjectsInit(s, template) })
}

func (f *faulty) Find(s raw.SessionHandle) ([]raw.ObjectHandle, error) {
	return answer(f, []raw.ObjectHandle{bogus}, func() ([]raw.ObjectHandle, error) { return f.Cryptoki.Find(s) })
}

func (f *faulty) FindObjectsFinal(s raw.SessionHandle) error {
	return f.plain(func() error { return f.Cryptoki.FindObjectsFinal(s) })
}

func (f *faulty) Attributes(s raw.SessionHandle, o raw.ObjectHandle, types []uint) (map[uint][]byte, error) {
	wrong := map[uint][]byte{}
	for _, t := range types {
		wrong[t] = []byte{2, 0, 1}
	}
	values, err := answer(f, wrong, func() (map[uint][]byte, error) { return f.Cryptoki.Attributes(s, o, types) })
	if f.told != nil {
		f.told(values)
	}
	return values, err
}

func (f *faulty) DestroyObject(s raw.SessionHandle, o raw.ObjectHandle) error {
	return f.plain(func() error { return f.Cryptoki.DestroyObject(s, o) })
}

func (f *faulty) GenerateKey(s raw.SessionHandle, m []*raw.Mechanism, template []*raw.Attribute) (raw.ObjectHandle, error) {
	if f.given != nil {
		if err := f.given(template); err != nil {
			return 0, err
		}
	}
	return answer(f, bogus, func() (raw.ObjectHandle, error) { return f.Cryptoki.GenerateKey(s, m, template) })
}

func (f *faulty) GenerateKeyPair(s raw.SessionHandle, m []*raw.Mechanism, public, private []*raw.Attribute) (raw.ObjectHandle, raw.ObjectHandle, error) {
	type pair struct{ public, private raw.ObjectHandle }
	p, err := answer(f, pair{bogus, bogus}, func() (pair, error) {
		a, b, err := f.Cryptoki.GenerateKeyPair(s, m, public, private)
		return pair{a, b}, err
	})
	return p.public, p.private, err
}

func (f *faulty) SignInit(s raw.SessionHandle, m []*raw.Mechanism, o raw.ObjectHandle) error {
	return f.plain(func() error { return f.Cryptoki.SignInit(s, m, o) })
}

func (f *faulty) Sign(s raw.SessionHandle, in, out []byte) (int, error) {
	now := f.next()
	defer now.after()
	if now.err != nil {
		return 0, now.err
	}
	n, err := f.Cryptoki.Sign(s, in, out)
	if now.garbage {
		clear(out)
		if n == 32 { // of an HMAC only a wrong length can be noticed
			n--
		}
	}
	return n, err
}

// rig is a token with one key of each kind, behind a faulty module.
type rig struct {
	*faulty
	config       pkcs11.Config
	token        *pkcs11.Token
	root, signer []byte // blobs
}

func newRig(t *testing.T, label string) *rig {
	t.Helper()
	r := &rig{faulty: &faulty{at: -1}, config: ownToken(t, label)}
	var err error
	if r.token, err = through(t, r.config, r.faulty); err != nil {
		t.Fatal(err)
	}
	_, r.root = generate(t, r.token, hsm.PRFSHA256)
	_, r.signer = generate(t, r.token, hsm.SignP256)
	return r
}

// objects counts what is in the token.
func (r *rig) objects(t *testing.T) int { return count(t, r.token, nil) }

// op is something that one does with a token.
type op struct {
	name string
	do   func(ctx context.Context, r *rig) error
}

// ops are all calls of a token but Open and Close. Each leaves as many keys as there were, whatever happens.
func ops() []op {
	return []op{
		{"Generate PRF", func(ctx context.Context, r *rig) error { return r.makeAndEnd(ctx, hsm.PRFSHA256) }},
		{"Generate Sign", func(ctx context.Context, r *rig) error { return r.makeAndEnd(ctx, hsm.SignP256) }},
		{"Load and PRF", func(ctx context.Context, r *rig) error {
			k, err := r.token.Load(ctx, r.root)
			if err != nil {
				return err
			}
			out, err := k.(hsm.PRF).PRF(ctx, nil, []byte("x"))
			if err == nil && len(out) != 32 {
				return fmt.Errorf("an answer of %d bytes", len(out))
			}
			return err
		}},
		{"Load and Sign", func(ctx context.Context, r *rig) error {
			k, err := r.token.Load(ctx, r.signer)
			if err != nil {
				return err
			}
			signature, err := k.(hsm.Signer).SignDigest(ctx, make([]byte, 32))
			if err == nil && !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), make([]byte, 32), signature) {
				return fmt.Errorf("a signature that does not verify: %w", errDamage)
			}
			return err
		}},
		{"Random", func(ctx context.Context, r *rig) error { return r.token.Random(ctx, make([]byte, 16)) }},
	}
}

// makeAndEnd generates a key and destroys it, if need be without faults.
func (r *rig) makeAndEnd(ctx context.Context, spec hsm.Spec) error {
	_, blob, err := r.token.Generate(ctx, spec)
	if err != nil {
		return err
	}
	if err = r.token.Destroy(ctx, blob); err != nil {
		r.disarmQuietly()
		if again := r.token.Destroy(context.WithoutCancel(ctx), blob); again != nil && !errors.Is(again, hsm.ErrBlob) {
			return fmt.Errorf("cannot be destroyed: %w", errors.Join(again, errDamage))
		}
	}
	return err
}

// errDamage marks what no fault may leave behind.
var errDamage = errors.New("damage")

func (r *rig) disarmQuietly() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault{}
}

// faults are the ways in which a call goes wrong.
func faults() []fault {
	return []fault{
		{name: "error", err: raw.Error(raw.CKR_GENERAL_ERROR)},
		{name: "unknown error", err: raw.Error(0x80001234)},
		{name: "away", err: raw.Error(raw.CKR_DEVICE_REMOVED)},
		{name: "restarted", err: raw.Error(raw.CKR_CRYPTOKI_NOT_INITIALIZED)},
		{name: "logged out", err: raw.Error(raw.CKR_USER_NOT_LOGGED_IN)},
		{name: "session ended", err: raw.Error(raw.CKR_SESSION_HANDLE_INVALID)},
		{name: "handle invalid", err: raw.Error(raw.CKR_OBJECT_HANDLE_INVALID)},
		{name: "garbage", garbage: true},
	}
}

// TestEveryCallFails: whatever call goes wrong, in whatever way, the operation fails with an error that says something or does its work,
// the next does its work, and no key is lost or left over.
func TestEveryCallFails(t *testing.T) {
	if !alone(t) {
		return
	}
	r := newRig(t, "faults")
	before := r.objects(t)
	for _, o := range ops() {
		for _, what := range faults() {
			for at := 0; ; at++ {
				r.arm(at, what)
				err := o.do(t.Context(), r)
				if !r.disarm() {
					if at < 1 || at < 3 && o.name != "Random" {
						t.Errorf("%s is %d calls", o.name, at)
					}
					break
				}
				name := fmt.Sprintf("%s, call %d, %s", o.name, at, what.name)
				if errors.Is(err, errDamage) || err != nil && err.Error() == "" {
					t.Errorf("%s: %v", name, err)
				}
				if err := o.do(t.Context(), r); err != nil {
					t.Fatalf("%s: the next try: %v (the first: %v)", name, err, err)
				}
				if after := r.objects(t); after != before {
					t.Fatalf("%s: %d objects, were %d (%v)", name, after, before, err)
				}
				if at > 200 {
					t.Fatalf("%s: no end", name)
				}
			}
		}
	}
	if err := r.token.Close(); err != nil {
		t.Error(err)
	}
}

// TestEveryCallOfOpenFails is the same for opening and closing, with a start of the module each time.
func TestEveryCallOfOpenFails(t *testing.T) {
	if !alone(t) {
		return
	}
	c := ownToken(t, "open")
	for _, what := range faults() {
		for at := 0; ; at++ {
			f := &faulty{at: at, fault: what}
			p, err := through(t, c, f)
			if err == nil {
				_ = p.Close() // may be what fails
			}
			if !f.disarm() {
				if at < 10 {
					t.Errorf("%s: opening and closing are %d calls", what.name, at)
				}
				break
			}
			if err != nil && (p != nil || err.Error() == "") {
				t.Errorf("call %d, %s: %v, %v", at, what.name, p, err)
			}
			p, err = through(t, c, f)
			if err != nil {
				t.Fatalf("call %d, %s: the next try: %v", at, what.name, err)
			}
			_, blob := generate(t, p, hsm.PRFSHA256)
			if err := errors.Join(p.Destroy(t.Context(), blob), p.Close()); err != nil {
				t.Fatalf("call %d, %s: %v", at, what.name, err)
			}
		}
	}
}
