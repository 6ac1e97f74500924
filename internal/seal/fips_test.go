package seal_test

import (
	"crypto/fips140"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/keyrack/keyrack/internal/seal"
)

// enforced is set in the child that TestFIPSOnly starts: the mode is fixed when a process starts.
const enforced = "SEAL_TEST_FIPS_ONLY"

func TestMain(m *testing.M) {
	if os.Getenv(enforced) != "" {
		fmt.Println(sealUnderFIPS())
		return
	}
	os.Exit(m.Run())
}

// sealUnderFIPS uses every construction once and says what came of it.
func sealUnderFIPS() string {
	if !fips140.Enforced() {
		return "fips140=only is not in force"
	}
	h, prk := testHeader(), make([]byte, 32)
	seal.KDF(prk, make([]byte, 32), seal.LabelMessage, h.KDFContext(nil))
	k, err := seal.NewMessageKey(h, prk)
	if err != nil {
		return err.Error()
	}
	blob, err := k.Seal(nil, nil, []byte("message"), context)
	if err != nil {
		return err.Error()
	}
	message, err := k.Open(nil, nil, blob, context)
	if err != nil {
		return err.Error()
	}
	r, err := seal.SealRecord(nil, bucketKey, place, name, []byte("record"))
	if err != nil {
		return err.Error()
	}
	record, err := seal.OpenRecord(nil, bucketKey, place, name, r)
	return fmt.Sprintf("%s %s %v", message, record, err)
}

// Under fips140=only the module refuses whatever is not approved, GCM with a caller's IV included.
func TestFIPSOnly(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), enforced+"=1", "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	if got, want := string(out), "message record <nil>\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
