//go:build cgo

package remote_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyrack/keyrack/hsm"
	"github.com/keyrack/keyrack/hsm/hsmtest"
	"github.com/keyrack/keyrack/hsm/pkcs11"
	"github.com/keyrack/keyrack/hsm/remote"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// noModule is what a module that is not there is called.
var noModule = pkcs11.ErrModule

// tokens are one of each kind that this build has.
func tokens(t *testing.T) map[string]remote.Config {
	t.Helper()
	return map[string]remote.Config{"soft": config(softSpec(t)), "SoftHSM": softHSMConfig(t)}
}

// TestPKCS11 gives each token a SoftHSM of its own.
func TestPKCS11(t *testing.T) {
	t.Parallel()
	hsmtest.Run(t, func(t *testing.T) hsm.Opener { return opener(softHSMConfig(t)) })
}

func softHSMConfig(t *testing.T) remote.Config {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens"))
	err := errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700), os.WriteFile(conf, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "pin"), []byte("1234"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "kr", "--so-pin", "so-pin", "--pin", "1234")
	cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util of the package softhsm2 (make setup installs it): %v\n%s", err, out)
	}
	return config("pkcs11:module="+softHSM+";token=kr;pin-file="+filepath.Join(dir, "pin"), "SOFTHSM2_CONF="+conf)
}
