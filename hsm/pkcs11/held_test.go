//go:build cgo

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
	secret "github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/rack"
)

// impatience is how long a module that is silent may take where one is: the machine may be slow, too, and then one more call is late.
const impatience = 2 * time.Second

// hold is the process that holds the token of another one. At a call of the module it dies, or is silent from then on, once in a folder.
func hold(at int, way, pinFile, label, folder string) error {
	mark := func() { _ = os.WriteFile(filepath.Join(folder, "fired"), nil, 0o600) }
	die := func() { mark(); _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	f := &faulty{at: -1}
	c := pkcs11.Config{Module: softHSM, Label: label, PIN: secret.Source{File: pinFile}, Timeout: patience}
	if _, err := os.Stat(filepath.Join(folder, "fired")); err != nil {
		f.arm(at, map[string]fault{"killed before": {before: die}, "killed after": {after: die}, "silent": {before: func() { mark(); select {} }}}[way])
		if way == "silent" {
			c.Timeout = impatience
		}
	}
	return remote.Serve(context.Background(), func(ctx context.Context) (hsm.Provider, error) {
		p, err := pkcs11.OpenThrough(ctx, c, f.around)
		if err != nil {
			return nil, err
		}
		return p, nil
	}, pkcs11.Errors())
}

// held opens a token in a process of its own, in which one call goes wrong in a way.
func held(c pkcs11.Config, at int, way, folder string) hsm.Opener {
	return func(ctx context.Context) (hsm.Provider, error) {
		p, err := remote.Open(ctx, remote.Config{Errors: pkcs11.Errors(), Patience: 2 * impatience, Timeout: 2 * patience, Command: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			script := strings.Join([]string{"hold", fmt.Sprint(at), strings.ReplaceAll(way, " ", "_"), c.PIN.File, c.Label, folder}, " ")
			cmd.Env = append(os.Environ(), scriptEnv+"="+script)
			return cmd
		}})
		if err != nil {
			return nil, err
		}
		return p, nil
	}
}

// TestTheProcessDies, or is silent, at every call into the module of init, and of a start and a rotation, in a process of its own as in
// an appliance: each attempt ends with one clear error or well, the next goes on, and the token has the appliance's keys and no more.
func TestTheProcessDies(t *testing.T) {
	if !alone(t) {
		return
	}
	for way, step := range map[string]int{"killed before": 12, "killed after": 12, "silent": 40} {
		if *sampling == "all" {
			step = 1
		}
		for _, stage := range []string{"init", "rotation"} {
			t.Run(stage+" "+way, func(t *testing.T) {
				times, at := 0, rand.IntN(step)
				for ; dies(t, stage, way, at); at += step {
					times++
				}
				t.Logf("at %d of at most %d calls of the module", times, at)
			})
		}
	}
}

// dies makes, starts and rotates an appliance whose token goes wrong at one call of a stage, and reports whether there was such a call.
func dies(t *testing.T, stage, way string, at int) bool {
	t.Helper()
	c := ownToken(t, fmt.Sprintf("%s-%s-%d", stage, way[len(way)-5:], at))
	defer endToken(t, c.Label) // each one more is a call more
	cfg := (&ward{t: t}).config()
	defer os.RemoveAll(cfg.Dir)
	folder := filepath.Dir(c.PIN.File)
	faultless := held(c, -1, way, folder)
	create := func() error { _, err := rack.Create(t.Context(), cfg); return err }
	turn := func() error { return life(t, cfg, func(a *rack.Appliance) error { return rotate(t, a) }) }
	attempt, rest := create, turn
	if stage != "init" {
		cfg.Token = faultless
		if err := create(); err != nil {
			t.Fatal(err)
		}
		attempt = turn
	}
	cfg.Token = held(c, at, way, folder)
	err := attempt()
	if _, missing := os.Stat(filepath.Join(folder, "fired")); missing != nil {
		if err != nil || at < 30 {
			t.Errorf("call %d: %v", at, err)
		}
		return false
	}
	if err != nil && !errors.Is(err, remote.ErrDied) && !errors.Is(err, pkcs11.ErrSilent) {
		t.Errorf("at call %d: %v", at, err)
	}
	cfg.Token = faultless
	if err := attempt(); err != nil && !errors.Is(err, rack.ErrExists) {
		t.Errorf("at call %d: the next try: %v", at, err)
	}
	if err := rest(); err != nil {
		t.Errorf("at call %d: what comes after it: %v", at, err)
	}
	if n := objectsIn(t, c); n != 3 {
		t.Errorf("at call %d: the token has %d keys in the end", at, n)
	}
	return true
}

// endToken removes a token by SoftHSM's own tool.
func endToken(t *testing.T, label string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--delete-token", "--token", label).CombinedOutput(); err != nil {
		t.Errorf("softhsm2-util: %v\n%s", err, out)
	}
}

// objectsIn counts what is in a token.
func objectsIn(t *testing.T, c pkcs11.Config) int {
	t.Helper()
	p, err := pkcs11.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return count(t, p.(*pkcs11.Token), nil)
}
