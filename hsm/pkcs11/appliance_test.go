//go:build cgo

package pkcs11_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	raw "github.com/miekg/pkcs11"

	"github.com/keyrack/keyrack/domain"
	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
)

// sampling says at which calls of init, unlock and rotation something goes wrong.
var sampling = flag.String("faults", "some", "calls of an appliance that go wrong: some, others each time, or all")

// ward is an appliance whose token is behind a faulty module.
type ward struct {
	*faulty
	t     *testing.T
	token hsm.Opener
}

func newWard(t *testing.T, label string) *ward {
	t.Helper()
	c := ownToken(t, label)
	w := &ward{faulty: &faulty{at: -1}, t: t}
	w.token = func(ctx context.Context) (hsm.Provider, error) {
		p, err := pkcs11.OpenThrough(ctx, c, w.around)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return w
}

// config is of an appliance in a folder of its own.
func (w *ward) config() rack.Config {
	w.t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "kr") // in memory; and a Unix socket's path is short
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	return rack.Config{Dir: dir, Token: w.token, AllowUnlockedMemory: true, Logger: racktest.Logger(w.t), AuditFiles: racktest.NewDisk(dir + "/audit"), Listen: "127.0.0.1:0", AuditBytes: 64 << 10}
}

func (w *ward) create() rack.Config {
	w.t.Helper()
	cfg := w.config()
	if _, err := rack.Create(w.t.Context(), cfg); err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

// each calls do with a fault at every call into the module in turn, then again without one. do reports whether what it did is to be
// called a success only by its error.
func (w *ward) each(least int, do func(name string, again bool) error) {
	w.t.Helper()
	for i, what := range []fault{
		{name: "error", err: raw.Error(raw.CKR_GENERAL_ERROR)}, {name: "away", err: raw.Error(raw.CKR_DEVICE_REMOVED)}, {name: "garbage", garbage: true},
	} {
		step := 1 + 4*i // errors at every call, the others, which take longer, here and there
		if *sampling == "all" {
			step = 1
		}
		for at := rand.IntN(step); ; at += step {
			w.arm(at, what)
			name := fmt.Sprintf("call %d, %s", at, what.name)
			err := do(name, false)
			if !w.disarm() {
				if at < least || err != nil {
					w.t.Errorf("%s: %d calls, %v", what.name, at, err)
				}
				w.t.Logf("%s: one in %d of %d calls", what.name, step, at)
				break
			}
			if err != nil && err.Error() == "" {
				w.t.Errorf("%s: an error that says nothing", name)
			}
			if again := do(name, true); again != nil {
				w.t.Fatalf("%s: the next try: %v (the first: %v)", name, again, err)
			}
		}
	}
}

// TestEveryCallOfInitFails: an init that was cut off is begun anew by the next, on the same folder and token.
func TestEveryCallOfInitFails(t *testing.T) {
	if !alone(t) {
		return
	}
	w := newWard(t, "init")
	var cfg rack.Config
	w.each(30, func(name string, again bool) error {
		if !again {
			cfg = w.config()
		}
		_, err := rack.Create(t.Context(), cfg)
		if again && errors.Is(err, rack.ErrExists) { // the fault came after the last step
			return nil
		}
		return err
	})
}

// TestEveryCallOfUnlockFails: the appliance does not start, or it is the one that it was; the next start finds it whole.
func TestEveryCallOfUnlockFails(t *testing.T) {
	if !alone(t) {
		return
	}
	w := newWard(t, "unlock")
	cfg := w.create()
	w.each(20, func(string, bool) error { return life(t, cfg, func(*rack.Appliance) error { return nil }) })
}

// TestEveryCallOfRotationFails: after each the appliance works, rotates, and starts again.
func TestEveryCallOfRotationFails(t *testing.T) {
	if !alone(t) {
		return
	}
	w := newWard(t, "rotate")
	cfg := w.create()
	w.each(20, func(_ string, again bool) error {
		return life(t, cfg, func(a *rack.Appliance) error { return rotate(t, a) })
	})
}

// rotate rotates, after the end of a rotation before it.
func rotate(t *testing.T, a *rack.Appliance) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if err := a.Rotate(ctx); !errors.Is(err, domain.ErrRotating) || ctx.Err() != nil {
			return err
		}
	}
}

// life starts an appliance, has it do something, and stops it.
func life(t *testing.T, cfg rack.Config, do func(*rack.Appliance) error) error {
	t.Helper()
	a, err := rack.Start(t.Context(), cfg)
	if err != nil {
		return err
	}
	err = do(a)
	return errors.Join(err, a.Close(context.WithoutCancel(t.Context())))
}
