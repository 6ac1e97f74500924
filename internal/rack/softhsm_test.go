//go:build cgo

package rack_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/keyrack/keyrack/internal/rack"
)

// TestMain is also the process that holds a PKCS#11 token: an appliance starts the binary that it is in once more.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == rack.TokenProcess {
		if err := rack.HoldToken(context.Background(), os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

// runTests runs the tests with a folder for the tokens of a SoftHSM, which knows of it from the environment.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyrack-softhsm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0") // each process with a token would sleep a second at its end
	os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	return m.Run()
}

// tokens counts those of the SoftHSM.
var tokens atomic.Int64

// newSoftHSM makes a token of the SoftHSM and returns its specification.
func newSoftHSM(t *testing.T) string {
	t.Helper()
	conf := os.Getenv("SOFTHSM2_CONF")
	folder, pin := filepath.Join(filepath.Dir(conf), "tokens"), filepath.Join(t.TempDir(), "pin")
	err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(pin, []byte("0815\n"), 0o600),
		os.WriteFile(conf, []byte("directories.tokendir = "+folder+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	label := fmt.Sprintf("shred-%d", tokens.Add(1))
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-pin", "--pin", "0815").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util of the package softhsm2 (make setup installs it): %v\n%s", err, out)
	}
	return "pkcs11:module=/usr/lib/softhsm/libsofthsm2.so;token=" + label + ";pin-file=" + pin
}

// TestShreddedKeysAreGoneFromPKCS11 as from other tokens: a rotation ends the root by destroying it in the token.
func TestShreddedKeysAreGoneFromPKCS11(t *testing.T) {
	t.Parallel()
	shredOn(t, newSoftHSM(t))
}
