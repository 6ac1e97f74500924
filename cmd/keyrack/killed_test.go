package main_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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

	"github.com/keyrack/keyrack/api"
	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/api/kmsapi"
	"github.com/keyrack/keyrack/audit"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// kills is how often TestKilled ends the appliance; more take longer and find more.
var kills = flag.Int("kills", 6, "how often TestKilled kills the appliance")

// TestKilled ends an appliance with SIGKILL in the middle of mixed work, over and over: its worker alone, or
// supervisor and worker at once. Each time it comes back with everything that it acknowledged, with exactly one
// record of every change that is to be seen, and with nothing that keyrack check or keyrack audit verify finds.
func TestKilled(t *testing.T) {
	t.Parallel()
	a := newMortal(t)
	m, next := racktest.NewHistory(), int64(0)
	tenants := make([]*tenant, 4)
	for i := range tenants {
		tenants[i] = &tenant{name: fmt.Sprintf("t%d", i), rng: rand.New(rand.NewPCG(uint64(i), 42)), keys: map[string]*aKey{}, aliases: map[string]map[string]bool{}}
	}
	for round := range *kills {
		killDuring(t, a, tenants, round%2 == 1, 40+20*(round%5))
		next = a.read(t, m, next)
		seen := racktest.Look(t, a.client)
		m.Compare(t, seen)
		for _, x := range tenants {
			x.judge(t, a, seen)
		}
		a.run(t, "check")
		a.run(t, "audit", "verify", filepath.Join(a.dir, "audit"), "--key", a.auditKey)
		if t.Failed() {
			t.Fatalf("after kill %d", round+1)
		}
	}
	t.Logf("%d kills: %d records, %d keys, %d aliases", *kills, next, len(m.Enabled), len(m.Aliases))
}

// killDuring lets all tenants work, kills the appliance after a number of answers, and brings it back.
func killDuring(t *testing.T, a *mortal, tenants []*tenant, workerOnly bool, answers int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var answered atomic.Int64
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for _, x := range tenants {
		wg.Go(func() {
			for ctx.Err() == nil {
				if x.act(ctx, a.client) && answered.Add(1) == int64(answers) {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Error("the appliance does not answer")
	}
	a.kill(t, workerOnly)
	stop()
	wg.Wait()
	a.up(t, workerOnly)
}

// mortal is an appliance in processes of its own.
type mortal struct {
	dir, addr, auditKey string
	serve               *exec.Cmd
	client, operator    *client.Client
	output              lockedBuffer
}

// newMortal makes, starts and populates an appliance.
func newMortal(t *testing.T) *mortal {
	t.Helper()
	base, err := os.MkdirTemp("", "keyrack") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	a := &mortal{dir: filepath.Join(base, "rack"), addr: racktest.Loopback()}
	a.run(t, "init")
	a.operator = a.connect(t, client.Config{Socket: filepath.Join(a.dir, "keyrack.sock")})
	a.start(t)
	t.Cleanup(a.end)
	s := a.await(t, "")
	a.addr = s.Address
	out, err := client.Do(t.Context(), a.operator, applianceapi.GetAuditCheckpoint, &applianceapi.GetAuditCheckpointRequest{})
	if err != nil {
		t.Fatal(err)
	}
	a.auditKey = out.Key
	a.client = a.account(t, base)
	return a
}

// account registers a client and connects as it.
func (a *mortal) account(t *testing.T, dir string) *client.Client {
	t.Helper()
	env := a.run(t, "principal", "add", "tester", "--account", "111122223333", "--out", dir)
	vars := map[string]string{}
	for line := range strings.Lines(env) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		vars[name] = strings.Trim(value, "'")
	}
	cfg, err := client.FromEnv(func(name string) string { return vars[name] })
	if err != nil {
		t.Fatalf("%v\nfrom %s", err, env)
	}
	return a.connect(t, cfg)
}

func (a *mortal) connect(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// run runs a command that must succeed, and returns what it printed.
func (a *mortal) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("keyrack", args...)
	cmd.Env = append(os.Environ(), "KEYRACK_SOCKET="+filepath.Join(a.dir, "keyrack.sock"))
	if args[0] == "init" {
		cmd.Args = append(cmd.Args, "--dir", a.dir)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("keyrack %s: %v\n%s%s\n%s", strings.Join(args, " "), err, out, errs.String(), a.output.String())
	}
	return string(out)
}

// start starts the supervisor.
func (a *mortal) start(t *testing.T) {
	t.Helper()
	a.serve = exec.Command("keyrack", "serve", "--dir", a.dir, "--listen", a.addr)
	a.serve.Stderr = &a.output
	if err := a.serve.Start(); err != nil {
		t.Fatal(err)
	}
}

// worker returns the process that holds the data folder.
func (a *mortal) worker() string {
	b, _ := os.ReadFile(filepath.Join(a.dir, "lock"))
	return strings.TrimSpace(string(b))
}

// kill kills the worker, or the supervisor with it, which then has no time to do anything about it.
func (a *mortal) kill(t *testing.T, workerOnly bool) {
	t.Helper()
	if !workerOnly {
		a.serve.Process.Signal(syscall.SIGSTOP)
	}
	pid, err := strconv.Atoi(a.worker())
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatalf("kill the worker: %v", err)
	}
	if !workerOnly {
		a.end()
	}
}

// end kills the supervisor, and with it its worker.
func (a *mortal) end() {
	a.serve.Process.Kill()
	a.serve.Wait() // it was killed
}

// up waits until the appliance serves again, after starting it if nobody else does.
func (a *mortal) up(t *testing.T, supervised bool) {
	t.Helper()
	if !supervised {
		a.start(t)
	}
	a.await(t, a.addr)
}

// await waits until the appliance serves, at an address if that is not "".
func (a *mortal) await(t *testing.T, addr string) *applianceapi.GetStatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		s, err := client.Do(ctx, a.operator, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err == nil && s.State == applianceapi.Unlocked && s.Address != "" && (addr == "" || s.Address == addr) {
			return s
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("the appliance does not serve: %+v, %v\n%s", s, err, a.output.String())
		}
	}
}

// read applies the records from one on, and returns the number of the next.
func (a *mortal) read(t *testing.T, m *racktest.History, from int64) (next int64) {
	t.Helper()
	for {
		out, err := client.Do(t.Context(), a.operator, applianceapi.ListAuditRecords, &applianceapi.ListAuditRecordsRequest{From: from, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, encoded := range out.Records {
			rec, err := audit.ParseRecord(encoded)
			if err != nil {
				t.Fatal(err)
			}
			m.Apply(t, &rec)
		}
		if from = out.Next; len(out.Records) < 2 {
			return from
		}
	}
}

// lockedBuffer is what a process has printed.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tenant works with keys and aliases of its own, one call after the other, and knows what must be there. What was
// asked for and not answered may have happened or not.
type tenant struct {
	name    string
	rng     *rand.Rand
	n       int
	keys    map[string]*aKey           // by ARN
	aliases map[string]map[string]bool // alias -> ARNs that it may name; "" = it may not be there
	lost    int                        // keys that may have been created
}

// aKey is what is known of a key.
type aKey struct {
	maybe      map[bool]bool // may be enabled, may be disabled
	ciphertext []byte
}

// act makes one call, and reports whether it was answered.
func (x *tenant) act(ctx context.Context, c *client.Client) bool {
	arn := x.any()
	switch n := x.rng.IntN(10); {
	case arn == "" || n == 0:
		return x.create(ctx, c)
	case n <= 3:
		return x.alias(ctx, c, arn)
	case n <= 6:
		return x.toggle(ctx, c, arn, n == 4)
	case n == 7:
		return x.drop(ctx, c)
	}
	return x.encrypt(ctx, c, arn)
}

// any returns one of the keys, "" if there is none.
func (x *tenant) any() string {
	at := x.rng.IntN(max(1, len(x.keys)))
	for arn := range x.keys {
		if at--; at < 0 {
			return arn
		}
	}
	return ""
}

// answered tells a call that was answered, with success or a refusal, from one that may have happened or not. One
// that nobody asked for did not happen.
func answered(err error) (done, certain bool) {
	if err == nil {
		return true, true
	}
	e, told := errors.AsType[*api.Error](err)
	return false, told && !errors.Is(err, client.ErrLost) && !e.Kind.Server()
}

func (x *tenant) create(ctx context.Context, c *client.Client) bool {
	out, err := client.Do(ctx, c, kmsapi.CreateKey, &kmsapi.CreateKeyRequest{Description: x.name})
	done, certain := answered(err)
	if done {
		x.keys[out.KeyMetadata.Arn] = &aKey{maybe: map[bool]bool{true: true}}
	}
	if !certain {
		x.lost++
	}
	return done
}

// alias makes a new alias, or lets an old one name another key.
func (x *tenant) alias(ctx context.Context, c *client.Client, arn string) bool {
	var name string
	var err error
	if x.n < 5 || x.rng.IntN(2) == 0 {
		name = fmt.Sprintf("alias/%s/%d", x.name, x.n)
		x.n++
		x.aliases[name] = map[string]bool{"": true}
		_, err = client.Do(ctx, c, kmsapi.CreateAlias, &kmsapi.CreateAliasRequest{AliasName: name, TargetKeyId: ref(arn)})
	} else {
		name = x.anyAlias()
		_, err = client.Do(ctx, c, kmsapi.UpdateAlias, &kmsapi.UpdateAliasRequest{AliasName: name, TargetKeyId: ref(arn)})
	}
	done, certain := answered(err)
	if x.aliases[name] != nil {
		settle(x.aliases[name], arn, done, certain)
	}
	return done || certain
}

func (x *tenant) drop(ctx context.Context, c *client.Client) bool {
	name := x.anyAlias()
	_, err := client.Do(ctx, c, kmsapi.DeleteAlias, &kmsapi.DeleteAliasRequest{AliasName: name})
	done, certain := answered(err)
	if x.aliases[name] != nil {
		settle(x.aliases[name], "", done, certain)
	}
	return done || certain
}

func (x *tenant) toggle(ctx context.Context, c *client.Client, arn string, on bool) bool {
	var err error
	if on {
		_, err = client.Do(ctx, c, kmsapi.EnableKey, &kmsapi.EnableKeyRequest{KeyId: ref(arn)})
	} else {
		_, err = client.Do(ctx, c, kmsapi.DisableKey, &kmsapi.DisableKeyRequest{KeyId: ref(arn)})
	}
	done, certain := answered(err)
	settle(x.keys[arn].maybe, on, done, certain)
	return done
}

// encrypt encrypts under a key, and decrypts what was encrypted before. A disabled key refuses both.
func (x *tenant) encrypt(ctx context.Context, c *client.Client, arn string) bool {
	k := x.keys[arn]
	if k.ciphertext != nil {
		_, err := client.Do(ctx, c, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: k.ciphertext, EncryptionAlgorithm: kmsapi.SymmetricDefault})
		return err == nil
	}
	out, err := client.Do(ctx, c, kmsapi.Encrypt, &kmsapi.EncryptRequest{KeyId: ref(arn), Plaintext: []byte(arn), EncryptionAlgorithm: kmsapi.SymmetricDefault})
	if err == nil {
		k.ciphertext = out.CiphertextBlob
	}
	return err == nil
}

func (x *tenant) anyAlias() string {
	return fmt.Sprintf("alias/%s/%d", x.name, x.rng.IntN(max(1, x.n)))
}

func ref(arn string) api.KeyRef { return api.ParseKeyRef([]byte(arn)) }

// settle says what may be there after a call for a new state.
func settle[S comparable](maybe map[S]bool, next S, done, certain bool) {
	if done {
		clear(maybe)
	}
	if done || !certain {
		maybe[next] = true
	}
}

// judge compares what is to be seen with what the tenant knows, and takes it over.
func (x *tenant) judge(t *testing.T, a *mortal, seen *racktest.Sight) {
	t.Helper()
	for arn, k := range x.keys {
		enabled, there := seen.Enabled[arn]
		if !there || !k.maybe[enabled] {
			t.Errorf("%s: key %s is there: %t, enabled: %t, which may be %v", x.name, arn, there, enabled, k.maybe)
		}
		k.maybe = map[bool]bool{enabled: true}
		x.decrypt(t, a, arn, k, enabled)
	}
	for name, maybe := range x.aliases {
		if target := seen.Aliases[name]; !maybe[target] {
			t.Errorf("%s: %s names %q, which may be %v", x.name, name, target, maybe)
		}
		x.aliases[name] = map[string]bool{seen.Aliases[name]: true}
	}
	for arn, owner := range seen.Descriptions {
		if owner == x.name && x.keys[arn] == nil {
			x.keys[arn] = &aKey{maybe: map[bool]bool{seen.Enabled[arn]: true}}
			x.lost--
		}
	}
	if x.lost < 0 {
		t.Errorf("%s: %d keys that nobody asked for", x.name, -x.lost)
	}
	x.lost = 0
}

// decrypt reads what was encrypted before the kill.
func (x *tenant) decrypt(t *testing.T, a *mortal, arn string, k *aKey, enabled bool) {
	t.Helper()
	if k.ciphertext == nil {
		return
	}
	out, err := client.Do(t.Context(), a.client, kmsapi.Decrypt, &kmsapi.DecryptRequest{CiphertextBlob: k.ciphertext, EncryptionAlgorithm: kmsapi.SymmetricDefault})
	switch {
	case enabled && (err != nil || string(out.Plaintext) != arn):
		t.Errorf("%s: decrypt under %s: %v", x.name, arn, err)
	case !enabled && err == nil:
		t.Errorf("%s: %s is disabled and decrypts", x.name, arn)
	}
}
