package main_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyrack/keyrack/api/applianceapi"
	"github.com/keyrack/keyrack/hsm/hsmtest/swtpm"
	"github.com/keyrack/keyrack/protocol/client"
)

// TestTokens runs the scripts of testdata/token on every kind of token.
func TestTokens(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]struct {
		model string // a regular expression
		make  func(t *testing.T, e *testscript.Env) (token, other string)
	}{
		"soft": {"keyrack soft token", func(*testing.T, *testscript.Env) (string, string) { return "soft:token", "soft:other" }},
		"tpm2": {"IBM SW TPM", func(t *testing.T, _ *testscript.Env) (string, string) { return newTPM(t), newTPM(t) }},
		"tpm2 with PIN": {"IBM SW TPM", func(t *testing.T, e *testscript.Env) (string, string) {
			pin := filepath.Join(e.WorkDir, "pin")
			if err := os.WriteFile(pin, []byte("0815\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return newTPM(t) + ";pin-file=" + pin, newTPM(t) + ";pin-file=" + pin
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/token",
				RequireExplicitExec: true,
				Cmds:                map[string]func(*testscript.TestScript, bool, []string){"flip": flip, "client": asClient},
				Setup: func(e *testscript.Env) error {
					e.Setenv("GORACE", raceOptions)
					e.Setenv("MODEL", kind.model)
					token, other := kind.make(t, e)
					e.Setenv("TOKEN", token)
					e.Setenv("OTHER", other)
					return nil
				},
			})
		})
	}
}

// newTPM starts a TPM and returns its specification.
func newTPM(t *testing.T) string { return "tpm2:path=" + swtpm.Start(t).Path() }

// asClient gives the commands that follow the environment that principal add has printed, and the address at which the
// appliance of a folder is now: client FILE DIR.
func asClient(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "="); ok {
			ts.Setenv(name, strings.Trim(strings.TrimSpace(value), "'"))
		}
	}
	c, err := client.New(client.Config{Socket: filepath.Join(ts.MkAbs(args[1]), "keyrack.sock")})
	ts.Check(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		s, err := client.Do(ctx, c, applianceapi.GetStatus, &applianceapi.GetStatusRequest{})
		if err == nil && s.Address != "" {
			ts.Setenv("KEYRACK_ADDR", s.Address)
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("%s is not unlocked: %v", args[1], err)
		}
	}
}
