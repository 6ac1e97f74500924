package pin_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyrack/keyrack/internal/pin"
	"github.com/keyrack/keyrack/internal/securemem"
)

// Not parallel: the environment is the process's.
func TestRead(t *testing.T) {
	securemem.AllowUnlocked(true)
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("PIN_OF_TEST", "from the environment")
	t.Setenv("EMPTY_OF_TEST", "")
	file := func(name, content string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Symlink(file("target", "1234", 0o600), link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	file("credential", "from systemd\n", 0o440)
	file("open", "1234", 0o644)
	longest := strings.Repeat("x", 256)
	for _, c := range []struct {
		source pin.Source
		want   string // "" is refused
	}{
		{pin.Source{File: file("plain", "1234", 0o600)}, "1234"},
		{pin.Source{File: file("unix", "1234\n", 0o400)}, "1234"},
		{pin.Source{File: file("dos", " 12 34 \r\n", 0o600)}, " 12 34 "},
		{pin.Source{File: file("longest", longest+"\r\n", 0o600)}, longest},
		{pin.Source{Env: "PIN_OF_TEST"}, "from the environment"},
		{pin.Source{Credential: "credential"}, "from systemd"},
		{pin.Source{File: file("empty", "\n", 0o600)}, ""},
		{pin.Source{File: file("long", longest+"x", 0o600)}, ""},
		{pin.Source{File: file("lines", "1234\n5678\n", 0o600)}, ""},
		{pin.Source{File: file("zero", "12\x0034", 0o600)}, ""},
		{pin.Source{File: file("group", "1234", 0o640)}, ""},
		{pin.Source{File: filepath.Join(dir, "none")}, ""},
		{pin.Source{File: link}, ""},
		{pin.Source{File: pipe}, ""},
		{pin.Source{File: dir}, ""},
		{pin.Source{Env: "EMPTY_OF_TEST"}, ""},
		{pin.Source{Credential: "none"}, ""},
		{pin.Source{Credential: "open"}, ""},
	} {
		b, err := c.source.Read()
		switch {
		case c.want == "" && !errors.Is(err, pin.ErrUnreadable):
			t.Errorf("%+v: got %v", c.source, err)
		case c.want != "" && (err != nil || string(b.Bytes()) != c.want):
			t.Errorf("%+v: %v", c.source, err)
		}
		if err == nil {
			b.Free()
		}
		if err != nil && strings.Contains(err.Error(), "34") {
			t.Errorf("the PIN is in the error: %v", err)
		}
	}
	if b, err := (pin.Source{}).Read(); b != nil || err != nil {
		t.Errorf("no source: %v, %v", b, err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := (pin.Source{Credential: "credential"}).Read(); !errors.Is(err, pin.ErrUnreadable) {
		t.Errorf("without systemd: %v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, s := range []pin.Source{{}, {File: "/a"}, {Env: "A"}, {Credential: "a.b"}} {
		if err := s.Check(); err != nil || s.Given() != (s != pin.Source{}) {
			t.Errorf("%+v: %v, given: %t", s, err, s.Given())
		}
	}
	for _, s := range []pin.Source{{File: "a"}, {File: "/a", Env: "A"}, {Env: "A", Credential: "a"}, {Credential: "../a"}, {Credential: ".."}, {Credential: "/a"}, {File: "1234"}, {Credential: "/1234"}} {
		if err := s.Check(); !errors.Is(err, pin.ErrSource) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
