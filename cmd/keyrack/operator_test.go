package main_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	keyrack "github.com/keyrack/keyrack/cmd/keyrack"

	"github.com/keyrack/keyrack/internal/clock"
	"github.com/keyrack/keyrack/internal/rack"
	"github.com/keyrack/keyrack/internal/racktest"
	"github.com/keyrack/keyrack/keystore"
)

// TestCheckFindsDamage changes one bit of a record beneath a running appliance.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	below := keystore.NewMemory()
	r := racktest.Start(t, func(cfg *rack.Config) { cfg.Store = below })
	r.CreateKey()
	env := asMap(r)
	if status, out, stderr := keyrack.Run(env, "check"); status != 0 || !strings.HasPrefix(out, "OK: ") {
		t.Fatalf("before: status %d, %s%s", status, out, stderr)
	}
	damage(t, below)
	status, out, stderr := keyrack.Run(env, "check")
	if status != 1 || !strings.HasPrefix(out, "PROBLEM  ") || !strings.Contains(stderr, "\nhint: keep a copy") {
		t.Errorf("status %d, printed %q and %q", status, out, stderr)
	}
	_, out, _ = keyrack.Run(env, "check", "--output", "json")
	var report struct {
		State    string
		Problems []string
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.State != "FAILED" || len(report.Problems) == 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// damage changes the last bit of a key's material.
func damage(t *testing.T, below keystore.Store) {
	t.Helper()
	var name keystore.Name
	var value []byte
	err := below.View(t.Context(), func(r keystore.Reader) error {
		for e, err := range r.Scan(keystore.Name{}, keystore.Name{}) {
			if err != nil {
				return err
			}
			if e.Name.Space() == keystore.SpaceMaterial {
				name, value = e.Name, slices.Clone(e.Value)
			}
		}
		return nil
	})
	if err != nil || len(value) == 0 {
		t.Fatalf("no material: %v", err)
	}
	value[len(value)-1] ^= 1
	if _, err := below.Update(t.Context(), func(tx keystore.Tx) error { return tx.Put(name, value) }); err != nil {
		t.Fatal(err)
	}
}

// TestClockInThePast starts an appliance again when the machine's clock is years
// behind what it was: status says so.
func TestClockInThePast(t *testing.T) {
	t.Parallel()
	at := func(year int) *clock.Clock {
		c, _ := clock.NewTest(time.Date(year, 5, 1, 0, 0, 0, 0, time.UTC))
		return c
	}
	r := racktest.Start(t, racktest.OnDisk, func(cfg *rack.Config) { cfg.Clock = at(2030) })
	if _, out, stderr := keyrack.Run(asMap(r), "status"); strings.Contains(out, "behind") {
		t.Errorf("before: %s%s", out, stderr)
	}
	r.Restart(func(cfg *rack.Config) { cfg.Clock = at(1970) })
	if _, out, stderr := keyrack.Run(asMap(r), "status"); !strings.Contains(out, "\nWARNING") || !strings.Contains(out, "behind the time that was reached before") {
		t.Errorf("printed %s%s", out, stderr)
	}
}

// TestTerminal sends what a terminal sends, to supervisor and worker at once.
func TestTerminal(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("keyrack", "serve", "--dir", provision(t), "--listen", "127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := follow(t, cmd)
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if err := syscall.Kill(-s.Process.Pid, signal); err != nil {
			t.Fatal(err)
		}
	}
	rest := new(bytes.Buffer)
	for s.lines.Scan() {
		rest.WriteString(s.lines.Text() + "\n")
	}
	if err := s.Wait(); err != nil || strings.Contains(rest.String(), "level=ERROR") {
		t.Errorf("ended with %v:\n%s", err, rest)
	}
}
