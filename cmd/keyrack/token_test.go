package main_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
		"pkcs11": {"SoftHSM project SoftHSM v2", func(t *testing.T, e *testscript.Env) (string, string) {
			return newSoftHSM(t, e, "one"), newSoftHSM(t, e, "other")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/token",
				RequireExplicitExec: true,
				Cmds:                map[string]func(*testscript.TestScript, bool, []string){"flip": flip, "client": asClient},
				Setup: func(e *testscript.Env) error {
					e.Vars = append(e.Vars, ownEnv...)
					e.Setenv("MODEL", kind.model)
					kindOf, _, _ := strings.Cut(name, " ")
					e.Setenv("KIND", kindOf)
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

// newSoftHSM makes a token of a SoftHSM in the script's folder and returns its specification.
func newSoftHSM(t *testing.T, e *testscript.Env, label string) string {
	t.Helper()
	conf, tokens, pin := filepath.Join(e.WorkDir, "softhsm2.conf"), filepath.Join(e.WorkDir, "tokens"), filepath.Join(e.WorkDir, "pin")
	e.Setenv("SOFTHSM2_CONF", conf)
	err := errors.Join(os.MkdirAll(tokens, 0o700), os.WriteFile(pin, []byte("0815\n"), 0o600),
		os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-pin", "--pin", "0815")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util of the package softhsm2 (make setup installs it): %v\n%s", err, out)
	}
	return "pkcs11:module=/usr/lib/softhsm/libsofthsm2.so;token=" + label + ";pin-file=" + pin
}

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

// TestTPMErrors runs the scripts about what can be wrong with a TPM.
func TestTPMErrors(t *testing.T) {
	t.Parallel()
	v := swtpm.Start(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/tpm2",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tpm": func(*testscript.TestScript, bool, []string) { v.Clear() }, // tpm clear
		},
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, ownEnv...)
			e.Setenv("TPM", v.Path())
			return errors.Join(os.Chmod(filepath.Join(e.WorkDir, "right"), 0o600), os.Chmod(filepath.Join(e.WorkDir, "wrong"), 0o600))
		},
	})
}
