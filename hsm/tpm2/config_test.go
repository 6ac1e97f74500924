package tpm2_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyrack/keyrack/hsm/tpm2"
	"github.com/keyrack/keyrack/internal/pin"
)

func TestParseConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][3]string{ // path, PIN, owner
		"":                    {},
		"path=/dev/tpm0":      {"/dev/tpm0"},
		"path=tcp:[::1]:2321": {"tcp:[::1]:2321"},
		"pin-file=" + file:    {"", "1234"},
		"owner-file=" + file:  {"", "", "1234"},
		"path=/a;pin-file=" + file + ";owner-file=" + file: {"/a", "1234", "1234"},
	} {
		c, err := tpm2.ParseConfig(text)
		if err != nil || c.Path != want[0] {
			t.Errorf("%q: %v, path %q", text, err, c.Path)
		}
		for i, read := range []func() ([]byte, error){c.PIN, c.Owner} {
			var got []byte
			if read != nil {
				if got, err = read(); err != nil {
					t.Error(err)
				}
			}
			if string(got) != want[1+i] {
				t.Errorf("%q: secret %d is %q", text, i, got)
			}
		}
	}
	for _, text := range []string{
		"path", "path=", "path=tpm0", "path=/a;path=/b", "=", ";", "path=/a;", "colour=red", "pin=1234", "owner=1234", "pin-file=a",
		"pin-file=/a;pin-env=B", "owner-env=A;owner-credential=b", "pin-credential=../a", "PATH=/a",
	} {
		if _, err := tpm2.ParseConfig(text); !errors.Is(err, tpm2.ErrConfig) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, err := tpm2.ParseConfig("pin-file=" + file + ".none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm2.Open(t.Context(), c); !errors.Is(err, pin.ErrUnreadable) {
		t.Errorf("a PIN that is not there: %v", err)
	}
}
