package rack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/hsm/tpm2"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/protocol/client"
)

// tpmKeys is how many keys an appliance has in its token: the root, and the audit log's two.
const tpmKeys = 3

// faults says which commands go wrong in which ways.
var faults = flag.String("faults", "some", "at each command of a TPM one fault, another each time, or all")

// kinds is in how many ways a command goes wrong.
const kinds = 7

// faultyTPM is a TPM that goes wrong at one command.
type faultyTPM struct {
	tpm   *swtpm.TPM
	bus   *swtpm.Bus
	fired atomic.Bool
	made  bool // an appliance
	kind  int  // of the next fault
}

func newFaultyTPM(t *testing.T) *faultyTPM {
	t.Helper()
	v := swtpm.Start(t)
	return &faultyTPM{tpm: v, bus: v.Bus("unix"), kind: rand.IntN(kinds)}
}

// silent is how long a TPM that says nothing is waited for. One of a slow machine may take longer: then its command is repeated.
const silent = 500 * time.Millisecond

// open opens the token. A TPM that is silent is given up soon.
func (f *faultyTPM) open(ctx context.Context) (hsm.Provider, error) {
	t, err := tpm2.Open(ctx, tpm2.Config{Path: f.bus.Path(), Timeout: silent})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// arm has the nth command from now go wrong, each in another way than the one before: an error code, garbage, a connection that breaks after or
// before the TPM did its work, a power cut after or before, silence.
func (f *faultyTPM) arm(n int) {
	f.fired.Store(false)
	f.bus.Set(func(i int, command []byte, execute func([]byte) []byte) []byte {
		if i != n {
			if reply := execute(command); reply != nil {
				return reply
			}
			return []byte{}
		}
		f.fired.Store(true)
		switch (n + f.kind) % kinds {
		case 0:
			return binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, 0x101)
		case 1:
			return []byte("no reply of a TPM at all")
		case 2:
			execute(command)
		case 3:
		case 4:
			execute(command)
			fallthrough
		case 5:
			f.tpm.Kill()
			f.tpm.Restart()
		case 6:
			return nil
		}
		return []byte{}
	})
}

// TestTPMFaults: each command of making an appliance, of starting it and of rotating its domain key goes wrong once. Each attempt ends with one
// clear error or well, the next goes on from there, nothing is lost, and no key is left in the TPM that nobody uses.
func TestTPMFaults(t *testing.T) {
	t.Parallel()
	f := newFaultyTPM(t)
	dir, err := os.MkdirTemp("", "keyrack") // not t.TempDir: a Unix socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := rack.Config{Dir: dir, Token: f.open, Logger: racktest.Logger(t), AllowUnlockedMemory: true, AuditBytes: 16 << 20}
	f.each(t, "init", func() error {
		if f.made { // that command was repeated, or another round begins: once more from the beginning
			f.tpm.Clear()
			if err := os.Remove(filepath.Join(dir, "store.db")); err != nil {
				return err
			}
		}
		_, err := rack.Create(t.Context(), cfg)
		if f.made = err == nil; !f.made {
			return err
		}
		if got := f.tpm.Indexes(); len(got) != tpmKeys {
			t.Errorf("an appliance that was made has %x in the TPM", got)
		}
		return nil
	})
	f.each(t, "start", func() error {
		a, err := rack.Start(t.Context(), cfg)
		f.bus.Set(nil)
		if err == nil {
			err = a.Close(context.Background())
		}
		return err
	})
	if got := f.tpm.Indexes(); len(got) != tpmKeys {
		t.Errorf("after starting it has %x in the TPM", got)
	}
	f.rotations(t, cfg)
	if got := f.tpm.Indexes(); len(got) != tpmKeys {
		t.Errorf("after rotating it has %x in the TPM", got)
	}
}

// each repeats an operation with another command that goes wrong, until none is left.
func (f *faultyTPM) each(t *testing.T, name string, operation func() error) {
	t.Helper()
	for range rounds() {
		f.kind++
		f.round(t, name, operation)
	}
}

// rounds is how often each command goes wrong, in another way each time.
func rounds() int {
	if *faults == "all" {
		return kinds
	}
	return 1
}

// round is each with one kind of fault for a command.
func (f *faultyTPM) round(t *testing.T, name string, operation func() error) {
	t.Helper()
	failed, n := 0, 0
	for {
		n++
		f.arm(n)
		err := operation()
		fired := f.fired.Load()
		f.bus.Set(nil)
		switch {
		case !fired && errors.Is(err, tpm2.ErrSilent):
			n-- // the machine is slow
			continue
		case err != nil && !fired:
			t.Fatalf("%s: %v", name, err)
		case err != nil && !strings.Contains(err.Error(), "TPM"):
			t.Errorf("%s, command %d: an error that does not speak of the TPM: %v", name, n, err)
		case errors.Is(err, hsm.ErrBlob):
			t.Errorf("%s, command %d: a key is said to be gone: %v", name, n, err)
		case !fired:
			t.Logf("%s: %d commands, %d attempts failed", name, n-1, failed)
			return
		}
		if err != nil {
			failed++
		}
	}
}

// rotations rotates the domain key of a running appliance.
func (f *faultyTPM) rotations(t *testing.T, cfg rack.Config) {
	t.Helper()
	a := started(t, cfg)
	c, err := client.New(client.Config{Socket: a.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	moved := time.Now()
	for n, round := 1, 1; ; n++ {
		f.arm(n)
		_, err := client.Do(t.Context(), c, applianceapi.RotateDomainKey, &applianceapi.RotateDomainKeyRequest{})
		fired := f.fired.Load()
		f.bus.Set(nil)
		if err == nil && !fired {
			t.Logf("rotate: %d commands", n-1)
			if round++; round > rounds() {
				break
			}
			n = 0
			f.kind++
		}
		if err == nil || fired {
			moved = time.Now()
			continue
		}
		if time.Since(moved) > time.Minute {
			t.Fatal(err)
		}
		n-- // the rotation before is not over, and asked again, goes on; or the machine is slow
		<-again.C
	}
	closed(t, a)
	closed(t, started(t, cfg))
}

// started starts the appliance, as often as the machine is so slow that its TPM seems silent.
func started(t *testing.T, cfg rack.Config) *rack.Appliance {
	t.Helper()
	for {
		a, err := rack.Start(t.Context(), cfg)
		switch {
		case err == nil:
			return a
		case !errors.Is(err, tpm2.ErrSilent):
			t.Fatal(err)
		}
	}
}

// closed closes an appliance. On a slow machine its TPM may seem silent at the last checkpoint, too.
func closed(t *testing.T, a *rack.Appliance) {
	t.Helper()
	if err := a.Close(context.Background()); err != nil && !errors.Is(err, tpm2.ErrSilent) {
		t.Error(err)
	}
}

// dying is a token of which nothing is heard any more after some calls, as when the process has died.
type dying struct {
	hsm.Provider
	left *int
}

var errDead = errors.New("dead")

func (d dying) dead() bool { *d.left--; return *d.left < 0 }

func (d dying) Generate(ctx context.Context, spec hsm.Spec) (hsm.Key, []byte, error) {
	if d.dead() {
		return nil, nil, errDead
	}
	return d.Provider.Generate(ctx, spec)
}

func (d dying) Load(ctx context.Context, blob []byte) (hsm.Key, error) {
	if d.dead() {
		return nil, errDead
	}
	return d.Provider.Load(ctx, blob)
}

func (d dying) Destroy(ctx context.Context, blob []byte) error {
	if d.dead() {
		return errDead
	}
	return d.Provider.Destroy(ctx, blob)
}

// TestInitThatDied: an attempt to make an appliance that died leaves keys in the token, and the next attempt destroys them.
func TestInitThatDied(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	dir := filepath.Join(t.TempDir(), "r")
	open := func(ctx context.Context) (hsm.Provider, error) { return tpm2.Open(ctx, tpm2.Config{Path: v.Path()}) }
	cfg := rack.Config{Dir: dir, Logger: racktest.Logger(t), AllowUnlockedMemory: true}
	most := 0
	for calls := 0; ; calls++ {
		left := calls
		cfg.Token = func(ctx context.Context) (hsm.Provider, error) {
			p, err := open(ctx)
			return dying{p, &left}, err
		}
		if _, err := rack.Create(t.Context(), cfg); err == nil {
			break
		} else if !errors.Is(err, errDead) {
			t.Fatal(err)
		}
		most = max(most, len(v.Indexes()))
	}
	if got := v.Indexes(); len(got) != tpmKeys || most == 0 {
		t.Errorf("the TPM has %x, at most %d meanwhile", got, most)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestInitWithAnotherToken: an attempt that died has left a key in its token. One with another token does not forget that.
func TestInitWithAnotherToken(t *testing.T) {
	t.Parallel()
	first, second := swtpm.Start(t), swtpm.Start(t)
	left := 0
	open := func(v *swtpm.TPM, left *int) hsm.Opener {
		return func(ctx context.Context) (hsm.Provider, error) {
			p, err := tpm2.Open(ctx, tpm2.Config{Path: v.Path()})
			return struct {
				dying
				hsm.Planner
			}{dying{p, left}, p}, err
		}
	}
	cfg := rack.Config{Dir: filepath.Join(t.TempDir(), "r"), Logger: racktest.Logger(t), AllowUnlockedMemory: true, Token: open(first, &left)}
	if _, err := rack.Create(t.Context(), cfg); !errors.Is(err, errDead) || len(first.Indexes()) == 0 {
		t.Fatalf("%v, with %x in the TPM", err, first.Indexes())
	}
	for range 2 {
		many := 1 << 30
		cfg.Token = open(second, &many)
		if _, err := rack.Create(t.Context(), cfg); !errors.Is(err, rack.ErrOtherToken) {
			t.Errorf("with another token: %v", err)
		}
	}
	many := 1 << 30
	cfg.Token = open(first, &many)
	if _, err := rack.Create(t.Context(), cfg); err != nil || len(first.Indexes()) != tpmKeys || len(second.Indexes()) != 0 {
		t.Errorf("with the first: %v, with %x and %x in the TPMs", err, first.Indexes(), second.Indexes())
	}
}
